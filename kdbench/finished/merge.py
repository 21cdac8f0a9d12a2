"""Joins folders of results into one. All of them are checked first, and what contradicts itself is not joined at all.

The target is one of the folders if it holds results already. Of what several folders have one version is kept, whatever
the order of folders. Of a run that is a finished one before one that does not apply or was pruned, and these before one
that failed; of bit-equal reruns the one with the most metrics, then one with answers, then the one that finished
first. Finished runs with other weights, predictions or metrics contradict each other. Of profiles, and of compressed
networks, the latest that succeeded is kept. A damaged file counts as absent where another folder has it whole.

Each file is written whole, and the note of where results came from at last, so that the same command finishes what a
killed one began.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, NamedTuple

import msgspec

from kdbench.disk import atomic_write, file_sha256, json_files, need_writable, open_file, read_file
from kdbench.environment import now
from kdbench.errors import UserError, counted
from kdbench.remote.place import with_urls
from kdbench.results.merged import Merged, Origin, read_merged, write_merged
from kdbench.results.record import Outcome, Planned, Problem, Record, SomeEntry, id_of, read
from kdbench.results.repeated import differing_metrics, results_hash
from kdbench.results.store import Store
from kdbench.results.submitted import Submitted, joined, read_submitted, write_submitted

FINAL = {"ok": 0, "inapplicable": 1, "pruned": 1}  # by status: which is kept; the others are after them
ARTEFACTS = {"student": "weights_sha256", "predictions": "predictions_sha256"}  # by file: the field of its SHA-256
NO_NAMES: Mapping[Path, str] = {}
PIECE = 1 << 16  # bytes that are copied at a time
SHOWN = 16       # digits of a hash

ReadChoices = Callable[[Path], object]


@dataclass(eq=False)
class Source:
    """A folder to merge, with the ids that its networks and predictions are named by."""

    name: str
    store: Store
    artefacts: dict[str, set[str]] = field(init=False)  # by file

    def __post_init__(self) -> None:
        self.artefacts = {}
        for kind in ARTEFACTS:
            example = getattr(self.store.files, kind)("x")
            found = example.parent.iterdir() if example.parent.is_dir() else ()
            self.artefacts[kind] = {path.stem for path in found if path.suffix == example.suffix}

    @property
    def holds_results(self) -> bool:
        files = self.store.files
        return any(json_files(folder) for folder in (files.records, files.plans, files.profiles))


class Version(NamedTuple, Generic[SomeEntry]):
    """What one folder has of a record, a plan's entry or a profile."""

    source: Source
    path: str
    sha256: str       # of the file
    entry: SomeEntry  # of a record, what tables need
    finished: float   # when the run or measurement ended, in seconds since 1970


class Copy(NamedTuple):
    """A file to write, which has that SHA-256."""

    path: Path
    target: Path
    sha256: str


@dataclass
class Merge:
    """What merging does: found out, told, and then done."""

    target: Store
    refused: list[str] = field(default_factory=list)    # why nothing can be merged
    told: list[str] = field(default_factory=list)       # what is worth to know of what is kept
    copies: list[Copy] = field(default_factory=list)    # in the order of writing
    missing: Counter[str] = field(default_factory=Counter)  # finished runs without a file in any folder, by kind
    records: int = 0                                    # in the target, when all is done
    merged: Merged | None = None                        # the note to write; None if it stands there already
    submitted: Submitted | None = None                  # likewise, of submissions

    def write(self) -> None:
        """Do it. UserError, and that file not written, if a file is not any more what it was when it was looked at."""
        for copy in self.copies:
            atomic_write(copy.target, _pieces(copy), sync=False)
        if self.copies:
            os.sync()  # once for all of them: to wait for each takes minutes
        if self.submitted is not None:
            write_submitted(self.target, self.submitted)
        if self.merged is not None:
            write_merged(self.target, self.merged)


