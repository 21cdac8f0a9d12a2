"""How far an unfinished run is and which process works on it, in a file of the cache that other processes read."""

import msgspec

from kdbench.disk import atomic_write, read_file
from kdbench.folders import RunFolder


class Progress(msgspec.Struct, frozen=True):
    """How far a run is, and which process works on it or did so last. Files of older versions name no process."""

    epoch: int                     # number of the last epoch that ended; 0: none yet
    epochs: int
    accuracy: float | None = None  # on the validation split, after the last epoch that was validated
    seconds: float = 0.0           # of training, so far
    host: str | None = None        # the machine of the process
    process: int | None = None     # the id of the process on that machine
    started: str | None = None     # when the process began, in UTC as in records


def read_progress(folder: RunFolder) -> Progress | None:
    """The progress that a run last wrote; None if it wrote none, or none that can be read."""
    try:
        return msgspec.json.decode(read_file(folder.progress), type=Progress)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None


def write_progress(folder: RunFolder, progress: Progress) -> None:
    """Write how far the run is to a file, not to a queue between processes, since a killed worker could leave a queue
    locked. Raises OSError if the file cannot be written."""
    atomic_write(folder.progress, msgspec.json.encode(progress), sync=False)
