"""A local folder of results that is the same as one on an object store: what differs is brought down, or up.

The mirror's index tells of each of its files which version at the store it is, and by date, size and inode whether it
changed here since. What changed at the store comes down; what changed here goes up; where both did, the store's stays.
Networks come down only for commands that need them.

Upwards the files that records name go first, then the records, then the rest; downwards and in listings the same order
holds, so that a record never names a file that is not there. Nothing is removed at the store, but for what was set
aside here under another name and for plots that a report has no longer.
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

THREADS = 8  # files that go up or down at a time

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
ASIDE = ".corrupt-"

State = tuple[int, int, int]  # of a local file: size, date in nanoseconds, inode


class Known(msgspec.Struct, frozen=True):
    """A file that is here as it is at the store."""

    version: str
    local: State


class Index(msgspec.Struct):
    """What a mirror's index holds."""

    url: str
    machine: str = msgspec.field(default_factory=lambda: secrets.token_hex(8))
    files: dict[str, Known] = msgspec.field(default_factory=dict)


class Mirror:
    """The mirror of one URL. Making one touches nothing."""

    def __init__(self, folder: MirrorFolder, bucket: Bucket):
        self.folder, self.bucket = folder, bucket
        self._ours = False  # whether this command is the one that writes here
        self._pushing = threading.Lock()  # after Ctrl-C, the thread that uploads may still be at it

    # One command at a time.

    @contextmanager
    def written(self) -> Iterator[str]:
        """Hold the mirror for one command of this machine that writes; gives the mirror's own name. UserError if
        another one does."""
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
        """The index, which is written at the end if it changed."""
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
        """Bring the mirror up to date, with the networks of all runs or without those that it does not hold. While
        another command of this machine writes here, files are only added."""
        records = self._listed(RECORDS)  # before the files that they name, which are there then
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
                    if known is not None and known.local == state:  # removed there, and as it was here
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
        """Bring one file down, unless it is here or nowhere."""
        if (self.folder.results / name).exists() or (found := self._listed(name).get(name)) is None:
            return
        with self._indexed() as index:
            self._fetch(index, {name: found})

    def _listed(self, folder: str = "") -> dict[str, Found]:
        return {name: found for name, found in self.bucket.list(folder).items() if is_ours(name)}

    def _fetch(self, index: Index, wanted: dict[str, Found]) -> None:
        def one(name: str) -> None:
            content = self.bucket.read(name, wanted[name].size)
            if content is not None:  # removed since it was listed
                path = self.folder.results / name
                atomic_write(path, content)
                index.files[name] = Known(wanted[name].version, _state(path.stat()))

        for group in _in_order(wanted):
            _all(one, group)

    # Upwards.

    def push(self, check: Callable[[], None] = lambda: None) -> None:
        """Upload what changed here. `check` is called before each file, and ends the upload by what it raises."""
        with self._pushing:
            with self._indexed() as index:
                here, known = local_files(self.folder), dict(index.files)
            changed = [name for name, state in here.items() if name not in known or known[name].local != state]
            went: dict[str, Known | None] = {}  # None: it was removed

            def one(name: str) -> None:
                check()
                with suppress(FileNotFoundError):  # replaced or set aside just now: the next time
                    file = open_file(self.folder.results / name)
                    with os.fdopen(file, "rb") as opened:
                        state, content = _state(os.fstat(file)), opened.read()
                    if state != here[name] and name.partition("/")[0] not in ARTEFACTS:
                        return  # a newer record may name files that were not there when they were listed
                    went[name] = Known(self.bucket.write(name, content).version, state)

            try:  # without the index's lock: whoever reads on this machine would wait
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
    """Whether a name at the store, or in a mirror, is one of a folder of results. Others are left where they are."""
    first, *others = parts = name.split("/")
    if not all(part and not part.startswith(".") and "\0" not in part and "\\" not in part for part in parts):
        return False
    return first in FOLDERS if others else first.partition(ASIDE)[0] in FILES


def local_files(folder: MirrorFolder) -> dict[str, State]:
    """The files of a mirror. What is listed later is at least as new, so that a record that is among them names files
    that are."""
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
    """How many files of a mirror are not as they are at the store, as far as the index knows."""
    index = read_index(folder)
    known = {} if index is None else index.files
    return sum(name not in known or known[name].local != state for name, state in local_files(folder).items())


def read_index(folder: MirrorFolder) -> Index | None:
    """A mirror's index; None if there is none, or none that can be read: then every file counts as changed."""
    try:
        return msgspec.json.decode(read_file(folder.index), type=Index)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None


def _state(status: os.stat_result) -> State:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _needed(name: str, networks: bool) -> bool:
    return networks or not name.startswith(f"{NETWORKS}/")


def _was_removed(name: str, here: Collection[str]) -> bool:
    """Whether a file that is not here any more was meant to go."""
    return name.startswith(f"{PLOTS}/") or any(other.startswith(f"{name}{ASIDE}") for other in here)


def _in_order(names: Iterable[str]) -> Iterator[list[str]]:
    """The names in groups that follow each other: what records name, the records, the rest."""
    groups: tuple[list[str], list[str], list[str]] = ([], [], [])
    for name in sorted(names):
        top = name.partition("/")[0]
        groups[0 if top in ARTEFACTS else 1 if top == RECORDS else 2].append(name)
    yield from groups


def _all(function: Callable[[str], None], names: list[str]) -> None:
    """Call the function for all names, some at a time. The first error, once those that began have ended."""
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
    """A lock file, locked. UserError if it should not wait and another process has it."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(path, how))
        except InUse as error:
            raise UserError(f"{url}: in use by another kdbench on this machine (process {error})") from error
        yield
