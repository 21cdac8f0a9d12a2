"""Reading the values of options such as `--slurm KEY=VALUE` and `--ray KEY=VALUE`."""

from typing import Any

from kdbench.errors import UserError

WORKERS = 256  # tasks at a time on a cluster, unless another number is given
MOST = 1e15    # the largest number that an option may have


def last(said: Any) -> Any:
    """The value of a key; the last one, if `said` is a list since the key was repeated."""
    return said[-1] if isinstance(said, list) else said


def read_number(option: str, value: Any, least: float, whole: bool = False) -> Any:
    """The number that is the value of an option, such as "--slurm pack"; an integer if `whole`. UserError if the value
    is no number, below `least`, or above `MOST`."""
    try:
        number = int(str(value)) if whole else float(str(value))
    except ValueError as error:
        raise UserError(f"{option}={str(value)[:100]}: expected a number") from error
    if not least <= number <= MOST:
        raise UserError(f"{option}={str(value)[:100]}: expected at least {least:g}, and at most {MOST:g}")
    return number
