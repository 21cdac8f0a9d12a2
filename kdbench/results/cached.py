"""The entries of the cache: teacher passes, teachers, unfinished runs, datasets and mirrors of folders on object
stores, with their sizes; and their removal."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from kdbench.disk import below, is_locked, read_file
from kdbench.folders import CacheFolder, MirrorFolder, PassFolder, RunFolder
from kdbench.remote.mirror import not_uploaded, read_index
from kdbench.results.record import Record
from kdbench.results.store import Store

KINDS = ("passes", "teachers", "unfinished", "data", "remotes")


@dataclass(frozen=True)
class Cached:
    """Files of the cache that are listed and removed together."""

    kind: str                # one of KINDS
    name: str
    what: str                # what they are, in one line
    paths: tuple[Path, ...]  # files and folders
    bytes: int
    used: float              # when they were last used, as far as times of files tell, in seconds since 1970


@dataclass(frozen=True)
class CachedPass(Cached):
    """A teacher pass in the cache."""

    key: str  # the key that plans name it by; "" if its note cannot be read


class PassNote(msgspec.Struct):
    """The content of `PassFolder.note`: which teacher pass it is, and what determines its bits."""

    key: str
    pair: str
    dataset: str
    seed: int
    made_of: dict[str, Any]


def entries(cache: CacheFolder) -> list[Cached]:
    """Everything in the cache, ordered as KINDS and within a kind from the least to the most recently used."""
    found = [*passes(cache), *_teachers(cache), *_unfinished(cache), *_data(cache), *_remotes(cache)]
    return sorted(found, key=lambda one: (KINDS.index(one.kind), one.used))


def passes(cache: CacheFolder) -> list[CachedPass]:
    """The teacher passes of the cache."""
    return [_pass(PassFolder(folder)) for folder in _folders(cache.passes)]


def _pass(folder: PassFolder) -> CachedPass:
    size, used = measure([folder.root])
    tensors = sorted(path.name for path in _folders(folder.root))
    try:
        note = msgspec.json.decode(read_file(folder.note), type=PassNote)
        with suppress(OSError):
            used = folder.note.stat().st_mtime
        key, what = note.key, (f"teacher of {note.pair} on {note.dataset}, seed {note.seed}: "
                               f"{', '.join(tensors) or 'nothing yet'}")
    except (OSError, msgspec.MsgspecError, RecursionError):
        key, what = "", "its note cannot be read"
    return CachedPass("passes", folder.root.name, what, (folder.root,), size, used, key)


def _teachers(cache: CacheFolder) -> Iterator[Cached]:
    store = Store(cache.teachers)
    files = store.files
    parts = (files.record, files.student, files.predictions, files.robustness)
    known: dict[str, str] = {}
    for found in store.scan():
        if isinstance(found, Record):
            spec, accuracy = found.spec, found.metrics.get("test_accuracy")
            known[found.run_id] = (f"{spec.student.model} of {spec.pair} on {spec.dataset}, seed {spec.seed}: "
                                   + (found.status if accuracy is None else f"{accuracy:.2%}"))
        else:
            known[Path(found.path).stem] = found.reason
    for part in parts[1:]:
        for run_id in {path.stem for path in part("x").parent.glob(f"[!.]*{part('x').suffix}")} - known.keys():
            known[run_id] = ("files without a record" if files.student(run_id).exists() else
                             "answers of a teacher with given weights")
    for run_id, what in known.items():
        yield _entry("teachers", run_id, what, [part(run_id) for part in parts])


def _unfinished(cache: CacheFolder) -> Iterator[Cached]:
    runs = [RunFolder(folder) for folder in _folders(cache.unfinished("x").root.parent)]
    for run in (run for run in runs if run.checkpoint.exists()):
        yield _entry("unfinished", run.root.name, "the checkpoint of a run that has not ended", [run.root])
    # A run cannot remove its own lock, since another process may be waiting for it.
    if left := [run.root for run in runs if not run.checkpoint.exists() and not is_locked(run.lock)]:
        yield _entry("unfinished", "locks", f"what {len(left)} runs left that nobody is at work on", left)


def _data(cache: CacheFolder) -> Iterator[Cached]:
    for folder in _folders(cache.data):
        yield _entry("data", folder.name, "a dataset's files, or what was made of them", [folder])


def _remotes(cache: CacheFolder) -> Iterator[Cached]:
    for folder in _folders(cache.remotes):
        mirror = MirrorFolder(folder)
        index, left = read_index(mirror), not_uploaded(mirror)
        what = "its index cannot be read" if index is None else index.url
        yield _entry("remotes", folder.name, f"{what}: {left} files are not uploaded" if left else what, [folder])


def remove(entry: Cached) -> bool:
    """Remove an entry's files. False, and nothing is removed, if a process is at work on them, or if some files of a
    mirror are not uploaded yet. A command that needs removed files makes or downloads them again."""
    if entry.kind == "unfinished" and any(is_locked(RunFolder(path).lock) for path in entry.paths):
        return False
    if entry.kind == "remotes":
        mirror = MirrorFolder(entry.paths[0])
        if is_locked(mirror.writer_lock) or not_uploaded(mirror):
            return False
    for path in entry.paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return True


def _entry(kind: str, name: str, what: str, paths: list[Path]) -> Cached:
    there = tuple(path for path in paths if path.exists())
    size, used = measure(there)
    return Cached(kind, name, what, there, size, used)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def measure(paths: Iterable[Path]) -> tuple[int, float]:
    """The size in bytes of files and of folders with all that they contain, and the time of the latest change among
    them in seconds since 1970; both 0 if there are none."""
    size, latest = 0, 0.0
    for path in paths:
        for file in (path, *below(path)):
            with suppress(OSError):  # another process removed it meanwhile
                status = file.stat()
                size += status.st_size if file.is_file() else 0
                latest = max(latest, status.st_mtime)
    return size, latest
