"""Comparison of several teachers of the same student: the cells of a folder that differ only in the teacher, and where
a more accurate teacher makes a worse student."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kdbench.analysis.board import OF_A_RUN, Cell, Leaderboard, Row
from kdbench.analysis.moderated import Comparison, family, moderate
from kdbench.errors import counted
from kdbench.spec import digest

METRIC = "test_accuracy"
OWN = (*OF_A_RUN, "pair", "teacher")  # the fields of a spec that cells of a series may differ in


@dataclass(frozen=True)
class Taught:
    """A teacher, and the cell of the students that learned from it."""

    name: str                 # its pair's name; the cell's title if several cells have a pair of this name
    cell: Cell
    accuracy: float           # the teacher's on the test images
    parameters: float | None  # the teacher's; None if no record states them
    usual: bool               # whether it was trained by the most common recipe of the series' teachers

    @property
    def rows(self) -> dict[str, Row]:
        """The rows of the cell by label."""
        return {row.label: row for row in self.cell.rows}


@dataclass(frozen=True)
class Series:
    """Several teachers of one student, whose architecture, recipe and images are the same with every teacher; so are
    its batches for equal seeds."""

    title: str                          # "the student on the dataset"
    parameters: float | None            # the student's; None if no row states them
    teachers: tuple[Taught, ...]        # by rising test accuracy
    taught: tuple[str, ...]             # labels of rows whose results depend on the teacher
    untaught: tuple[str, ...]           # labels of rows whose results are the same with every teacher
    # By label and cell id: test accuracy with the cell's teacher minus that with the most accurate one, on equal seeds.
    comparisons: Mapping[tuple[str, str], Comparison]

    @property
    def best(self) -> Taught:
        """The most accurate teacher."""
        return self.teachers[-1]

    def row(self, label: str) -> Row:
        """The row with one of the labels in `untaught`, from the first teacher whose cell has it."""
        return next(one.rows[label] for one in self.teachers if label in one.rows)


def series(leaderboard: Leaderboard) -> list[Series]:
    """The series of two or more cells that differ only in the teacher, in the order of their first cells. Cells whose
    teacher's test accuracy is not known, and methods that see no data, are left out."""
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in leaderboard.cells:
        if cell.teacher is not None and METRIC in cell.teacher.metrics:
            shared = {name: value for name, value in cell.spec.items() if name not in OWN}
            groups[digest([shared, cell.equal_compute])].append(cell)
    return [_series(cells, leaderboard) for cells in groups.values() if len(cells) > 1]


def _series(cells: list[Cell], leaderboard: Leaderboard) -> Series:
    pairs, recipes = Counter(cell.pair for cell in cells), Counter(map(_recipe, cells))
    usual = recipes.most_common(1)[0][0]
    teachers = sorted((Taught(
        cell.pair if pairs[cell.pair] == 1 else leaderboard.title(cell), cell, cell.teacher.metrics[METRIC],
        cell.teacher.metrics.get("parameters"), _recipe(cell) == usual)
        for cell in cells if cell.teacher is not None), key=lambda one: (one.accuracy, one.name))
    rows = [(row.label, one.cell.id, row.metrics[METRIC]) for one in teachers for row in one.cell.rows
            if METRIC in row.metrics and not row.data_free]
    labels = list(dict.fromkeys(label for label, *_ in rows))
    same = {label for label in labels if _same([values for name, _, values in rows if name == label])}
    best = teachers[-1].cell.id
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for label, cell, accuracies in rows:
        values[_key(label, "" if label in same else cell)].update(accuracies)
    asked = {(label, cell): (_key(label, cell), _key(label, best)) for label, cell, _ in rows
             if label not in same and cell != best and _key(label, best) in values}
    own = _parameters(cells)
    size = "" if own is None else f" of {own:,.0f} parameters"
    kind = f" ({cells[0].regime})" if cells[0].regime else ""
    return Series(f"{cells[0].spec['student']['model']}{size} on {cells[0].dataset}{kind}", own, tuple(teachers),
                  tuple(label for label in labels if label not in same),
                  tuple(label for label in labels if label in same), family(asked, values, moderate(values)[1]))


def _key(label: str, cell: str) -> str:
    return f"{label}\n{cell}"


def _recipe(cell: Cell) -> str:
    """A key that is equal for teachers that were trained alike: the hash of the teacher's recipe or, if kdbench did not
    train it, the kind of source that its weights come from."""
    teacher: dict[str, Any] = cell.spec["teacher"]
    return digest(teacher["run"]["recipe"]) if teacher["kind"] == "run" else str(teacher["kind"])


def _same(values: list[Mapping[int, float]]) -> bool:
    """Whether the runs of each seed have equal accuracies in all of two or more cells, so that the method ignores the
    teacher. `values` has the accuracies by seed of each cell."""
    by_seed: dict[int, set[float]] = defaultdict(set)
    for own in values:
        for seed, value in own.items():
            by_seed[seed].add(value)
    return len(values) > 1 and all(len(found) == 1 for found in by_seed.values())


def _parameters(cells: Iterable[Cell]) -> float | None:
    """The plain student's number of parameters, by the first row of the cells that states it; None if none does."""
    return next((size.mean / row.size for cell in cells for row in cell.rows
                 if (size := row.estimate("parameters")) is not None), None)


def sentences(one: Series) -> Iterator[str]:
    """Sentences that sum up a series: its teachers, the methods that ignore them, and where a more accurate teacher
    makes a worse student."""
    sizes = [teacher.parameters for teacher in one.teachers if teacher.parameters is not None]
    reach = ""
    if len(sizes) == len(one.teachers):
        reach = f" of {sizes[0]:,.0f} parameters each," if len(set(sizes)) == 1 else \
            f" from {min(sizes):,.0f} to {max(sizes):,.0f} parameters and"
    yield (f"{len(one.teachers)} teachers of the same student,{reach} from {one.teachers[0].accuracy:.2%} to "
           f"{one.best.accuracy:.2%} test accuracy; the most accurate is that of {one.best.name}.".replace("%", " %"))
    if one.untaught:
        yield f"The same with every teacher: {', '.join(one.untaught)}."
    if not one.comparisons:
        yield "Teachers cannot be compared: that takes a method with two seeds of each."
        return
    better = {place: found for place, found in one.comparisons.items() if found.significant and found.mean > 0}
    worse = sum(found.significant and found.mean < 0 for found in one.comparisons.values())
    for label in one.taught:
        names = [f"{teacher.name} ({_points(better[label, teacher.cell.id])})" for teacher in reversed(one.teachers)
                 if (label, teacher.cell.id) in better]
        if names:
            yield (f"{label}: a better teacher makes a worse student. With that of {one.best.name}, it is less "
                   f"accurate than with the less accurate {' or '.join(names)}.")
    unclear = len(one.comparisons) - worse - len(better)
    yield (f"Of {counted(len(one.comparisons), 'comparison')} of another teacher's students with those of the most "
           f"accurate one, {worse} {'is' if worse == 1 else 'are'} worse, {len(better)} better and {unclear} unclear "
           "(at 5 %, after Holm's correction).")


def _points(found: Comparison) -> str:
    return f"{100 * found.mean:+.2f} points"
