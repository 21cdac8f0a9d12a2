"""How values of options such as `--slurm KEY=VALUE` and `--ray KEY=VALUE` are read."""

from typing import Any

from kdbench.errors import UserError

WORKERS = 256  # tasks at a time in a cluster, unless another number is asked for
MOST = 1e15    # that any number may be


def last(said: Any) -> Any:
    """The value of a key that may have come again: the last."""
    return said[-1] if isinstance(said, list) else said


def read_number(option: str, value: Any, least: float, whole: bool = False) -> Any:
    """The number that an option such as "--slurm pack" has as its value. UserError if it is none, below `least`, or
    above `MOST`."""
    try:
        number = int(str(value)) if whole else float(str(value))
    except ValueError as error:
        raise UserError(f"{option}={str(value)[:100]}: expected a number") from error
    if not least <= number <= MOST:
        raise UserError(f"{option}={str(value)[:100]}: expected at least {least:g}, and at most {MOST:g}")
    return number
