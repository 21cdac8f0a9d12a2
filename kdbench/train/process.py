"""The process of one run: deterministic numerics, the lock against other processes, progress reports, peak memory, and
the reason of a crash."""

import os
import platform
import re
import resource
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

import msgspec
import torch

from kdbench.disk import explain
from kdbench.errors import UserError
from kdbench.execution.job import Job
from kdbench.folders import RunFolder
from kdbench.results.unfinished import Progress, read_progress, write_progress
from kdbench.spec import PORTABLE
from kdbench.train.portable import make_portable
from kdbench.train.trainer import Trainer

TELL_EVERY = 0.5  # minimum seconds between two reports of progress


def make_deterministic(name: str) -> torch.device:
    """Make this process compute deterministically from now on, and return the torch device for `name`. A CPU uses one
    thread, and for "cpu-portable" code that gives the same bits on all processors. A GPU uses deterministic kernels,
    and torch warns of each operation that has none."""
    if name == PORTABLE:
        make_portable()
        name = "cpu"
    device = torch.device(name)
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        for enable in (torch.backends.cuda.enable_flash_sdp, torch.backends.cuda.enable_mem_efficient_sdp,
                       torch.backends.cuda.enable_cudnn_sdp):
            enable(False)  # with `warn_only`, these attention kernels stay nondeterministic; plain products do not
    return device


@contextmanager
def nondeterminism_noted(notes: list[str]) -> Iterator[None]:
    """Within the context, add one note for each operation of which torch warns that it has no deterministic kernel on
    this device. Other warnings are shown as usual."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Warning | str, *where: Any, **more: Any) -> None:
            if found := re.match(r"(\w+) does not have a deterministic implementation", str(message)):
                told = f"{found[1]} has no deterministic kernel on this device: a rerun may differ in its last digits"
                notes.extend([told] if told not in notes else [])
            else:
                show(message, *where, **more)

        warnings.showwarning = note
        yield


@contextmanager
def only_one(folder: RunFolder) -> Iterator[None]:
    """Hold the lock of the run's folder, after waiting until no other process works on the same run: two suites may
    need the same teacher."""
    folder.root.mkdir(parents=True, exist_ok=True)
    file = os.open(folder.lock, os.O_RDWR | os.O_CREAT)  # O_WRONLY would wait for a reader if it is a pipe
    try:
        flock(file, LOCK_EX)
        yield
    finally:
        os.close(file)


def report_start(job: Job, folder: RunFolder, started: str) -> Progress:
    """Report that this process works on the run from now on, and return the reported progress. If there is a
    checkpoint, epoch, accuracy and seconds are those that the run's last process reported; otherwise they start from
    zero."""
    before = (read_progress(folder) if folder.checkpoint.exists() else None) or Progress(0, 0)
    progress = msgspec.structs.replace(before, epochs=job.spec.training.epochs, host=platform.node(),
                                       process=os.getpid(), started=started)
    write_progress(folder, progress)
    return progress


def report_progress(folder: RunFolder, start: Progress, trainer: Trainer, seconds: float) -> None:
    """Report the trainer's epoch, its last validation accuracy, and the seconds of training so far. `start` is the
    progress that `report_start` returned."""
    known = trainer.curves.get("validation_accuracy")
    write_progress(folder, msgspec.structs.replace(
        start, epoch=trainer.epoch, accuracy=known[-1] if known else None, seconds=seconds))


def crash_reason(error: Exception, file: Path | None = None) -> str:
    """Describe the exception in one line, as the reason in a record. An unexpected exception is described with the last
    line of the method's `file` that it passed through, if any."""
    if isinstance(error, UserError):
        return f"crashed: {error}"
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return "crashed: out of memory"
    if isinstance(error, OSError):
        return f"crashed: {explain(error)}"
    return f"crashed: {type(error).__name__}: {' '.join(str(error).split())[:300]}{place_in(error, file)}"


def place_in(error: Exception, file: Path | None) -> str:
    """The last line of the file that the exception passed through, as " (NAME.py, line 12)"; "" if it passed through
    none."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if file is not None and Path(frame.filename) == file.absolute()]
    return f" ({file.name}, line {lines[-1]})" if file is not None and lines else ""


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak memory to what this process holds now, where the system allows it (Linux, CUDA)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """The peak memory of this process in bytes: what was allocated on the GPU for a CUDA device, otherwise resident
    memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