def merge(folders: Sequence[Path], out: Path, profile: type[Outcome], read_choices: ReadChoices,
          only_look: bool = False, names: Mapping[Path, str] = NO_NAMES,
          compressed: type[Outcome] | None = None) -> Merge:
    """Merge `folders` into `out`, unless something is refused or `only_look` is asked for. `profile` and `compressed`
    are the kinds of entries in profiles and of compressed networks, which without their kind are left out, and
    `read_choices` raises a UserError for a folder whose choices are damaged. `names` are what folders are called, where
    that is not their path. UserError for folders that are not apart from each other, or that hold no results."""
    sources = _sources(folders, out, names)
    target = Store(out)
    used = target.files.lock.exists()  # by a command that writes; else to lock it is to write into it
    with ExitStack() as locked:
        if used and not only_look:
            locked.enter_context(target.lock())
        found = _look([Source(with_urls(str(out)), target), *sources], profile, read_choices, compressed)
        if not found.refused and not only_look:
            if not used:
                locked.enter_context(target.lock())
            found.write()
    return found


def _sources(folders: Sequence[Path], out: Path, names: Mapping[Path, str]) -> list[Source]:
    """The folders to merge. UserError if one is none, is given twice or lies in another, or holds no results."""
    target, seen = out.resolve(), dict[Path, Path]()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        place = folder.resolve()
        if place in seen:
            raise UserError(f"{folder}: given twice, as {seen[place]} too" if folder != seen[place] else
                            f"{folder}: given twice")
        if place == target:
            raise UserError(f"{folder}: it is --out too, which keeps what it holds: name the other folders alone")
        for inner, outer in ((target, place), (place, target)):
            if outer in inner.parents:
                called = {target: f"--out {out}", place: str(folder)}
                raise UserError(f"{called[inner]}: it lies inside {called[outer]}: merge into a folder of its own")
        seen[place] = folder
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: not a folder")
    need_writable(out)
    sources = [Source(names.get(folder, with_urls(str(folder))), Store(folder)) for folder in folders]
    for source in sources:
        if not source.holds_results:
            raise source.store.no_records()
    return sources


def _look(sources: list[Source], profile: type[Outcome], read_choices: ReadChoices,
          compressed: type[Outcome] | None) -> Merge:
    """What merging the folders does, of which the first is the target. Reads only."""
    target = sources[0].store
    found = Merge(target)
    plans = _versions(found, sources, "plans", Planned)
    records = _versions(found, sources, "records", Record)
    profiles = _versions(found, sources, "profiles", profile)
    kept = {run: min(versions, key=_by_outcome) for run, versions in records.items()}
    artefacts = [copy for run, version in sorted(kept.items())
                 for copy in _artefacts(found, sources, version, records[run])]
    found.copies += _copies(plans, {run: min(some, key=_by_role) for run, some in plans.items()}, target.files.plan)
    found.copies += artefacts  # before the records that tell of them
    found.copies += _copies(records, kept, target.files.record)
    latest = {name: min(versions, key=_by_date) for name, versions in profiles.items()}
    found.copies += _copies(profiles, latest, target.files.profile)
    if compressed is not None:
        found.copies += _compressed(found, sources, compressed)
    found.copies += _choices(found, sources, read_choices)
    found.copies += _submissions(found, sources)
    for run, versions in sorted(records.items()):
        found.refused += _contradictions(kept[run], versions)
    found.records = len(kept)
    origins = list(_origins(sources[1:], records, plans, kept))
    found.told[:0] = map(str, origins)
    found.told += [*_shared_runs(records), *_shared_profiles(profiles), *_other_images(kept.values()),
                   *_without(sources, found.missing)]
    found.merged = _note(found, sources, origins)
    return found


# Entries: records, the plan, profiles.

def _versions(found: Merge, sources: Iterable[Source], place: str,
              kind: type[SomeEntry]) -> dict[str, list[Version[SomeEntry]]]:
    """What the folders have in that place, by id, in their order. A damaged file is told of, and refused where no
    folder has it whole."""
    versions: dict[str, list[Version[SomeEntry]]] = defaultdict(list)
    damaged: list[Problem] = []
    for source in sources:
        for path in json_files(getattr(source.store.files, place)):
            entry, content = read(kind, path)
            if isinstance(entry, Problem):
                damaged.append(entry)
                continue
            finished = datetime.fromisoformat(entry.finished).timestamp() if isinstance(entry, Outcome) else 0.0
            light: Any = entry.without_details() if isinstance(entry, Record) else entry
            versions[id_of(path)].append(
                Version(source, path, hashlib.sha256(content).hexdigest(), light, finished))
    for problem in damaged:
        _tell_damage(found, problem, next((one.source for one in versions.get(problem.path.stem, ())), None))
    return versions


