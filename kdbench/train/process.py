"""TODO."""

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path

import torch

from kdbench.errors import UserError
from kdbench.train.trainer import Trainer

# The process.

def make_deterministic(device: torch.device) -> None:
    """One thread on a CPU; on a GPU deterministic kernels, and a warning for each operation that has none."""
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Wait until no other process works on the same run: two suites may need one teacher."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        flock(file, LOCK_EX)
        yield


def _report(folder: Path, trainer: Trainer, accuracy: float, seconds: float) -> None:
    """Tell the parent how far the run is, by a file: a queue's lock could die with a killed worker."""
    progress = {"epoch": trainer.epoch, "epochs": trainer.recipe.epochs, "accuracy": accuracy, "seconds": seconds}
    temporary = folder / "progress.json.tmp"
    temporary.write_text(json.dumps(progress))
    temporary.replace(folder / "progress.json")


def crash_reason(error: Exception) -> str:
    """In one line."""
    if isinstance(error, UserError):
        return f"crashed: {error}"
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return "crashed: out of memory"
    return f"crashed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def peak_memory(device: torch.device) -> int:
    """The most that this process held at a time, in bytes: allocated on a GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
