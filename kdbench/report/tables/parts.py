"""The tables that look beyond overall accuracy: harm by class and image, groups, robustness, accuracy on each part of
the test images."""

from collections.abc import Iterable, Iterator

from kdbench.analysis.board import REFERENCE, Cell
from kdbench.analysis.harm import ClassChange, Harm
from kdbench.data import catalog
from kdbench.errors import UserError
from kdbench.metrics.catalog import METRICS
from kdbench.report.formatting import NONE, Table, interval, number, p_value

FURTHER = {  # the metrics of tables by heading; a table is shown if some method of the cell has one
    "Groups": ("worst_group_accuracy", "group_gap", "equalised_odds_difference", "demographic_parity_difference",
               "bias_amplification"),
    "Long tail": ("many_shot_accuracy", "medium_shot_accuracy", "few_shot_accuracy"),
    "Robustness": ("clean_accuracy", "corruption_accuracy", "pgd_small_accuracy", "pgd_accuracy"),
    "AutoAttack": ("autoattack_small_accuracy", "autoattack_accuracy"),
}
ATTACKS = {"pgd_accuracy": "PGD", "autoattack_accuracy": "AutoAttack"}
MOST_AFFECTED = 10  # lines of a table of classes
MOST_PARTS = 12     # classes, groups or corruptions with a column each; of more, only the hardest are named
HARDEST = 5


def part_tables(cell: Cell, name: str) -> Iterator[Table]:
    """The tables of a cell that look beyond overall accuracy; `name` is the cell's name in their titles."""
    if any(row.harm for row in cell.rows):
        yield _class_table(cell, name)
        yield _affected_table(cell, name)
    for what, columns in FURTHER.items():
        if measures(cell, columns):
            yield _further_table(cell, f"{what}: {name}", columns)
    for kind in dict.fromkeys(kind for row in cell.rows for kind in row.shares):
        yield _share_table(cell, kind, name)


def measures(cell: Cell, metrics: Iterable[str]) -> bool:
    return any(name in row.metrics for row in cell.rows for name in metrics)


def _further_table(cell: Cell, heading: str, metrics: tuple[str, ...]) -> Table:
    """The table of these metrics for the cell's methods, below a line for the teacher."""
    lines = [[row.label, *(interval(row.estimate(name), METRICS[name].unit) for name in metrics)]
             for row in cell.rows if row.runs]
    if cell.teacher and cell.teacher.metrics:
        teacher = cell.teacher.metrics
        lines.insert(0, ["teacher", *(number(teacher.get(name), METRICS[name].unit) for name in metrics)])
    notes = _radii(cell, metrics)
    return Table(heading, ["method", *(METRICS[name].header for name in metrics)], lines, 1, notes)


def _share_table(cell: Cell, kind: str, name: str) -> Table:
    """The table of the mean accuracies of the teacher and the methods on the parts of one kind: a column for each part,
    and one that names the lowest part. For more than `MOST_PARTS` parts, it has the `HARDEST` lowest ones of each
    method by name."""
    known = cell.shares(kind)
    names = list(dict.fromkeys(part for _, parts in known for part in parts))
    title, what = f"Accuracy by {kind}: {name}", kind.partition(":")[0]
    lowest = {label: sorted(parts, key=lambda part: (parts[part].mean, part)) for label, parts in known}
    if len(names) <= MOST_PARTS:
        return Table(title, ["method", *names, f"lowest {what}"], [
            [label, *(number(parts[part].mean if part in parts else None, "share") for part in names), lowest[label][0]]
            for label, parts in known], 1)
    return Table(title, ["method", *(f"lowest {what} {place}" for place in range(1, HARDEST + 1))], [
        [label, *(f"{part} {number(parts[part].mean, 'share')}" for part in lowest[label][:HARDEST])]
        for label, parts in known], 1, (f"The {HARDEST} of {len(names)} with the lowest accuracy; leaderboard.json has "
                                        "all.",))


def _radii(cell: Cell, metrics: Iterable[str]) -> tuple[str, ...]:
    """The note on the radii of the attacks in a table of these metrics; empty without attacks, or if the dataset is not
    known."""
    attack = next((ATTACKS[name] for name in metrics if name in ATTACKS), None)
    if attack is None:
        return ()
    try:
        info = catalog.parse(cell.dataset).info
    except UserError:
        return ()
    return (f"{attack} (small) changes pixels in 0..1 by up to {info.small_attack_radius:.4f}, {attack} by up to "
            f"{info.attack_radius:.4f}.",)


def _class_table(cell: Cell, name: str) -> Table:
    """The table of how many classes each method harms and helps, which share of the images it flips, and which class it
    changes most."""
    header = ["method", "harmed", "helped", "flipped", "right there", f"{REFERENCE} there", "most affected"]
    lines = []
    for row in cell.rows:
        if (told := row.harm) is not None:
            most = affected(told)[0]
            lines.append([row.label, str(len(told.harmed)), str(len(told.helped)), number(told.flipped, "share"),
                          number(told.flipped_accuracy, "share"), number(told.flipped_reference, "share"),
                          f"{cell.class_name(most.index)} {number(most.change, 'share', '+')}"])
    return Table(f"Classes and images against {REFERENCE}: {name}", header, lines, 1)


def _affected_table(cell: Cell, name: str) -> Table:
    """The table of the `MOST_AFFECTED` largest changes of a class against the reference, over all methods of the
    cell."""
    header = ["class", "method", "images", REFERENCE, "method's", "change", "p (Holm)"]
    changes = [(row.label, change) for row in cell.rows if row.harm for change in affected(row.harm)]
    changes.sort(key=lambda item: (-abs(item[1].change), item[0], item[1].index))
    return Table(f"Most affected classes against {REFERENCE}: {name}", header, [
        [cell.class_name(c.index), label, str(c.images), number(c.reference, "share"), number(c.accuracy, "share"),
         number(c.change, "share", "+"), NONE if c.p is None else p_value(c.p)]
        for label, c in changes[:MOST_AFFECTED]
    ], 2)


def affected(comparison: Harm) -> list[ClassChange]:
    """The changes of all classes, sorted by their size, the largest first."""
    return sorted(comparison.classes, key=lambda c: (-abs(c.change), c.index))
