"""Builds a leaderboard from records: one row per method in each cell (pair, dataset and recipe)."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from kdbench.analysis.answers.statement import statement
from kdbench.analysis.board import (
    MUCH_ALIKE,
    PROFILED_SEED,
    REFERENCE,
    REFERENCES,
    Cell,
    Failure,
    Leaderboard,
    Row,
    Teacher,
    Wins,
)
from kdbench.analysis.costs import (
    Cost,
    cost,
    costs_of_matched,
    method_metrics,
    read_compressed,
    read_profiles,
    shares_of_kd,
    teacher_metrics,
)
from kdbench.analysis.harm import MIN_SEEDS, Predicted, harm
from kdbench.analysis.intervals import paired_difference
from kdbench.analysis.labels import Variant, facts_of, labels, sweeps
from kdbench.analysis.moderated import Comparisons, compare
from kdbench.analysis.shares import mean_shares
from kdbench.analysis.tuned import Compared, Tuned, order_of, read_tuned, settings_of, tuning_of
from kdbench.compress.record import Compressed
from kdbench.errors import UserError, counted, plain
from kdbench.metrics.answers import Answers, ReadAnswers, read_answers
from kdbench.metrics.catalog import METRICS
from kdbench.plugins.registry import Registry
from kdbench.plugins.source import Facts, MethodInfo
from kdbench.profile.match import EQUAL_TO
from kdbench.results.merged import Merged, read_merged
from kdbench.results.numbers import Numbers
from kdbench.results.record import Problem, Record
from kdbench.results.release import Release, read_release
from kdbench.results.repeated import results_hash
from kdbench.results.store import Store
from kdbench.results.submitted import Mark, Submitted, least, read_submitted
from kdbench.spec import RunSpec, TrainedTeacher, digest
from kdbench.tune.choice import Choice

PASSES = {"student_passes": "student passes", "teacher_passes": "teacher passes"}
CITED = ("kdbench", "torch", "timm")  # the packages whose versions are cited with results
CONDITIONS = {**PASSES, "deployed_size": "size"}  # by metric: its name in a condition such as "2x size"

Known = Mapping[str, Facts]
Read = Callable[[Iterable[Record]], dict[int, Predicted]]


def build(folder: Path, installed: Mapping[str, MethodInfo] | None = None) -> Leaderboard:
    """The leaderboard of a folder of results. `installed` has the methods by name, by default all that are installed;
    it supplies facts that records lack. UserError if the folder has no results."""
    store, installed = Store(folder), Registry() if installed is None else installed
    runs, hashes, problems, trials = _recorded_and_missing(store)
    if trials and not any(run.role == "student" for run in runs):
        raise UserError(f"{folder}: it holds trials of `kdbench tune`, and no results: `kdbench run SUITE --tuned "
                        f"{folder}` makes some")
    if not runs and not problems:
        raise store.no_records()
    runs, others = _of_the_same_images([_with_family(run, installed) for run in runs], store)
    runs, repeats = _without_repeats(runs, store)
    reader = _Reader(store)
    profiles, profile_problems = read_profiles(store)
    known = facts_of([*runs, *profiles.values()], installed)
    costs = [cost(profile, known, sha256) for sha256, profile in profiles.items()]
    tuned, tuned_problems = read_tuned(store)
    merged, merged_hash = read_merged(store)
    origins = merged.lines() if isinstance(merged, Merged) else ()
    release, results = read_release(store), results_hash(runs)
    versions = release.lines(results) if isinstance(release, Release) else ()
    current = release.current(results) if isinstance(release, Release) else None
    submitted, submitted_hash = read_submitted(store)
    compressed, compressed_problems = read_compressed(store, runs)
    cells = tuple(_with_compressed(_cells(runs, known, reader, costs, tuned), compressed.values()))
    if isinstance(submitted, Submitted):
        cells, origins = tuple(_marked(cells, submitted.marks())), (*origins, *submitted.lines())
    problems += [*others, *repeats, *reader.problems, *profile_problems, *compressed_problems, *tuned_problems]
    problems += [one for one in (merged, release, submitted) if isinstance(one, Problem)]
    return Leaderboard(
        cells=cells, suites=tuple(sorted({plain(run.suite) for run in runs})), methods=known,
        statement=tuple(map(plain, (*statement(folder, runs, problems, cells), *tuned.lines(), *origins, *versions))),
        results_hash=results,
        records_hash=_records_hash(runs, hashes, costs, problems, tuned,
                                   {"merged": merged_hash, "submissions": submitted_hash, **{
                                       f"compressed/{one.run_id}": sha256 for sha256, one in compressed.items()}}),
        packages=_packages(runs), version=current.version if current else "",
    )


def _packages(runs: Iterable[Record]) -> dict[str, tuple[str, ...]]:
    """The versions of each package in `CITED` that the runs used, sorted, by package. Packages that no run names are
    left out."""
    named = [run.environment.get("versions") for run in runs]
    found = {package: {str(versions[package]) for versions in named
                       if isinstance(versions, dict) and package in versions} for package in CITED}
    return {package: tuple(sorted(versions)) for package, versions in found.items() if versions}


def _recorded_and_missing(store: Store) -> tuple[list[Record], dict[str, str], list[Problem], int]:
    """The runs of a folder, including planned runs without a usable record; the SHA-256 of each record's file, by run
    id; the files that cannot be used; and the number of trials, which are not among the runs."""
    runs: list[Record] = []
    hashes: dict[str, str] = {}
    problems: list[Problem] = []
    trials = 0
    for found, sha256 in store.scan_with_hashes():
        if isinstance(found, Problem):
            problems.append(found)
        elif found.role == "trial":
            trials += 1
        else:
            runs.append(found)
            hashes[found.run_id] = sha256
    planned, plan_problems = store.planned(but=hashes.keys())
    damaged = {problem.path.stem: problem.reason for problem in problems}
    runs += [wanted.without_record(damaged.get(wanted.run_id)) for wanted in planned if wanted.role != "trial"]
    return runs, hashes, problems + plan_problems, trials


def _with_family(run: Record, installed: Mapping[str, MethodInfo]) -> Record:
    """The run with its method's family. If the record lacks it, as do missing runs and records of kdbench 0.1, it is
    taken from the installed method."""
    if run.family is None and run.spec.method in installed:
        return msgspec.structs.replace(run, family=installed[run.spec.method].family)
    return run


def _without_repeats(runs: Iterable[Record], store: Store) -> tuple[list[Record], list[Problem]]:
    """The runs without repeats, and the repeats as problems. Runs that differ only in how a number is written (4 or
    4.0, after a method changed its type) would share a row and a seed: one of them is kept, a finished one if possible.
    """
    kept: dict[tuple, Record] = {}
    repeats = []
    for run in sorted(runs, key=lambda run: (run.status != "ok", run.run_id)):
        first = kept.setdefault((run.spec.cell, run.role, *run.spec.settings, run.spec.seed), run)
        if first is not run:
            repeats.append(Problem(store.files.record(run.run_id), f"it repeats run {first.run_id}: the same method, "
                                                                   "hyperparameters and seed"))
    return list(kept.values()), repeats


def _of_the_same_images(runs: list[Record], store: Store) -> tuple[list[Record], list[Problem]]:
    """The runs of each cell that used the same images as most of its runs, and the others as problems. If two sets of
    images are equally frequent, the set that more runs of the reference used is kept. Teachers, and runs that did not
    record their images, are always kept."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    reference: dict[str, Counter[str]] = defaultdict(Counter)
    for run in runs:
        if run.dataset_digest is not None and run.role == "student":
            seen[run.spec.cell][run.dataset_digest] += 1
            reference[run.spec.cell][run.dataset_digest] += run.spec.method == REFERENCE
    usual = {cell: max(counts, key=lambda images: (counts[images], reference[cell][images], images))
             for cell, counts in seen.items()}
    kept, others = [], []
    for run in runs:
        cell = run.spec.cell
        if run.role == "teacher" or run.dataset_digest in (None, usual.get(cell)):
            kept.append(run)
        else:
            others.append(Problem(store.files.record(run.run_id), f"made of other images (SHA-256 "
                                  f"{str(run.dataset_digest)[:16]}) than the other runs of its cell"))
    return kept, others


