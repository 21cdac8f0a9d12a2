"""How much of its teacher's bias each student inherited, added to and mended, by several measures of bias.

For each measure three figures are compared: the teacher's, the plain student's (the reference, which learned from the
same images without a teacher) and the student's own. Bias that the teacher has too counts as inherited, and bias beyond
the teacher's as added. Less bias than the plain student's counts as mended, and more as worsened.
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
    """The mean over seeds of a student's figure minus the figure of its teacher or of the plain student."""

    mean: float
    half_width: float | None  # of the 95 % interval; None if there are too few seeds
    p: float | None           # p-value of no difference, corrected for the number of students (Holm); None: not tested
    fairer: bool              # whether the student's figure is the better one

    @property
    def significant(self) -> bool:
        return self.p is not None and self.p < SIGNIFICANCE


@dataclass(frozen=True)
class Finding:
    """A measure of one student, compared with its teacher and with the plain student."""

    label: str
    value: Estimate
    to_teacher: Difference | None    # None if the teacher's figure is not known
    to_reference: Difference | None  # None for the reference, and if the two cannot be tested

    @property
    def added(self) -> bool:
        """Whether the student is significantly more biased than its teacher."""
        return self.to_teacher is not None and self.to_teacher.significant and not self.to_teacher.fairer

    @property
    def mended(self) -> bool:
        """Whether the student is significantly less biased than the plain student."""
        return self.to_reference is not None and self.to_reference.significant and self.to_reference.fairer

    @property
    def worsened(self) -> bool:
        """Whether the student is significantly more biased than the plain student."""
        return self.to_reference is not None and self.to_reference.significant and not self.to_reference.fairer


def audit(cell: Cell) -> dict[str, tuple[Finding, ...]]:
    """The findings on a cell's methods by measure, each in the order of the cell's rows. Methods that lack the measure,
    and measures that no method has, are left out."""
    return {metric: found for metric in MEASURES if (found := _findings(cell, metric))}


def has_groups(cell: Cell) -> bool:
    """Whether any method of a cell has a measure of bias between groups of test images."""
    return any(metric in row.metrics for row in cell.rows for metric in OF_GROUPS)


def _findings(cell: Cell, metric: str) -> tuple[Finding, ...]:
    values = {row.label: row.metrics[metric] for row in cell.rows if metric in row.metrics}
    teacher = cell.teacher.metrics.get(metric) if cell.teacher else None
    taught = _to_teacher(values, teacher, metric) if teacher is not None else {}
    plain = _to_reference(cell, values, metric)
    return tuple(Finding(label, estimate(list(own.values())), taught.get(label), plain.get(label))
                 for label, own in values.items())


def _to_teacher(values: Mapping[str, Mapping[int, float]], teacher: float, metric: str) -> dict[str, Difference]:
    """Each student's difference to the teacher by label. The teacher is a single network, so that this is Student's
    one-sample t-test over the student's seeds."""
    found = {label: estimate([value - teacher for value in own.values()]) for label, own in values.items()}
    p_values = dict(zip(found, holm([p_value_of(one) for one in found.values()]), strict=True))
    return {label: Difference(one.mean, one.half_width if one.count >= MIN_SEEDS else None, p_values[label],
                              _fairer(metric, one.mean)) for label, one in found.items()}


def _to_reference(cell: Cell, values: Mapping[str, Mapping[int, float]], metric: str) -> dict[str, Difference]:
    """Each student's difference to the plain student on equal seeds by label, with moderated intervals as in the cell's
    main table."""
    blind = {row.label for row in cell.rows if row.data_free}
    told = compare({label: own for label, own in values.items() if label not in blind},
                   {label: own for label, own in values.items() if label in blind}, (REFERENCE,), ())
    return {label: Difference(one.mean, one.half_width, one.corrected, _fairer(metric, one.mean))
            for label, one in told.to.get(REFERENCE, {}).items()}


def _fairer(metric: str, difference: float) -> bool:
    return difference > 0 if METRICS[metric].better == "higher" else difference < 0


def summary(findings: Sequence[Finding], teacher: float | None) -> tuple[str, ...]:
    """Sentences that name the methods which mended and which worsened a measure against the plain student and, unless
    the figure of the teacher is None, those which added to the teacher's bias and those which are fairer than the
    teacher."""
    mended, worsened, added = ([one.label for one in findings if getattr(one, what)]
                               for what in ("mended", "worsened", "added"))
    fairer = [one.label for one in findings if one.to_teacher and one.to_teacher.significant and one.to_teacher.fairer]
    said = [f"Mended against {REFERENCE}: {', '.join(mended) or 'by none'}.",
            f"Worsened against {REFERENCE}: {', '.join(worsened) or 'by none'}."]
    if teacher is not None:
        said += [f"Added to the teacher's: {', '.join(added) or 'by none'}.",
                 f"Fairer than the teacher: {', '.join(fairer) or 'none'}."]
    return tuple(said)
