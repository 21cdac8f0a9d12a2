"""Checks every file of a results folder against its records, and sets damaged files aside."""

import json
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from kdbench.disk import TEMPORARY, below, file_sha256, set_aside
from kdbench.errors import UserError
from kdbench.folders import REPORT, CacheFolder
from kdbench.results.merged import read_merged
from kdbench.results.record import DIGEST, Entry, Outcome, Planned, Problem, Record, read
from kdbench.results.release import read_release
from kdbench.results.store import Store
from kdbench.results.submitted import Submitted, read_submitted
from kdbench.spec import teacher_runs

Kind = Literal["damaged", "foreign", "newer", "orphaned", "missing", "temporary"]
KINDS: tuple[Kind, ...] = ("damaged", "missing", "newer", "orphaned", "foreign", "temporary")
RUN_ID = re.compile(r"[0-9a-f]{16}")
ASIDE = re.compile(r"\.corrupt-\d+$")

TRAINS = "a rerun trains the run again"
LEAVES = "a rerun leaves it as it is"
REPLACES = "a rerun trains the run again if it is asked for, and else leaves the file"


class Finding(NamedTuple):
    """A problem with a file: its kind, the reason, and what the `kdbench run` that made the folder does about it when
    it is called again."""

    kind: Kind
    path: Path
    why: str
    rerun: str
    repairable: bool = False  # whether `repair` sets the file aside

    def __str__(self) -> str:
        return f"{self.kind:<9}  {self.path}: {self.why}; {self.rerun}"