def _records_hash(runs: Iterable[Record], hashes: Mapping[str, str], costs: Iterable[Cost],
                  problems: Iterable[Problem], tuned: Tuned, notes: Mapping[str, str]) -> str:
    """The hash of everything that a table is made from, times and machines included: the files of used records,
    profiles and choices, notes of where they came from, planned runs without a record, and the files left out."""
    used = [f"{run.run_id} {hashes.get(run.run_id, run.status)}" for run in runs]
    used += [f"choices {tuned.sha256}"] if tuned.sha256 else []
    used += [f"{name} {sha256}" for name, sha256 in notes.items() if sha256]
    used += [f"profile/{one.profile.run_id} {one.file_sha256}" for one in costs]
    unused = [f"{problem.path.parent.name}/{problem.path.name} {problem.reason}" for problem in problems]
    return digest(sorted(used) + sorted(unused))


class _Reader:
    """Reads the predictions from the records of runs, and collects the ones that cannot be used in `problems`."""

    def __init__(self, store: Store):
        self.store, self.problems = store, list[Problem]()
        self.images: dict[str, tuple] = {}  # by cell: `images` of the first answers read
        self.groups: dict[str, Mapping[str, list[np.ndarray]]] = {}

    def __call__(self, runs: Iterable[Record]) -> dict[int, Predicted]:
        """The predictions of each run whose record has usable ones, by seed. Damaged predictions, and those on other
        images than the first ones that were read of the cell, are left out and noted in `problems`."""
        found = {}
        for run in runs:
            whole = None if run.answers is None else self.store.get(run.run_id)
            if isinstance(whole, Record) and whole.answers is not None:
                try:
                    found[run.spec.seed] = self._read(whole, whole.answers)
                except ValueError as error:
                    self.problems.append(Problem(self.store.files.record(run.run_id), f"its answers: {error}"))
        return found

    def _read(self, run: Record, own: Answers) -> Predicted:
        if own.images != self.images.setdefault(run.spec.cell, own.images):
            raise ValueError("they are of other test images than those of the runs that it is compared with")
        read = read_answers(own)
        return Predicted(read.labels, read.classes, self._groups(run, read))

    def _groups(self, run: Record, own: ReadAnswers) -> Mapping[str, list[np.ndarray]]:
        """The indices of the images of each group by attribute, which are computed once per cell, since its runs share
        them. ValueError if the predictions and the record differ in their number of attributes."""
        if len(own.groups) != len(run.groups):
            raise ValueError(f"they have the groups of {len(own.groups)} attributes, the record has {len(run.groups)}")
        if run.spec.cell not in self.groups:
            self.groups[run.spec.cell] = {
                plain(attribute): [np.flatnonzero(codes == code) for code in range(len(names))]
                for (attribute, names), codes in zip(run.groups.items(), own.groups, strict=True)}
        return self.groups[run.spec.cell]


