"""Merges folders of results into one. All of them are checked first; if runs contradict each other, nothing is merged.

If the target holds results already, it is one of the folders. Of whatever several folders hold, one version is kept,
which does not depend on the order of the folders:

- Of a run, a finished record is preferred to one that does not apply or was pruned, and these to one that failed. Of
  bit-equal finished records, the one with the most metrics is kept, then one with answers, then the one that finished
  first. Finished records with different weights, predictions or metrics contradict each other.
- Of profiles, and of compressed networks, the latest that succeeded is kept.
- A damaged file counts as absent if another folder has an intact copy. If none has, nothing is merged; only a damaged
  compressed network is reported and left out.

Each file is written atomically, and the note of where results came from is written last, so that the same command
finishes a merge that was interrupted.
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

FINAL = {"ok": 0, "inapplicable": 1, "pruned": 1}  # rank by status: the lowest is kept; other statuses have 2
ARTEFACTS = {"student": "weights_sha256", "predictions": "predictions_sha256"}  # by kind of file: its SHA-256 field
NO_NAMES: Mapping[Path, str] = {}
PIECE = 1 << 16  # bytes that are copied at a time
SHOWN = 16       # digits of a hash in messages

ReadChoices = Callable[[Path], object]


@dataclass(eq=False)
class Source:
    """A folder to merge, and the run ids of the networks and predictions that it holds."""

    name: str
    store: Store
    artefacts: dict[str, set[str]] = field(init=False)  # run ids by kind of file, a key of ARTEFACTS

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
    """What one folder holds of a record, a planned run, a profile or a compressed network."""

    source: Source
    path: str
    sha256: str       # of the file
    entry: SomeEntry  # a record comes without the details that tables do not need
    finished: float   # when the run or measurement ended, in seconds since 1970; 0 for a planned run


class Copy(NamedTuple):
    """A file to copy from `path` to `target`, and the SHA-256 that it must have."""

    path: Path
    target: Path
    sha256: str


@dataclass
class Merge:
    """What a merge will do: why it is refused, what it reports, and which files and notes it writes."""

    target: Store
    refused: list[str] = field(default_factory=list)    # why nothing can be merged
    told: list[str] = field(default_factory=list)       # lines for the user about what is kept
    copies: list[Copy] = field(default_factory=list)    # in the order of writing
    missing: Counter[str] = field(default_factory=Counter)  # by kind of file: finished runs whose file no folder has
    records: int = 0                                    # number of records in the target after the merge
    merged: Merged | None = None                        # the note of origins to write; None if the target has it
    submitted: Submitted | None = None                  # the note of submissions to write; None if the target has it

    def write(self) -> None:
        """Copy the files and write the notes. UserError if a file has changed since it was looked at; that file is not
        copied."""
        for copy in self.copies:
            atomic_write(copy.target, _pieces(copy), sync=False)
        if self.copies:
            os.sync()  # once for all files: waiting for each of them takes minutes
        if self.submitted is not None:
            write_submitted(self.target, self.submitted)
        if self.merged is not None:
            write_merged(self.target, self.merged)


def merge(folders: Sequence[Path], out: Path, profile: type[Outcome], read_choices: ReadChoices,
          only_look: bool = False, names: Mapping[Path, str] = NO_NAMES,
          compressed: type[Outcome] | None = None) -> Merge:
    """Merge `folders` into `out`, unless something is refused or `only_look` is set. The returned `Merge` says what
    was, or would be, done.

    `profile` and `compressed` are the classes of the entries in profiles and of compressed networks; without
    `compressed`, compressed networks are left out. `read_choices` must raise a UserError for a folder whose choices of
    tuning are damaged. `names` are the names of folders in messages and in the note of where results came from; by
    default their paths or URLs. UserError if a folder does not exist, is given twice, overlaps `out` or holds no
    results.
    """
    sources = _sources(folders, out, names)
    target = Store(out)
    used = target.files.lock.exists()  # if not, locking would create the lock file before anything is checked
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
    """The folders to merge. UserError if one does not exist, is given twice, is `out`, lies inside `out` or contains
    it, or holds no results, and if `out` is a file. OSError if `out` cannot be written."""
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
    """Find out what merging the folders does. The first of `sources` is the target. Nothing is written."""
    target = sources[0].store
    found = Merge(target)
    plans = _versions(found, sources, "plans", Planned)
    records = _versions(found, sources, "records", Record)
    profiles = _versions(found, sources, "profiles", profile)
    kept = {run: min(versions, key=_by_outcome) for run, versions in records.items()}
    artefacts = [copy for run, version in sorted(kept.items())
                 for copy in _artefacts(found, sources, version, records[run])]
    found.copies += _copies(plans, {run: min(some, key=_by_role) for run, some in plans.items()}, target.files.plan)
    found.copies += artefacts  # before the records that refer to them
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
    """The versions of each entry by its id, in the order of the folders. `place` is the attribute of `ResultsFolder`
    for the folder of these entries. A damaged file is reported if another folder has an intact version, and else
    refused."""
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
    """The sort key of the records of a run: the smallest one is kept."""
    record = version.entry
    return FINAL.get(record.status, 2), -len(record.metrics), record.answers is None, version.finished, version.sha256


def _by_role(version: Version[Planned]) -> tuple:
    return version.entry.role, version.sha256


def _by_date(version: Version[Outcome]) -> tuple:
    return version.entry.status != "ok", -version.finished, version.sha256


def _copies(versions: dict[str, list[Version[SomeEntry]]], kept: dict[str, Version[SomeEntry]],
            place: Callable[[str], Path]) -> Iterator[Copy]:
    """Yield copies of the kept versions that the target does not have. `place` gives the target path for an id."""
    for name, version in sorted(kept.items()):
        target, first = place(name), versions[name][0]
        if first.path != str(target) or first.sha256 != version.sha256:
            yield Copy(Path(version.path), target, version.sha256)


def _contradictions(kept: Version[Record], versions: Iterable[Version[Record]]) -> Iterator[str]:
    """Yield a line for each other finished record of the run that is not bit-equal to the kept one."""
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
    """Yield copies of the network and the predictions of a finished run, if the target lacks them, each from a folder
    whose file has the SHA-256 in the kept record."""
    run = kept.entry.run_id
    for kind, name in ARTEFACTS.items():
        sha256 = getattr(kept.entry, name)
        if sha256 is None or kept.entry.status != "ok":
            continue
        told = [one.source for one in versions if getattr(one.entry, name) == sha256]  # whose records name this file
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
        if whole is None and not damaged and (kind, kept.entry.role) != ("student", "teacher"):  # kept by the cache
            found.missing[kind] += 1
        if whole is not None and whole is not sources[0]:
            yield Copy(getattr(whole.store.files, kind)(run), getattr(found.target.files, kind)(run), sha256)


def _compressed(found: Merge, sources: Sequence[Source], kind: type[Outcome]) -> Iterator[Copy]:
    """Yield copies of the compressed networks and their records that the target lacks. Both are taken from one folder,
    and the network comes before its record."""
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
    """The reason why the file does not have that SHA-256; "" if it has."""
    try:
        return "" if file_sha256(path) == sha256 else "its SHA-256 is not the one in the record"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _pieces(copy: Copy) -> Iterator[bytes]:
    """Yield the content of a file to copy in pieces. UserError after the last one if the file has changed since it was
    looked at."""
    total = hashlib.sha256()
    with os.fdopen(open_file(copy.path), "rb") as file:
        while piece := file.read(PIECE):
            total.update(piece)
            yield piece
    if total.hexdigest() != copy.sha256:
        raise UserError(f"{copy.path}: it changed while it was merged; start the command again")


def _choices(found: Merge, sources: Sequence[Source], read_choices: ReadChoices) -> Iterator[Copy]:
    """Yield a copy of the choices of tuning, if the target lacks them. Different choices in several folders are
    refused."""
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
    """Yield copies of the plugin files of submissions that the target lacks, and set the joined note of submissions.
    Two files of one name, and a file that no folder has intact, are refused."""
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


# Messages.

def _shared_runs(records: dict[str, list[Version[Record]]]) -> Iterator[str]:
    """Yield lines that say what became of the runs of which several folders have a record."""
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
    """Yield a warning for each cell whose runs saw different images."""
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
    """Yield warnings with the number of finished runs whose network or predictions no folder has. There are none for a
    kind of file that no folder has at all, since then the records were copied without these files."""
    for kind, what in (("student", "network"), ("predictions", "predictions")):
        if missing[kind] and any(source.artefacts[kind] for source in sources):
            yield (f"warning: {counted(missing[kind], 'finished run')} without {what} in any folder: `kdbench run` "
                   "trains them again")


# Where results came from.

def _origins(sources: Iterable[Source], records: dict[str, list[Version[Record]]],
             plans: dict[str, list[Version[Planned]]], kept: dict[str, Version[Record]]) -> Iterator[Origin]:
    """Yield what each folder gives to the merged one: how many of the kept records it has, and the hash of its results,
    as its leaderboard shows it."""
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
    """The note of `origins` and of those that the folders' own notes name; None if the target already has this note.
    For a folder of the same name and results the earliest date is kept, so that merging again changes nothing."""
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
