"""Reading and writing files. A file is written atomically: at every moment it holds either all of the old content or
all of the new."""

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

REMEDIES = {
    errno.ENOSPC: "free some space and start the command again: what is finished is kept",
    errno.EDQUOT: "free some of your quota and start the command again: what is finished is kept",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f) and start the command again: what is finished is kept",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EROFS: "choose a folder that can be written, with --out for results or KDBENCH_CACHE for the cache",
    errno.EACCES: "choose a folder that can be written, with --out for results or KDBENCH_CACHE for the cache",
    errno.EPERM: "choose a folder that can be written, with --out for results or KDBENCH_CACHE for the cache",
}
TEMPORARY = ".tmp"  # suffix of files that are still being written; their names begin with a dot


def atomic_write(path: Path, content: bytes | Iterable[bytes], *, sync: bool = True) -> None:
    """Write `content`, given whole or in pieces, to a temporary file beside `path` and rename that to `path`. Missing
    parent folders are made.

    With `sync` the new content survives a power cut once this returns. Without it, a power cut may leave a damaged
    file, so the content must carry a digest of its own. OSError if the file cannot be written; no temporary file
    remains then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        set_aside(path)  # a folder that stands in a file's place is the one thing that a rename cannot replace
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno is not None and error.filename is None:
            error.filename = str(path)  # a full disk names no file
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def sweep(folder: Path, older_than: float = 0.0, name: str = "") -> None:
    """Remove the temporary files that killed processes left below `folder`, of files whose name begins with `name`, if
    they were last changed at least `older_than` seconds ago.

    A live process renames its temporary file soon after writing it, so older ones are left over.
    """
    for path in below(folder):
        if path.name.startswith(f".{name}") and path.name.endswith(TEMPORARY):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime >= older_than:
                    path.unlink()


def below(folder: Path) -> Iterator[Path]:
    """All files and folders below a folder, some of which may have been removed by the time they are yielded. Unlike
    `Path.rglob`, this does not fail if another process removes a folder meanwhile."""
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))


def explain(error: OSError) -> str:
    """An error of the operating system in one line: the file, what happened, and a remedy if one is known."""
    what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    advice = REMEDIES.get(error.errno or 0)
    return f"{what}; {advice}" if advice else what


def sync_folder(folder: Path) -> None:
    """Make the renames done in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def need_writable(folder: Path) -> None:
    """Raise OSError unless files can be made in `folder` or, if it does not exist, in its nearest existing parent.
    Nothing is written for this check."""
    place = _there(folder)
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))


def need_locks(folder: Path) -> None:
    """Raise OSError unless files can be locked in `folder` or, if it does not exist, in its nearest existing parent.
    This is tried on a temporary file without a name."""
    with tempfile.TemporaryFile(dir=_there(folder)) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _there(folder: Path) -> Path:
    """The folder itself if it exists, else its nearest existing parent."""
    return next((place for place in (folder, *folder.absolute().parents) if os.path.lexists(place)), Path("/"))


def set_aside(path: Path) -> Path:
    """Rename a damaged file to NAME.corrupt-N, so that its work can be redone, and return the new path."""
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    path.rename(aside)
    sync_folder(path.parent)
    return aside


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal. OSError if it cannot be read."""
    with os.fdopen(open_file(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_file(path: Path | str) -> int:
    """Open a regular file for reading and return its descriptor. OSError if it cannot be opened or is anything else: a
    pipe would keep its reader waiting, and a device may never end."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # if `path` is a pipe, do not wait for a writer
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def read_file(path: Path | str) -> bytes:
    """The whole content of a regular file. For small files this takes half the time of Python's file objects. OSError
    if it cannot be read."""
    file = open_file(path)
    try:
        parts = []
        while part := os.read(file, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(file)


class InUse(Exception):
    """Another process holds the lock; the message names the process and its machine, or is "unknown"."""


class NoLocks(OSError):
    """A file cannot be locked, for example on some network file systems."""


@contextmanager
def locked(path: Path, how: int) -> Iterator[None]:
    """Hold a lock file while the context lasts. It is locked by `fcntl.flock` with the flags `how`, made if it does not
    exist, and holds this process's id and machine. OSError if it cannot be opened, `NoLocks` if it cannot be locked,
    `InUse` if another process holds it and `how` says not to wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, how)
        except BlockingIOError as error:
            file.seek(0)
            raise InUse(file.read().strip() or "unknown") from error
        except OSError as error:
            raise NoLocks(error.errno, f"flock: {error.strerror}", str(path)) from error
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file, on this machine or, if the file system shares its locks, on another. False
    if the file does not exist, or cannot be opened or locked."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # if it is a pipe, do not wait for a writer
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # on NFS, LOCK_EX needs a file open for writing
        return False
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(file)


def json_files(folder: Path) -> list[str]:
    """The paths of the JSON files in `folder`, sorted, without temporary files; empty if the folder does not exist."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # strings: making a Path takes as long as parsing a small file
        return sorted(entry.path for entry in entries if entry.name.endswith(".json") and entry.name[0] != ".")


def free_space(folder: Path) -> int:
    """The free bytes on the disk of `folder` or, if it does not exist, of its nearest existing parent."""
    return shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free