# Runs to cells.

def _cells(runs: list[Record], known: Known, read: Read, costs: Sequence[Cost],
           tuned: Tuned) -> tuple[Cell, ...]:
    teachers = {run.run_id: run for run in runs if run.role == "teacher"}
    members: dict[str, list[Record]] = defaultdict(list)
    for run in runs:
        if run.role == "student":
            members[run.spec.cell].append(run)
    costs_of: dict[str, list[Cost]] = defaultdict(list)
    for one in costs:
        costs_of[one.profile.spec.cell].append(one)
    for cell, own in members.items():
        if own[0].spec.equal_compute:
            costs_of[cell] = list(costs_of_matched([run.spec for run in own], costs))
    cells = [_cell(own, teachers, known, read, costs_of[cell], tuned) for cell, own in members.items()]
    return tuple(sorted(cells, key=lambda cell: (
        cell.pair, cell.dataset, cell.equal_compute, _share(cell), cell.id)))


def _share(cell: Cell) -> float:
    """The share of images without labels in the batches of a cell; 0 if there are none."""
    return float((cell.spec.get("transfer") or {}).get("share", 0.0))


def _with_compressed(cells: Iterable[Cell], compressed: Iterable[Compressed]) -> Iterable[Cell]:
    """The cells, each with the compressed networks that were made from its students."""
    found = sorted(compressed, key=lambda one: one.run_id)
    for cell in cells:
        runs = {run for row in cell.rows for run in row.runs.values()}
        yield replace(cell, compressed=tuple(one for one in found if one.spec.id in runs))