def _tell_damage(found: Merge, problem: Problem, whole: Source | None) -> None:
    if whole is None:
        found.refused.append(f"{'newer' if problem.newer else 'damaged'}: {problem.path}: {problem.reason}")
    else:
        found.told.append(f"damaged: {problem.path}: {problem.reason}; the one of {whole.name} is kept")


def _by_outcome(version: Version[Record]) -> tuple:
    """The sort key of a run's records: the one to keep first."""
    record = version.entry
    return FINAL.get(record.status, 2), -len(record.metrics), record.answers is None, version.finished, version.sha256


def _by_role(version: Version[Planned]) -> tuple:
    return version.entry.role, version.sha256


def _by_date(version: Version[Outcome]) -> tuple:
    return version.entry.status != "ok", -version.finished, version.sha256


def _copies(versions: dict[str, list[Version[SomeEntry]]], kept: dict[str, Version[SomeEntry]],
            place: Callable[[str], Path]) -> Iterator[Copy]:
    """The kept files that the target does not have already."""
    for name, version in sorted(kept.items()):
        target, first = place(name), versions[name][0]
        if first.path != str(target) or first.sha256 != version.sha256:
            yield Copy(Path(version.path), target, version.sha256)


def _contradictions(kept: Version[Record], versions: Iterable[Version[Record]]) -> Iterator[str]:
    """A line for each finished record of a run that is not bit-equal to the kept one."""
    ours, here = kept.entry, kept.source.name
    for theirs, there in ((one.entry, one.source.name) for one in versions if one is not kept):
        if ours.status != "ok" or theirs.status != "ok":
            continue
        what = [f"{name} {_short(mine)} in {here} and {_short(other)} in {there}" for name, mine, other in (
            ("role", ours.role, theirs.role), ("weights", ours.weights_sha256, theirs.weights_sha256),
            ("predictions", ours.predictions_sha256, theirs.predictions_sha256)) if mine != other]
        if not what:
            what = [f"{name} {ours.metrics[name]} in {here} and {theirs.metrics[name]} in {there}"
                    for name in differing_metrics(ours, theirs)]
        if what:
            spec = ours.spec
            role = "" if ours.role == "student" else f"{ours.role} "
            yield (f"contradiction: run {ours.run_id}, {role}{spec.method}, seed {spec.seed} ({spec.pair} on "
                   f"{spec.dataset}): {', '.join(what)}")


def _short(text: str | None) -> str:
    return "none" if text is None else text[:SHOWN]


# The files beside records.

def _artefacts(found: Merge, sources: Sequence[Source], kept: Version[Record],
               versions: Sequence[Version[Record]]) -> Iterator[Copy]:
    """The files of a finished run that the target lacks, each from a folder that has it as the record says."""
    run = kept.entry.run_id
    for kind, name in ARTEFACTS.items():
        sha256 = getattr(kept.entry, name)
        if sha256 is None or kept.entry.status != "ok":
            continue
        told = [one.source for one in versions if getattr(one.entry, name) == sha256]  # who should have the file
        damaged: list[Problem] = []
        whole = None
        for source in dict.fromkeys([sources[0], kept.source, *sources]):
            if whole is None and run in source.artefacts[kind]:
                path = getattr(source.store.files, kind)(run)
                if not (fault := _fault(path, sha256)):
                    whole = source
                elif source in told:
                    damaged.append(Problem(path, fault))
        for problem in damaged:
            _tell_damage(found, problem, whole)
        if whole is None and not damaged and (kind, kept.entry.role) != ("student", "teacher"):  # which caches keep
            found.missing[kind] += 1
        if whole is not None and whole is not sources[0]:
            yield Copy(getattr(whole.store.files, kind)(run), getattr(found.target.files, kind)(run), sha256)


