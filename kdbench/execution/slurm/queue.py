"""What the cluster says: its queue of jobs, and its refusals in one line that says what to do.

Only `squeue`, `sbatch` and `scancel` are used, never the accounting, which small clusters do not have.
"""

import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kdbench.errors import UserError, plain

SECONDS = 60.0  # that a command of Slurm may take at most
# States in which a job has ended for good. A job in any other one runs, or will run.
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
         "REVOKED", "TIMEOUT"}
# Reasons that the queue gives for jobs that would wait for ever, and what helps.
STUCK = {
    "PartitionTimeLimit": "ask for less with --slurm time=",
    "PartitionNodeLimit": "choose another with --slurm partition=",
    "BadConstraints": "no node has all that is asked for: see --slurm constraint= and mem=",
    "JobHeldAdmin": "an administrator, or a start that failed, holds it: `scontrol release` lets it go",
    "JobHeldUser": "`scontrol release` lets it go",
    "AssocGrpCPUMinutesLimit": "the account's time is used up: --slurm account= names another",
    "AssocGrpBillingMinutes": "the account's time is used up: --slurm account= names another",
    "launch failed requeued held": "a node could not start it: see the log of its slurmd",
}
NO_ANSWER = "the cluster does not answer; what was submitted goes on, and the same command continues once " \
            "`scontrol ping` says UP"
# Words of a refusal, the key of --slurm that is at fault if it was given, and what helps.
REFUSALS = (
    ("establish a configuration source", "", "this machine belongs to no cluster: start the command on a login node, "
     "or name the cluster's file in SLURM_CONF"),
    ("invalid partition", "partition", "`sinfo` lists the partitions, --slurm partition= names one"),
    ("invalid account", "account", "--slurm account= names one of yours; `sacctmgr show associations user=$USER` lists "
     "them"),
    ("invalid qos", "qos", "--slurm qos= names one of yours; `sacctmgr show qos` lists them"),
    ("accounting/qos policy", "", "a quota of yours is reached: ask for less time, or start the same command again "
     "when some of your jobs have ended"),
    ("time limit", "time", "--slurm time= asks for less; `sinfo -o '%P %l'` lists the limits"),
    ("node configuration is not available", "", "no node has all that is asked for: less with --slurm mem=, "
     "cpus_per_task= or gpus_per_node="),
    ("memory", "mem", "--slurm mem= asks for less"),
    ("--mem ", "mem", "write it as 4000M or 4G"),
    ("generic resource", "gres", "`sinfo -o '%P %G'` lists the partitions' GPUs"),
    ("contact slurm controller", "", NO_ANSWER),
    ("socket timed out", "", NO_ANSWER),
    ("connection refused", "", NO_ANSWER),
    ("authentication", "", "munge, which tells the cluster who you are, does not work on this machine: ask its "
     "administrator"),
)
REFUSED = "Batch job submission failed: "
QUOTA = "accounting/qos policy"


class QueueError(Exception):
    """The cluster refused something, or did not answer; the message is one line of its own words."""

    def user_error(self, asked: Mapping[str, Any]) -> UserError:
        """The error that ends the command and says what to do; `asked` is what the jobs ask for, by submitit's
        names."""
        said = str(self)
        key, advice = next(((key, advice) for words, key, advice in REFUSALS if words in said.lower()), ("", ""))
        what = f"--slurm {key}={asked[key]}" if asked.get(key) is not None else "--executor slurm"
        return UserError(f"{what}: {said}{'; ' if advice else ''}{advice}")

    @property
    def is_quota(self) -> bool:
        """Whether a quota is reached, so that jobs may be submitted once others have ended."""
        return QUOTA in str(self).lower()

    @property
    def is_silence(self) -> bool:
        """Whether the cluster did not answer, and may do so later."""
        return any(words in str(self).lower() for words, _, advice in REFUSALS if advice == NO_ANSWER)


@dataclass(frozen=True)
class Seen:
    """A Slurm job, or one element of an array of jobs, as the queue shows it."""

    id: str
    name: str
    state: str
    node: str
    reason: str

    @property
    def index(self) -> int:
        """The job's place in its array; 0 if it is in none."""
        return int(self.id.partition("_")[2] or 0)

    @property
    def alive(self) -> bool:
        return self.state not in ENDED


def look(names: Collection[str]) -> list[Seen]:
    """The jobs with one of these names that the queue shows: those that wait or run and, for some minutes, those that
    have ended. QueueError if the cluster does not answer."""
    if not names:
        return []
    lines = ask("squeue", "--noheader", "--array", "--states=all", f"--name={','.join(sorted(names))}",
                "--format=%i|%j|%T|%N|%r").splitlines()
    return [Seen(*line.strip().split("|", 4)) for line in lines if line.count("|") >= 4]


def cancel(*which: str) -> None:
    """Cancel jobs, by their ids or by "--name=NAME". QueueError if the cluster does not answer; cancelling a job that
    has ended is no error."""
    if which:
        ask("scancel", "--quiet", *which)


def ask(*command: str) -> str:
    """The standard output of a command of Slurm. QueueError, with the command's complaint, if it fails or does not end
    in time; UserError if it is not installed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS,
                              stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise UserError(f"--executor slurm: {command[0]} is not installed here: start the command on a machine of the "
                        "cluster, where Slurm's commands are") from error
    except OSError as error:
        raise QueueError(f"{command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise QueueError(f"{command[0]}: Socket timed out: no answer in {SECONDS:g} seconds") from error
    if done.returncode:
        raise QueueError(complaint(done.stderr) or f"{command[0]} ended with exit code {done.returncode}")
    return done.stdout


def complaint(text: str) -> str:
    """The line of what a command of Slurm printed that says what is wrong, at most 300 characters; "" if there is
    none."""
    lines = [plain(line) for line in text.splitlines() if line.strip()]
    refused = [line.partition(REFUSED)[2] for line in lines if REFUSED in line]
    return (refused or lines or [""])[-1][:300]
