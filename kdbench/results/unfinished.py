"""What an unfinished run keeps in the cache for others to see: how far it is, and which process works on it."""

import msgspec

from kdbench.disk import atomic_write, read_file
from kdbench.folders import RunFolder


class Progress(msgspec.Struct, frozen=True):
    """How far a run is, and the process that works on it, or that did last. Those of older versions lack the process.
    """

    epoch: int                     # the last that ended
    epochs: int
    accuracy: float | None = None  # on validation images, after the last epoch for which that is known
    seconds: float = 0.0           # of training, so far
    host: str | None = None        # the machine of the process
    process: int | None = None     # its id there
    started: str | None = None     # when it began, as records write times


def read_progress(folder: RunFolder) -> Progress | None:
    """What the run tells of itself; None if that is nothing that can be read."""
    try:
        return msgspec.json.decode(read_file(folder.progress), type=Progress)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None


def write_progress(folder: RunFolder, progress: Progress) -> None:
    """Tell how far the run is, by a file: a queue's lock could die with a killed worker. OSError if the file cannot be
    written."""
    atomic_write(folder.progress, msgspec.json.encode(progress), sync=False)