def _compressed(found: Merge, sources: Sequence[Source], kind: type[Outcome]) -> Iterator[Copy]:
    """The compressed networks that the target lacks, each before the record that tells of it, and out of one folder."""
    for name, versions in sorted(_versions(found, sources, "compressed", kind).items()):
        latest = min(versions, key=_by_date)
        network, target = (one.files.compressed_network(name) for one in (latest.source.store, found.target))
        sha256 = getattr(latest.entry, "network_sha256", None)
        if sha256 is not None and (fault := _fault(network, sha256)):
            found.told.append(f"damaged: {network}: {fault}; `kdbench compress` makes it again")
        elif sha256 is not None and latest.source is not sources[0]:
            yield Copy(network, target, sha256)
        yield from _copies({name: versions}, {name: latest}, found.target.files.compressed_record)


def _fault(path: Path, sha256: str) -> str:
    """Why the file is not the one with that SHA-256; "" if it is."""
    try:
        return "" if file_sha256(path) == sha256 else "its SHA-256 is not the one in the record"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _pieces(copy: Copy) -> Iterator[bytes]:
    """The content of a file to copy. UserError at its end if it is not the one that was looked at."""
    total = hashlib.sha256()
    with os.fdopen(open_file(copy.path), "rb") as file:
        while piece := file.read(PIECE):
            total.update(piece)
            yield piece
    if total.hexdigest() != copy.sha256:
        raise UserError(f"{copy.path}: it changed while it was merged; start the command again")


def _choices(found: Merge, sources: Sequence[Source], read_choices: ReadChoices) -> Iterator[Copy]:
    """The choices of tuning, if all folders that have some have the same."""
    whole: dict[bytes, Source] = {}
    damaged: list[Problem] = []
    for source in sources:
        path = source.store.files.tuning.choices
        if os.path.lexists(path):
            try:
                read_choices(source.store.folder)
                whole.setdefault(read_file(path), source)
            except UserError as error:
                damaged.append(Problem(path, str(error).removeprefix(f"{path}: ")))
    first = next(iter(whole.values()), None)
    for problem in damaged:
        _tell_damage(found, problem, first)
    if len(whole) > 1:
        paths = [str(source.store.files.tuning.choices) for source in whole.values()]
        found.refused.append(f"contradiction: {' and '.join(paths)}: other choices; a folder holds those of one tuning")
    for content, source in whole.items():
        path, target = source.store.files.tuning.choices, found.target.files.tuning.choices
        if path != target:
            yield Copy(path, target, hashlib.sha256(content).hexdigest())


def _submissions(found: Merge, sources: Sequence[Source]) -> Iterator[Copy]:
    """The plugin files of submissions that the target lacks; the note of these is made of all folders' notes."""
    notes: dict[Source, Submitted] = {}
    for source in sources:
        note = read_submitted(source.store)[0]
        if isinstance(note, Problem):
            _tell_damage(found, note, None)
        elif note is not None:
            notes[source] = note
    whole = joined(notes.values())
    if whole.submissions and whole != notes.get(sources[0]):
        found.submitted = whole
    files = sorted({item for one in whole.submissions for item in one.plugins.items()})
    for name, count in Counter(name for name, _ in files).items():
        if count > 1:
            of = " and ".join(", ".join(one.methods) for one in whole.submissions if name in one.plugins)
            found.refused.append(f"contradiction: plugins/{name}: the submissions of {of} have other files of that "
                                 "name; a folder holds one")
    for name, sha256 in files:
        holders = [source for source in sources if not _fault(source.store.files.plugin(name), sha256)]
        if not holders:
            found.refused.append(f"damaged: plugins/{name}: no folder has the file with the SHA-256 that "
                                 f"submissions.json names, {sha256[:SHOWN]}")
        elif sources[0] not in holders:
            yield Copy(holders[0].store.files.plugin(name), found.target.files.plugin(name), sha256)


# What is told.