class Fsck:
    """One check of a results folder. It reads records one at a time, and keeps only their ids, statuses and digests of
    images."""

    def __init__(self, folder: Path, cache: CacheFolder, profile: type[Outcome],
                 compressed: type[Outcome] | None = None):
        """`profile` and `compressed` are the classes of the entries in the folder's profiles and of its compressed
        networks; without `compressed`, compressed networks are not checked. `cache` is checked for the teachers of the
        folder. UserError if the folder does not exist or holds no results."""
        self.store, self.cached, self.profile = Store(folder), Store(cache.teachers), profile
        self.compressed = compressed
        files = self.store.files
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        if not files.records.is_dir() and not files.plans.is_dir():
            raise self.store.no_records()
        self.found: Counter[Kind] = Counter()
        self.repaired = 0
        self.records = 0
        self.without_digest = 0                               # records of kdbench 0.1, which wrote no SHA-256
        self._submitted: set[str] = set()                     # ids of submitted runs, whose networks may be missing
        self._aside: set[Path] = set()                        # files that this check set aside
        self._status: dict[str, str | None] = {}              # by run id; None: the record cannot be read
        self._teachers: set[str] = set()                      # ids of the teachers that records name
        self._images: dict[str, dict[str, list[str]]] = {}    # by `_seen`, then by digest: ids of runs

    def check(self, repair: bool = False) -> Iterator[Finding]:
        """Yield a finding for everything in the folder that is not as it should be. With `repair`, temporary files are
        removed and damaged files set aside, under the folder's lock; UserError if another command holds that lock."""
        temporary = [Finding("temporary", path, "a write that was cut off", "a rerun removes it")
                     for path in sorted(path for path in below(self.store.folder) if _is_temporary(path.name))]
        with self.store.lock() if repair else nullcontext():  # locking the folder removes temporary files
            for finding in temporary:
                yield self._count(finding, "" if finding.path.exists() else "removed")
            for finding in self._all():
                done = ""
                if repair and finding.repairable:
                    self._aside.add(aside := set_aside(finding.path))
                    done = f"set aside as {aside.name}"
                yield self._count(finding, done)

    @property
    def clean(self) -> bool:
        return not self.found["damaged"] and not self.found["missing"]

    def writer(self) -> int | None:
        """The id of the process that holds the folder's lock or held it last, if it is another process that is alive on
        this machine; else None. The files that it is writing look missing or orphaned."""
        with suppress(OSError, ValueError):
            number, _, machine = self.store.files.lock.read_text().partition(" on ")
            process = int(number)
            if machine not in ("", socket.gethostname()):  # only that machine knows whether it is alive
                return None
            with suppress(PermissionError):  # it is alive, and another user's
                os.kill(process, 0)
            return process if process != os.getpid() else None
        return None

    def _count(self, finding: Finding, done: str) -> Finding:
        self.found[finding.kind] += 1
        self.repaired += bool(done)
        return finding._replace(rerun=f"{done}, {finding.rerun}") if done else finding

    def _all(self) -> Iterator[Finding]:
        submitted, _ = read_submitted(self.store)
        self._submitted = set(submitted.marks()) if isinstance(submitted, Submitted) else set()
        yield from self._records()
        yield from self._other_images()
        yield from self._plans()
        yield from self._teachers_of_records()
        yield from self._entries(self.store.files.profiles, self.profile, "`kdbench profile` measures it again")
        yield from self._compressed()
        for note, lost in ((read_merged(self.store)[0], "where results came from"),
                           (read_release(self.store), "which version these results are")):
            if isinstance(note, Problem):
                yield Finding("damaged", note.path, note.reason, f"{LEAVES}; without, nobody knows {lost}",
                              repairable=True)
        yield from self._submissions(submitted)
        yield from self._artefacts(self.store.files.student("x"))
        yield from self._artefacts(self.store.files.predictions("x"))
        yield from self._others()

    # Records, plans and profiles.

    def _records(self) -> Iterator[Finding]:
        for path, run_id in self._named(self.store.files.records, ".json"):
            if isinstance(path, Finding):
                yield path
                continue
            self.records += 1
            found, content = read(Record, str(path))
            self._status[run_id] = found.status if isinstance(found, Record) else None
            if isinstance(found, Problem):
                yield _unreadable(found, TRAINS)
                continue
            self.without_digest += DIGEST not in content
            if found.dataset_digest:
                self._images.setdefault(_seen(found), {}).setdefault(found.dataset_digest, []).append(run_id)
            self._teachers.update(run.id for run in teacher_runs(found.spec))
            yield from self._faults(self.store, found)
            if found.role == "teacher":
                yield from self._in_cache(found)

    def _faults(self, store: Store, record: Record) -> Iterator[Finding]:
        faults = list(store.faults(record))
        if faults:  # a run may have replaced its files and then its record meanwhile
            again = store.get(record.run_id)
            faults = list(store.faults(again)) if isinstance(again, Record) else faults
        what = TRAINS if record.role != "teacher" else "a rerun trains the teacher again where a run needs it"
        for fault in faults:
            if not (fault.missing and record.run_id in self._submitted and fault.path.parent.name == "students"):
                yield _faulty(fault, what, repairable=not fault.missing)

    def _in_cache(self, record: Record) -> Iterator[Finding]:
        """Yield the problems with a teacher's files in the cache; none if the cache does not have the teacher."""
        again = "a rerun sets it aside and trains the teacher again where a run needs it"
        cached = self.cached.get(record.run_id)
        if isinstance(cached, Problem):
            yield _unreadable(cached, again)._replace(repairable=False)
        elif cached is not None:
            for fault in self.cached.faults(cached):
                yield _faulty(fault, again)
            student = self.cached.files.student(record.run_id)
            if cached.status == "ok" and not student.exists():
                yield Finding("missing", student, "the record of the teacher is there, its network is not", again)
            if cached.status == "ok" and cached.weights_sha256 != record.weights_sha256:
                yield Finding("damaged", self.cached.files.record(record.run_id),
                              "it has other weights than the teacher that the runs of this folder learned from",
                              "a rerun teaches further runs by the cache's teacher, which are then not comparable")

    def _other_images(self) -> Iterator[Finding]:
        for digests in self._images.values():
            most = max(digests, key=lambda digest: len(digests[digest]))
            for digest, runs in digests.items():
                for run in runs if digest != most else ():
                    yield Finding(
                        "damaged", self.store.files.record(run), f"made of other images (SHA-256 {digest[:12]}) than "
                        f"{len(digests[most])} other runs of its dataset ({most[:12]})",
                        "a rerun leaves it as it is: keep those made of the right images, and delete the others")

    def _plans(self) -> Iterator[Finding]:
        folder = self.store.files.plans
        for path, run_id in self._named(folder, ".json"):
            if isinstance(path, Finding):
                yield path
                continue
            found, _ = read(Planned, str(path))
            if isinstance(found, Problem):
                yield _unreadable(found, "a rerun writes it again")
            elif run_id not in self._status:
                what = "a rerun trains it" if found.role != "teacher" else \
                    "a rerun copies it from the cache, or trains it where a run needs it"
                self._teachers.discard(run_id)
                yield Finding("missing", self.store.files.record(run_id), f"planned {_label(found)}, not run", what)

    def _teachers_of_records(self) -> Iterator[Finding]:
        for run_id in sorted(self._teachers - self._status.keys()):
            yield Finding("missing", self.store.files.record(run_id), "the teacher that records of this folder name",
                          "a rerun copies it from the cache, or trains it where a run needs it")

    def _entries(self, folder: Path, kind: type[Entry], rerun: str) -> Iterator[Finding]:
        for path, _ in self._named(folder, ".json"):
            if isinstance(path, Finding):
                yield path
            elif isinstance(found := read(kind, str(path))[0], Problem):
                yield _unreadable(found, rerun)

    def _compressed(self) -> Iterator[Finding]:
        """Yield the problems with the records of compressed networks and with their network files."""
        if self.compressed is None:
            return
        files, again = self.store.files, "`kdbench compress` makes it again"
        told: set[str] = set()
        for path, name in self._named(files.compressed, ".json"):
            if isinstance(path, Finding):
                yield path
                continue
            told.add(name)
            found, network = read(self.compressed, str(path))[0], files.compressed_network(name)
            if isinstance(found, Problem):
                yield _unreadable(found, again)
            elif found.status != "ok":
                continue
            elif not network.is_file():
                yield Finding("missing", network, "its record is there, the network is not", again)
            elif file_sha256(network) != getattr(found, "network_sha256", None):
                yield Finding("damaged", network, "its SHA-256 is not the one in its record", again, repairable=True)
        for path, name in self._named(files.compressed_network("x").parent, ".onnx"):
            if isinstance(path, Finding):
                yield path
            elif name not in told:
                yield Finding("orphaned", path, "no record tells of it", LEAVES)

    # Files that have no record.

    def _submissions(self, submitted: Submitted | Problem | None) -> Iterator[Finding]:
        """Yield the problems with submissions.json, with the plugin files that it names, and with other files beside
        them."""
        files = self.store.files
        if isinstance(submitted, Problem):
            yield Finding("damaged", submitted.path, submitted.reason, f"{LEAVES}; without, nobody knows which results "
                          "others submitted", repairable=True)
        named = {item for one in (submitted.submissions if isinstance(submitted, Submitted) else ())
                 for item in one.plugins.items()}
        for name, sha256 in sorted(named):
            path = files.plugin(name)
            if not path.is_file():
                yield Finding("missing", path, "submissions.json names it", LEAVES)
            elif file_sha256(path) != sha256:
                yield Finding("damaged", path, "its SHA-256 is not the one in submissions.json", LEAVES)
        names, folder = {name for name, _ in named}, files.plugin("x").parent
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name not in names and not _is_temporary(path.name):
                yield _foreign(path)

    def _artefacts(self, example: Path) -> Iterator[Finding]:
        for path, run_id in self._named(example.parent, example.suffix):
            if isinstance(path, Finding):
                yield path
            elif run_id not in self._status:
                yield Finding("orphaned", path, "no record tells of it", REPLACES)
            elif (status := self._status[run_id]) not in ("ok", None):
                yield Finding("orphaned", path, f"the record says that the run has the status {status}", REPLACES)

    def _others(self) -> Iterator[Finding]:
        files = self.store.files
        ours = {path.name for path in (files.records, files.plans, files.profiles, files.student("x").parent,
                                       files.predictions("x").parent, files.robustness("x").parent, files.tuning.root,
                                       files.merged, files.release, files.suite, files.packages, files.submitted,
                                       files.compressed, files.compressed_network("x").parent,
                                       files.plugin("x").parent, files.lock,
                                       files.slurm.root)}
        for path in sorted(self.store.folder.iterdir()):
            if (path.name in ours or path.name in REPORT or _is_temporary(path.name)
                    or path.name.startswith(files.part_lock("").name)):
                continue
            yield from self._aside_or_foreign(path)

    def _aside_or_foreign(self, path: Path) -> Iterator[Finding]:
        if not ASIDE.search(path.name):
            yield _foreign(path)
        elif path not in self._aside:
            yield Finding("orphaned", path, "was set aside as damaged", LEAVES)

    def _named(self, folder: Path, suffix: str) -> Iterator[tuple[Path | Finding, str]]:
        """Yield each file of `folder` whose name is a run id followed by `suffix`, with that id. For a file with
        another name, and for a JSON file that is not a regular file, yield a finding and "". Temporary files are left
        out."""
        if not folder.is_dir():
            return
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            path = folder / name
            if _is_temporary(name):
                continue
            if not name.endswith(suffix) or not RUN_ID.fullmatch(name.removesuffix(suffix)):
                for finding in self._aside_or_foreign(path):
                    yield finding, ""
            elif suffix == ".json" and path.exists() and not path.is_file():  # reading a pipe would block for ever
                self._status.setdefault(name.removesuffix(suffix), None)
                yield Finding("damaged", path, "it is not a file", REPLACES, repairable=True), ""
            else:
                yield path, name.removesuffix(suffix)


