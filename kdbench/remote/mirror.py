"""A mirror: the local copy of a folder of results on an object store. Only what differs is downloaded or uploaded.

For each of the mirror's files, the index holds which version at the store it equals, and its date, size and inode, by
which it is seen whether the file has changed here since. A file that changed at the store is downloaded, a file that
changed here is uploaded; if both changed, the store's version is kept. Networks are downloaded only for commands that
need them.

Files that records name are uploaded and downloaded first, then the records, then the rest, while listings have the
records before the files that they name: a record never names a file that is not there. Nothing is removed at the store,
except for files that were renamed here since they are damaged, and plots that a report no longer has.
"""

import fcntl
import os
import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from kdbench.disk import InUse, atomic_write, is_locked, locked, open_file, read_file
from kdbench.errors import UserError
from kdbench.folders import REPORT, MirrorFolder, ResultsFolder
from kdbench.remote.bucket import Bucket, Found

THREADS = 8  # files that are transferred at a time

_NAMES = ResultsFolder(Path())
NETWORKS = _NAMES.student("x").parent.name
PLOTS = "plots"
ARTEFACTS = (NETWORKS, _NAMES.predictions("x").parent.name)  # folders with the files that records name
RECORDS = _NAMES.records.name
FOLDERS = (*ARTEFACTS, RECORDS, _NAMES.plans.name, _NAMES.profiles.name, _NAMES.robustness("x").parent.name,
           _NAMES.tuning.root.name, _NAMES.plugin("x").parent.name, PLOTS, _NAMES.compressed_network("x").parent.name,
           _NAMES.compressed.name)
FILES = (*(path.name for path in (
    _NAMES.merged, _NAMES.release, _NAMES.suite, _NAMES.packages, _NAMES.submitted)),
         *(name for name in REPORT if name != PLOTS))
ASIDE = ".corrupt-"  # in the names that `disk.set_aside` gives to damaged files

State = tuple[int, int, int]  # of a local file: size, date in nanoseconds, inode


class Known(msgspec.Struct, frozen=True):
    """A file that was last seen to be the same here and at the store."""

    version: str  # at the store
    local: State


class Index(msgspec.Struct):
    """The content of a mirror's index."""

    url: str
    machine: str = msgspec.field(default_factory=lambda: secrets.token_hex(8))  # the mirror's own name
    files: dict[str, Known] = msgspec.field(default_factory=dict)


class Mirror:
    """The mirror of one URL. Making this object changes nothing, here or at the store."""

    def __init__(self, folder: MirrorFolder, bucket: Bucket):
        self.folder, self.bucket = folder, bucket
        self._ours = False  # whether this command is the one that writes here
        self._pushing = threading.Lock()  # after Ctrl-C, the thread that uploads may still be at it

    # One command at a time.

    @contextmanager
    def written(self) -> Iterator[str]:
        """Hold the mirror for this command, which writes, and yield the mirror's own name. UserError if another command
        of this machine that writes holds it."""
        with _locked(self.folder.writer_lock, fcntl.LOCK_EX | fcntl.LOCK_NB, self.bucket.url):
            with self._indexed() as index:
                pass
            self._ours = True
            try:
                yield index.machine
            finally:
                self._ours = False

    @contextmanager
    def _indexed(self) -> Iterator[Index]:
        """Lock the index and yield it; on exit, write it if it changed."""
        with _locked(self.folder.index_lock, fcntl.LOCK_EX, self.bucket.url):
            index = read_index(self.folder) or Index(self.bucket.url)
            before = msgspec.json.encode(index)
            try:
                yield index
            finally:
                after = msgspec.json.encode(index)
                if after != before or not self.folder.index.exists():
                    atomic_write(self.folder.index, after)

    # Downwards.

    def pull(self, networks: bool) -> None:
        """Bring the mirror up to date with the store. Networks that it does not hold are downloaded only if `networks`.
        While another command of this machine writes into the mirror, files are only added."""
        records = self._listed(RECORDS)  # listed before the files that they name, which are then there
        there = {**self._listed(), **records}
        there = {name: found for name, found in there.items() if name in records or not name.startswith(f"{RECORDS}/")}
        if not there and not self.folder.root.is_dir():
            return
        with self._indexed() as index:
            add_only = not self._ours and is_locked(self.folder.writer_lock)
            here = local_files(self.folder)
            wanted = []
            for name in here.keys() | index.files.keys() | there.keys():
                found, known, state = there.get(name), index.files.get(name), here.get(name)
                changed_there = found is not None and (known is None or known.version != found.version)
                if add_only:
                    if state is None and known is None and found is not None and _needed(name, networks):
                        wanted.append(name)
                elif found is None:
                    if known is not None and known.local == state:  # removed there, and unchanged here
                        (self.folder.results / name).unlink(missing_ok=True)
                    index.files.pop(name, None)
                elif state is None:
                    index.files.pop(name, None)
                    if _needed(name, networks):
                        wanted.append(name)
                elif changed_there:
                    wanted.append(name)
            self._fetch(index, {name: there[name] for name in wanted})

    def bring(self, name: str) -> None:
        """Download one file, unless it is here already or not at the store."""
        if (self.folder.results / name).exists() or (found := self._listed(name).get(name)) is None:
            return
        with self._indexed() as index:
            self._fetch(index, {name: found})

    def _listed(self, folder: str = "") -> dict[str, Found]:
        return {name: found for name, found in self.bucket.list(folder).items() if is_ours(name)}

    def _fetch(self, index: Index, wanted: dict[str, Found]) -> None:
        def one(name: str) -> None:
            content = self.bucket.read(name, wanted[name].size)
            if content is not None:  # None: removed since it was listed
                path = self.folder.results / name
                atomic_write(path, content)
                index.files[name] = Known(wanted[name].version, _state(path.stat()))

        for group in _in_order(wanted):
            _all(one, group)

    # Upwards.

    def push(self, check: Callable[[], None] = lambda: None) -> None:
        """Upload the files that have changed here, and remove at the store those that were removed here on purpose (see
        `_was_removed`). `check` is called before each file; an exception that it raises ends the upload."""
        with self._pushing:
            with self._indexed() as index:
                here, known = local_files(self.folder), dict(index.files)
            changed = [name for name, state in here.items() if name not in known or known[name].local != state]
            went: dict[str, Known | None] = {}  # None: it was removed

            def one(name: str) -> None:
                check()
                with suppress(FileNotFoundError):  # replaced or set aside just now: uploaded the next time
                    file = open_file(self.folder.results / name)
                    with os.fdopen(file, "rb") as opened:
                        state, content = _state(os.fstat(file)), opened.read()
                    if state != here[name] and name.partition("/")[0] not in ARTEFACTS:
                        return  # a newer record may name files that were not there when they were listed
                    went[name] = Known(self.bucket.write(name, content).version, state)

            try:  # without the index's lock, for which commands that read would wait
                for group in _in_order(changed):
                    _all(one, group)
                for name in [name for name in known if name not in here and _was_removed(name, here)]:
                    check()
                    self.bucket.remove(name)
                    went[name] = None
            finally:
                with self._indexed() as index:
                    files = {**index.files, **went}
                    index.files = {name: known for name, known in files.items() if known is not None}