def _shared_runs(records: dict[str, list[Version[Record]]]) -> Iterator[str]:
    """What became of the runs that several folders have."""
    shared: Counter[str] = Counter()
    for versions in records.values():
        finished = sum(one.entry.status == "ok" for one in versions)
        if len({one.sha256 for one in versions}) > 1:
            shared["rerun"] += finished > 1
            shared["failed"] += 0 < finished < len(versions)
            shared["unfinished"] += not finished
        elif len(versions) > 1:
            shared["equal"] += 1
    for kind, what in {
        "equal": "in several folders with the same record: taken once",
        "rerun": "repeated, bit-equal: kept is the record with the most metrics, of these the first to finish",
        "failed": "finished in some folders only: the finished record is kept",
        "unfinished": "finished in none of several folders: one record is kept",
    }.items():
        if count := shared[kind]:
            yield f"{counted(count, 'run')} {what}"


def _shared_profiles(profiles: dict[str, list[Version[Outcome]]]) -> Iterator[str]:
    if count := sum(len({one.sha256 for one in versions}) > 1 for versions in profiles.values()):
        yield f"{counted(count, 'profile')} measured in several folders: the latest is kept"


def _other_images(kept: Iterable[Version[Record]]) -> Iterator[str]:
    """A line for each cell whose runs saw different images."""
    seen: dict[str, dict[str, list[Version[Record]]]] = defaultdict(lambda: defaultdict(list))
    for version in kept:
        if version.entry.dataset_digest and version.entry.role == "student":
            seen[version.entry.spec.cell][version.entry.dataset_digest].append(version)
    for digests in seen.values():
        if len(digests) > 1:
            spec = next(iter(digests.values()))[0].entry.spec
            kinds = "; ".join(f"{digest[:SHOWN]} by {counted(len(runs), 'run')} of {_names(runs)}"
                              for digest, runs in sorted(digests.items()))
            yield (f"warning: the runs of {spec.pair} on {spec.dataset} saw other images (SHA-256): {kinds}; tables "
                   "take those that most runs saw")


def _names(versions: Iterable[Version[Record]]) -> str:
    return ", ".join(dict.fromkeys(version.source.name for version in versions))


def _without(sources: Sequence[Source], missing: Mapping[str, int]) -> Iterator[str]:
    """How many finished runs no folder has a file of, though others have theirs: their records came alone."""
    for kind, what in (("student", "network"), ("predictions", "predictions")):
        if missing[kind] and any(source.artefacts[kind] for source in sources):
            yield (f"warning: {counted(missing[kind], 'finished run')} without {what} in any folder: `kdbench run` "
                   "trains them again")


# Where results came from.

def _origins(sources: Iterable[Source], records: dict[str, list[Version[Record]]],
             plans: dict[str, list[Version[Planned]]], kept: dict[str, Version[Record]]) -> Iterator[Origin]:
    """What each folder gives to the merged one, with the hash of its results that its leaderboard shows."""
    own: dict[Source, dict[str, Record]] = defaultdict(dict)
    given: Counter[Source] = Counter()
    for run, versions in records.items():
        for one in versions:
            own[one.source][run] = one.entry
            given[one.source] += one.sha256 == kept[run].sha256
    for run, wanted in plans.items():
        for each in wanted:
            own[each.source].setdefault(run, each.entry.without_record())
    for source in sources:
        runs = [run for run in own[source].values() if run.role != "trial"]
        yield Origin(name=source.name, records=given[source], results=results_hash(runs), when=now())


def _note(found: Merge, sources: Sequence[Source], origins: Iterable[Origin]) -> Merged | None:
    """The note of these origins and of those that the folders know already; None if the target has it. Of one folder
    with the same results the first date is kept, so that merging again changes nothing."""
    known: dict[tuple[str, str], Origin] = {}
    there: Merged | None = None
    for source in sources:
        before = read_merged(source.store)[0]
        if isinstance(before, Problem):
            _tell_damage(found, before, None)
        elif before is not None:
            there = before if source is sources[0] else there
            for one in before.origins:
                first = known.setdefault((one.name, one.results), one)
                known[one.name, one.results] = min(first, one, key=lambda origin: origin.when)
    for one in origins:
        when = known.get((one.name, one.results), one).when
        known[one.name, one.results] = msgspec.structs.replace(one, when=when)
    merged = Merged(origins=[known[key] for key in sorted(known)])
    return None if merged == there else merged