def _marked(cells: Iterable[Cell], marks: Mapping[str, Mark]) -> Iterable[Cell]:
    """The cells, in which each row that others submitted says how far it was verified: the lowest mark of its runs."""
    for cell in cells:
        yield replace(cell, rows=tuple(
            replace(row, submission=least(marks[run] for run in row.runs.values() if run in marks))
            for row in cell.rows))


def _cell(runs: list[Record], teachers: Mapping[str, Record], known: Known, read: Read,
          costs: list[Cost], tuned: Tuned) -> Cell:
    """The cell of some runs, with its rows and its teacher. The metrics of both include their profiled costs."""
    spec = min(runs, key=lambda run: run.run_id).spec
    teacher = _teacher(runs, teachers)
    groups = _groups(runs)
    specs = [group[0].spec for group in groups]
    specs += [one.profile.spec for one in costs if one.profile.subject == "method"]
    names = tuned.rename(labels(Variant.of(spec, known) for spec in specs), specs, known)
    costs = [replace(one, label=names.get(Variant.of(one.profile.spec, known), one.label)) for one in costs]
    compute = {label: f"{share:.2f}x compute of {EQUAL_TO}" for label, share in shares_of_kd(costs).items()}
    rows = [replace(row, conditions=(*row.conditions, *filter(None, [compute.get(row.label)])), metrics={
        **row.metrics, **{name: {PROFILED_SEED: value} for name, value in method_metrics(costs, row.label).items()},
    }) for row in _rows(groups, names, known, read, tuned, teachers)]
    if teacher is not None and teacher.metrics:
        teacher = replace(teacher, metrics=teacher.metrics | teacher_metrics(costs))
    compared = list(_compared(groups, rows, names, known, tuned))
    return Cell(id=spec.cell, pair=plain(min(run.spec.pair for run in runs)), dataset=plain(spec.dataset),
                spec=spec.model_dump(mode="json"), teacher=teacher, rows=tuple(rows),
                comparisons=_comparisons(rows), costs=tuple(costs),
                tuning=tuple(tuning_of(*one) for one in compared), order=order_of(one for _, one in compared),
                classes=max((run.classes for run in runs), key=len),
                split_sizes=next((run.split_sizes for run in runs if "test" in run.split_sizes), {}),
                sweeps=tuple(sweeps({Variant.of(group[0].spec, known): names[Variant.of(group[0].spec, known)]
                                     for group in groups}, known)))