# The files of a mirror.

def is_ours(name: str) -> bool:
    """Whether a folder of results may have a file with this name. Files with other names, at the store or in a mirror,
    are left alone."""
    first, *others = parts = name.split("/")
    if not all(part and not part.startswith(".") and "\0" not in part and "\\" not in part for part in parts):
        return False
    return first in FOLDERS if others else first.partition(ASIDE)[0] in FILES


def local_files(folder: MirrorFolder) -> dict[str, State]:
    """The states of a mirror's files, by name. Records are listed before the files that they name, so that the files of
    every record that is listed are listed, too."""
    found: dict[str, State] = {}
    others = [name for name in FOLDERS if name != RECORDS and name not in ARTEFACTS]
    for top in (*others, RECORDS, *ARTEFACTS, ""):
        place = folder.results / top
        for parent, folders, files in os.walk(place):
            folders[:] = [] if not top else folders
            for file in files:
                path = Path(parent) / file
                name = path.relative_to(folder.results).as_posix()
                if is_ours(name):
                    with suppress(OSError):
                        found[name] = _state(path.stat())
    return found


def not_uploaded(folder: MirrorFolder) -> int:
    """The number of files in a mirror that are not the same at the store, as far as the index knows."""
    index = read_index(folder)
    known = {} if index is None else index.files
    return sum(name not in known or known[name].local != state for name, state in local_files(folder).items())


def read_index(folder: MirrorFolder) -> Index | None:
    """The index of a mirror; None if there is none or it cannot be read: every file then counts as changed."""
    try:
        return msgspec.json.decode(read_file(folder.index), type=Index)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None


def _state(status: os.stat_result) -> State:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _needed(name: str, networks: bool) -> bool:
    return networks or not name.startswith(f"{NETWORKS}/")


def _was_removed(name: str, here: Collection[str]) -> bool:
    """Whether a file that is not here any more is to be removed at the store: it is a plot, or was renamed as
    damaged."""
    return name.startswith(f"{PLOTS}/") or any(other.startswith(f"{name}{ASIDE}") for other in here)


def _in_order(names: Iterable[str]) -> Iterator[list[str]]:
    """The names in three groups, which are transferred one after another: what records name, the records, the rest."""
    groups: tuple[list[str], list[str], list[str]] = ([], [], [])
    for name in sorted(names):
        top = name.partition("/")[0]
        groups[0 if top in ARTEFACTS else 1 if top == RECORDS else 2].append(name)
    yield from groups


def _all(function: Callable[[str], None], names: list[str]) -> None:
    """Call the function for all names, up to `THREADS` at a time. If a call fails, those that have not begun are
    cancelled, and the first error is raised once the others have ended."""
    if names:
        with ThreadPoolExecutor(min(THREADS, len(names))) as pool:
            futures = [pool.submit(function, name) for name in names]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


@contextmanager
def _locked(path: Path, how: int, url: str) -> Iterator[None]:
    """Hold the lock file `path`, locked by `fcntl.flock` as `how` says. UserError if `how` does not wait and another
    process has the lock."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(path, how))
        except InUse as error:
            raise UserError(f"{url}: in use by another kdbench on this machine (process {error})") from error
        yield