def _unreadable(problem: Problem, rerun: str) -> Finding:
    if problem.newer:
        return Finding("newer", problem.path, problem.reason, f"{LEAVES}: update kdbench to read it")
    return Finding("damaged", problem.path, problem.reason, rerun, repairable=True)


def _faulty(fault: Problem, rerun: str, repairable: bool = False) -> Finding:
    if fault.missing:
        return Finding("missing", fault.path, "the record says that the run is finished", rerun)
    return Finding("damaged", fault.path, fault.reason.removeprefix("is damaged: "), rerun, repairable)


def _foreign(path: Path) -> Finding:
    return Finding("foreign", path, "kdbench writes no such name", LEAVES)


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(TEMPORARY)


def _seen(record: Record) -> str:
    """A key that is equal for runs that must have seen the same images."""
    spec = record.spec
    further = spec.transfer and spec.transfer.model_dump(mode="json", exclude={"share"})
    recipe = spec.recipe
    return json.dumps([spec.dataset, spec.dataset_digest, recipe.image_size, recipe.train_size, further,
                       recipe.normalise == "imagenet",             # gives grey images three channels
                       "random_resized_crop" in recipe.augment])  # keeps training images larger


def _label(planned: Planned) -> str:
    spec = planned.spec
    return f"{planned.role} {spec.method}  {spec.pair}  {spec.dataset}  seed {spec.seed}"