def _compared(groups: list[list[Record]], rows: list[Row], names: Mapping[Variant, str], known: Known,
              tuned: Tuned) -> Iterable[tuple[Choice, Compared]]:
    """The choices of tuning for a cell's methods, each with the metrics of the method's rows with default and with
    tuned settings. The metrics of a row that does not exist are empty; methods with neither row are left out."""
    by_label = {row.label: row for row in rows}
    labelled = [(group[0].spec, by_label[names[Variant.of(group[0].spec, known)]]) for group in groups]
    cell = groups[0][0].spec.cell
    for choice in sorted(tuned.by_place.values(), key=lambda one: one.method):
        if choice.cell == cell:
            before, empty = choice.default_hyperparameters, dict[str, float]()
            default, chosen = (
                next((row for spec, row in labelled if spec.method == choice.method and settings_of(spec) == settings),
                     None) for settings in ((before, empty), (choice.hyperparameters, choice.recipe)))
            there = [row for row in (default, chosen) if row is not None]
            if there:
                ranked = not any(row.data_free or row.failures for row in there)
                yield choice, Compared(plain(choice.method), ranked, *(row.metrics if row else {}
                                                                       for row in (default, chosen)))


def _comparisons(rows: list[Row]) -> Comparisons:
    """The comparisons of a cell's rows, which must be sorted from the best to the worst."""
    accuracies = {row.label: row.metrics["test_accuracy"] for row in rows if "test_accuracy" in row.metrics}
    blind = {row.label for row in rows if row.data_free}
    complete = [row.label for row in rows if not row.failures]
    return compare({label: own for label, own in accuracies.items() if label not in blind},
                   {label: own for label, own in accuracies.items() if label in blind}, REFERENCES,
                   [label for label in complete if label not in blind])


def _teacher(students: list[Record], teachers: Mapping[str, Record]) -> Teacher | None:
    """The cell's teacher, by its own record if that is finished, else by the metrics of it in the students' records.
    None if the students have no teacher."""
    source = students[0].spec.teacher
    if source is None:
        return None
    architecture = plain(source.architecture.model)
    own = teachers.get(source.run.id) if isinstance(source, TrainedTeacher) else None
    if own is not None and own.status == "ok":
        return Teacher(architecture, "ok", "", metrics_of(own), mean_shares([own]))
    told = next((run.metrics for run in sorted(students, key=lambda run: run.run_id) if run.status == "ok"), {})
    metrics = {name.removeprefix("teacher_"): value for name, value in told.items() if name.startswith("teacher_")}
    if metrics or own is None:
        return Teacher(architecture, "ok" if metrics else "missing", "" if metrics else "no record", metrics)
    return Teacher(architecture, own.status, plain(own.reason or ""), {})


# Runs to rows.

def _groups(runs: list[Record]) -> list[list[Record]]:
    """The runs of each row, sorted by seed."""
    groups: dict[tuple, list[Record]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.spec.method, run.spec.seed, run.run_id)):
        groups[run.spec.settings].append(run)
    return list(groups.values())


def _rows(groups: list[list[Record]], names: Mapping[Variant, str], known: Known, read: Read,
          tuned: Tuned, teachers: Mapping[str, Record]) -> list[Row]:
    called = [(names[Variant.of(group[0].spec, known)], group) for group in groups]
    references = {label: group for label, group in called if label in REFERENCES}
    reference = references.get(REFERENCE, [])
    said = read(reference) if len(_finished(reference)) >= MIN_SEEDS else {}
    taught = _of_teacher(groups[0][0].spec, teachers, read, said)
    return sorted((_row(label, group, references, said, taught, known, read, tuned) for label, group in called),
                  key=_rank)


def _of_teacher(spec: RunSpec, teachers: Mapping[str, Record], read: Read,
                said: Mapping[int, Predicted]) -> Predicted | None:
    """The predictions of a cell's teacher; None if they are not known, or not on the test images of `said`, the
    reference's predictions."""
    source = spec.teacher
    own = teachers.get(source.run.id) if isinstance(source, TrainedTeacher) else None
    if own is None or not said:
        return None
    labels = next(iter(said.values())).labels
    return next((found for found in read([own]).values() if np.array_equal(found.labels, labels)), None)


