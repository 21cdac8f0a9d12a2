"""What a student inherited of its teacher's bias, what it added, and what it mended, by measures of bias.

Of each measure three figures are compared: the teacher's, the plain student's (the reference, which saw the same images
and no teacher) and the student's own. The bias that its teacher has as well counts as inherited; what the student has
beyond the teacher, as added; what it has less than the plain student, as mended, and more, as worsened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdbench.analysis.answers.changes import p_value_of
from kdbench.analysis.board import REFERENCE, Cell
from kdbench.analysis.harm import MIN_SEEDS, SIGNIFICANCE, holm
from kdbench.analysis.intervals import Estimate, estimate
from kdbench.analysis.moderated import compare
from kdbench.metrics.catalog import METRICS

MEASURES = ("worst_class_accuracy", "worst_group_accuracy", "group_gap", "equalised_odds_difference",
            "demographic_parity_difference", "bias_amplification")
OF_GROUPS = MEASURES[1:]


@dataclass(frozen=True)
class Difference:
    """The mean over seeds of a student's figure less another network's, with half its 95 % interval."""

    mean: float
    half_width: float | None  # None where seeds are too few
    p: float | None           # of no difference, corrected for the number of students of the cell (Holm)
    fairer: bool              # whether the student's figure is the better one

    @property
    def significant(self) -> bool:
        return self.p is not None and self.p < SIGNIFICANCE


@dataclass(frozen=True)
class Finding:
    """A measure of a student beside those of its teacher and of the plain student."""

    label: str
    value: Estimate
    to_teacher: Difference | None    # None where the teacher's figure is not known
    to_reference: Difference | None  # None for the reference, and with fewer than two seeds in common

    @property
    def added(self) -> bool:
        """Whether the student is more biased than its teacher."""
        return self.to_teacher is not None and self.to_teacher.significant and not self.to_teacher.fairer

    @property
    def mended(self) -> bool:
        """Whether the student is less biased than the plain student."""
        return self.to_reference is not None and self.to_reference.significant and self.to_reference.fairer

    @property
    def worsened(self) -> bool:
        """Whether the student is more biased than the plain student."""
        return self.to_reference is not None and self.to_reference.significant and not self.to_reference.fairer


def audit(cell: Cell) -> dict[str, tuple[Finding, ...]]:
    """By measure, the findings on the cell's methods, in the order of its rows; without those that lack the measure,
    and without measures that no method has."""
    return {metric: found for metric in MEASURES if (found := _findings(cell, metric))}


def has_groups(cell: Cell) -> bool:
    """Whether the test images of a cell have groups by which its methods were measured."""
    return any(metric in row.metrics for row in cell.rows for metric in OF_GROUPS)


def _findings(cell: Cell, metric: str) -> tuple[Finding, ...]:
    values = {row.label: row.metrics[metric] for row in cell.rows if metric in row.metrics}
    teacher = cell.teacher.metrics.get(metric) if cell.teacher else None
    taught = _to_teacher(values, teacher, metric) if teacher is not None else {}
    plain = _to_reference(cell, values, metric)
    return tuple(Finding(label, estimate(list(own.values())), taught.get(label), plain.get(label))
                 for label, own in values.items())


def _to_teacher(values: Mapping[str, Mapping[int, float]], teacher: float, metric: str) -> dict[str, Difference]:
    """Each student less the teacher, a network that is given: Student's t over the student's seeds."""
    found = {label: estimate([value - teacher for value in own.values()]) for label, own in values.items()}
    p_values = dict(zip(found, holm([p_value_of(one) for one in found.values()]), strict=True))
    return {label: Difference(one.mean, one.half_width if one.count >= MIN_SEEDS else None, p_values[label],
                              _fairer(metric, one.mean)) for label, one in found.items()}


def _to_reference(cell: Cell, values: Mapping[str, Mapping[int, float]], metric: str) -> dict[str, Difference]:
    """Each student less the plain one on equal seeds, with the moderated intervals of the cell's main table."""
    blind = {row.label for row in cell.rows if row.data_free}
    told = compare({label: own for label, own in values.items() if label not in blind},
                   {label: own for label, own in values.items() if label in blind}, (REFERENCE,), ())
    return {label: Difference(one.mean, one.half_width, one.corrected, _fairer(metric, one.mean))
            for label, one in told.to.get(REFERENCE, {}).items()}


def _fairer(metric: str, difference: float) -> bool:
    return difference > 0 if METRICS[metric].better == "higher" else difference < 0


def summary(findings: Sequence[Finding], teacher: float | None) -> tuple[str, ...]:
    """What the findings on one measure say, a sentence for each thing that there is something to say of."""
    mended, worsened, added = ([one.label for one in findings if getattr(one, what)]
                               for what in ("mended", "worsened", "added"))
    fairer = [one.label for one in findings if one.to_teacher and one.to_teacher.significant and one.to_teacher.fairer]
    said = [f"Mended against {REFERENCE}: {', '.join(mended) or 'by none'}.",
            f"Worsened against {REFERENCE}: {', '.join(worsened) or 'by none'}."]
    if teacher is not None:
        said += [f"Added to the teacher's: {', '.join(added) or 'by none'}.",
                 f"Fairer than the teacher: {', '.join(fairer) or 'none'}."]
    return tuple(said)
