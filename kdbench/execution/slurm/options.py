"""The options of `--slurm KEY=VALUE`: how tasks are packed into Slurm jobs, and what each job asks for."""

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdbench.errors import UserError, nearest
from kdbench.execution.cluster.options import last, read_number

NOT_INSTALLED = "--executor slurm: submitit is not installed: pip install 'kdbench[slurm]'"
TIME = re.compile(r"(?:(?P<days>\d{1,9})-)?(?P<first>\d{1,9})(?::(?P<second>\d{1,9}))?(?::(?P<third>\d{1,9}))?")
# kdbench's own keys with numbers, each with the least value that it may have.
OWN = {"pack": 1, "at_once": 1, "poll": 0.1}
# submitit's keys that kdbench itself sets: another value would change what a job is.
NOT_YOURS = {"job_name", "nodes", "ntasks_per_node", "num_gpus", "use_srun", "srun_args", "dependency",
             "stderr_to_stdout", "array_parallelism"}
LISTS = ("setup", "teardown")  # keys that may be repeated, for a list of shell commands


@dataclass(frozen=True)
class Options:
    """How tasks become Slurm jobs."""

    pack: int | None = None  # tasks in a Slurm job, one after another; None: as many as take some minutes together
    at_once: int = 1         # tasks of a Slurm job that are run at a time
    poll: float = 15.0       # seconds between two looks at the cluster's queue
    python: str = shlex.quote(sys.executable)  # the shell's words for the interpreter on the nodes
    asked: Mapping[str, Any] = field(default_factory=dict)  # what each Slurm job asks for, by submitit's names


def read_options(given: Mapping[str, Any]) -> Options:
    """The options that keys and values of `--slurm` name. UserError for an unknown key, for an invalid value, and if
    submitit is not installed.

    `pack`, `at_once`, `poll` and `python` are those of `Options`. `partition`, `account`, `time`, `mem`,
    `gpus_per_node`, `cpus_per_task`, `qos`, `constraint`, `exclude`, `setup` and so on are parameters of submitit, and
    `sbatch.NAME` is any other option of sbatch. `time` is in minutes, or as Slurm writes it: 12:00:00, 2-12.
    """
    try:
        from submitit.slurm.slurm import SlurmExecutor
    except ImportError as error:
        raise UserError(NOT_INSTALLED) from error
    allowed = set(SlurmExecutor._valid_parameters()) - NOT_YOURS - {"additional_parameters"}
    own: dict[str, Any] = {}
    asked: dict[str, Any] = {"wckey": None}  # without this submitit sets its own, which some clusters refuse
    further: dict[str, Any] = {}
    for key, said in given.items():
        value = said if key in LISTS else last(said)
        if key in OWN:
            own[key] = read_number(f"--slurm {key}", value, OWN[key], whole=key != "poll")
        elif key == "python":
            own[key] = str(value)
        elif key.startswith("sbatch.") and key != "sbatch.":
            further[key.removeprefix("sbatch.")] = value
        elif key not in allowed:
            raise UserError(f"--slurm {key}: unknown key{nearest(key, allowed | {*OWN, 'python', 'sbatch.NAME'})}")
        else:
            asked[key] = _minutes(value) if key == "time" else \
                [value] if key in LISTS and isinstance(value, str) else value
    options = Options(**own)
    if options.at_once > 1:
        asked.setdefault("cpus_per_task", options.at_once)
    # A job whose node dies or is preempted goes back into the queue, even where that is not the cluster's default.
    return Options(**own, asked={**asked, "additional_parameters": {"requeue": True, **further}})


def _minutes(value: Any) -> int:
    """A time limit in minutes, rounded up. It is given as a number of minutes or as Slurm writes it: M, M:S, H:M:S,
    D-H, D-H:M, D-H:M:S. UserError for anything else, and for less than a minute."""
    found = TIME.fullmatch(str(value).strip())
    if found is None:
        raise UserError(f"--slurm time={str(value)[:100]}: expected minutes, or a time such as 12:00:00 or 2-12")
    days, *parts = (int(part) if part is not None else None for part in found.groups())
    first, second, third = parts
    if days is not None:
        seconds = days * 86400 + (first or 0) * 3600 + (second or 0) * 60 + (third or 0)
    elif third is not None:
        seconds = (first or 0) * 3600 + (second or 0) * 60 + third
    else:
        seconds = (first or 0) * 60 + (second or 0)
    if seconds < 60:
        raise UserError(f"--slurm time={value}: expected at least a minute")
    return -(-seconds // 60)