def _row(label: str, runs: list[Record], references: Mapping[str, list[Record]], said: Mapping[int, Predicted],
         taught: Predicted | None, known: Known, read: Read, tuned: Tuned) -> Row:
    spec, finished, accuracy = runs[0].spec, _finished(runs), _accuracy(runs)
    measured = {run.spec.seed: metrics_of(run) for run in finished}
    shared = set.intersection(*map(set, measured.values())) if measured else set()
    others = {name: _accuracy(group) for name, group in references.items() if group is not runs}
    differences = {name: paired_difference(accuracy, other) for name, other in others.items()}
    common = [run for run in finished if run.spec.seed in said] if runs is not references.get(REFERENCE) else []
    return Row(
        method=plain(spec.method), label=label, family=plain(_family(runs)),
        hyperparameters=dict(Variant.of(spec, known).settings),
        conditions=tuple(_conditions(spec, measured, known, tuned)),
        metrics={name: Numbers({seed: own[name] for seed, own in measured.items()})
                 for name in METRICS if name in shared},
        differences={name: difference for name, difference in differences.items() if difference},
        wins={name: _wins(runs, accuracy, other) for name, other in others.items()},
        harm=harm(read(common), said, taught) if len(common) >= MIN_SEEDS else None,
        failures=tuple(Failure(run.spec.seed, run.status, plain(run.reason or ""))
                       for run in runs if run.status != "ok"),
        runs={run.spec.seed: run.run_id for run in finished}, shares=mean_shares(finished),
    )


def metrics_of(run: Record) -> dict[str, float]:
    """The metrics of a finished run, including training time and peak memory; empty for a run that did not finish."""
    if run.status != "ok":
        return {}
    memory = {} if run.peak_memory_bytes is None else {"peak_memory_bytes": run.peak_memory_bytes}
    return {**run.metrics, "seconds": run.seconds, **memory}


def _wins(runs: list[Record], accuracy: Mapping[int, float], other: Mapping[int, float]) -> Wins:
    pairs = [run.spec.seed for run in runs if run.spec.seed in other and run.status != "inapplicable"]
    both = [(accuracy[seed], other[seed]) for seed in pairs if seed in accuracy]
    return Wins(sum((ours > theirs) + (ours == theirs) / 2 for ours, theirs in both), len(pairs))


def _finished(runs: list[Record]) -> list[Record]:
    return [run for run in runs if run.status == "ok"]


def _accuracy(runs: Iterable[Record]) -> dict[int, float]:
    """Test accuracy of the finished runs, by seed."""
    return {run.spec.seed: run.metrics["test_accuracy"] for run in runs
            if run.status == "ok" and "test_accuracy" in run.metrics}


def _conditions(spec: RunSpec, measured: Mapping[int, Mapping[str, float]], known: Known,
                tuned: Tuned) -> Iterable[str]:
    """What differs from plain training by the recipe, in words: whether the settings were tuned, the conditions that
    the method declares, its budget of updates, its epochs at equal compute, the images that pass through the networks,
    and the size of the deployed network."""
    if mark := tuned.mark(spec):
        yield mark
    if spec.method in known:
        yield from map(plain, known[spec.method].conditions)
    if spec.updates != 1:
        yield f"{spec.updates}x updates"
    if spec.equal_compute:
        yield counted(spec.training.epochs, "epoch")
    for name, metric in CONDITIONS.items():
        each = spec.updates if name in PASSES else 1  # passes are stated per update
        values = [own[name] / each for own in measured.values() if name in own]
        mean = sum(values) / len(values) if values else 0.0
        if mean and not MUCH_ALIKE[0] < mean < MUCH_ALIKE[1]:
            yield f"{mean:.2g}x {metric}"


def _family(runs: list[Record]) -> str:
    return min((run.family for run in runs if run.family), default="unknown")


def _rank(row: Row) -> tuple:
    """The sort key of a cell's rows: by falling test accuracy, rows without a result last."""
    accuracy = row.estimate("test_accuracy")
    return accuracy is None, -accuracy.mean if accuracy else 0.0, row.method, row.label
