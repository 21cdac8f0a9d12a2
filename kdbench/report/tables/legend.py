"""The legend of the tables: what their columns and signs mean."""

from kdbench.analysis.answers.audit import has_groups
from kdbench.analysis.board import EQUAL_COMPUTE, REFERENCE, Leaderboard
from kdbench.metrics.catalog import METRICS
from kdbench.report.formatting import INTERVALS, LARGER, MARKS
from kdbench.report.tables.cell import COLUMNS
from kdbench.report.tables.fairness import MEANING as AUDIT_MEANING
from kdbench.report.tables.parts import FURTHER, measures
from kdbench.results.submitted import MEANING


def legend(leaderboard: Leaderboard) -> list[str]:
    """The meaning of the columns of the cells' tables, one sentence for each column or group of columns shown."""
    lines = [
        INTERVALS, MARKS,
        *(f"{METRICS[name].header}: {METRICS[name].definition}" for name in ("test_accuracy", *COLUMNS)),
    ]
    if any(row.larger for cell in leaderboard.cells for row in cell.rows):
        lines.append(LARGER)
    if any(row.conditions for cell in leaderboard.cells for row in cell.rows):
        lines.append("conditions: what is otherwise than in plain training: the student's updates, and the images that "
                     "pass through student (with peers) and teacher for each of them, in multiples of plain "
                     "training's; the size of what is deployed, in multiples of the student's; with kd: of another "
                     "family than kd's, its loss has a term on the teacher's answers, too; no labels: its loss does "
                     "not read them; 2 runs: a copy of the student was trained before, which is in no cost shown "
                     "here.")
    if any("assistant" in row.conditions for cell in leaderboard.cells for row in cell.rows):
        lines.append("assistant: it learns from a network that the teacher trained before, in a run that is in no cost "
                     "shown here.")
    if any(row.submission for cell in leaderboard.cells for row in cell.rows):
        lines.append("submission: results that others sent: "
                     + "; ".join(f"{mark}: {meaning}" for mark, meaning in MEANING.items()) + ".")
    if any(cell.equal_compute for cell in leaderboard.cells):
        lines.append(f"{EQUAL_COMPUTE}: in place of the same steps, each method has the whole epochs, at least one, "
                     "that come nearest to the core-seconds of kd's training steps, by the ratios of step times that "
                     "`kdbench profile` measured alone and with a live teacher; its epochs, and its compute in "
                     "multiples of kd's where these profiles are at hand, stand beside its name. Budgets of updates do "
                     "not count there.")
    if any(cell.transfer for cell in leaderboard.cells):
        lines.append("unlabelled images: methods that learn from a trained network get that share of every batch from "
                     "images without labels, if they can learn from them; the others get the labelled images alone. "
                     "All take the same number of updates on batches of the same size.")
    if any(row.data_free for cell in leaderboard.cells for row in cell.rows):
        lines.append("Without data: methods that see neither images nor labels, with a budget of updates of their own; "
                     "they are not ranked among those that do.")
    if any(row.harm for cell in leaderboard.cells for row in cell.rows):
        lines += [
            f"harmed, helped: number of classes whose accuracy differs from {REFERENCE}'s with the same seeds, at 5 % "
            "after Holm's correction for the number of classes, by min F' (Clark, 1973), which holds for other seeds "
            "and for other images.",
            f"flipped: share of test images whose majority prediction over seeds differs from {REFERENCE}'s "
            "(compression-identified exemplars; Hooker et al., 2019), then the accuracy there of the method and of "
            f"{REFERENCE}.",
        ]
    if any(map(has_groups, leaderboard.cells)):
        lines.append(AUDIT_MEANING)
    measured = [name for columns in FURTHER.values() for name in columns
                if any(measures(cell, (name,)) for cell in leaderboard.cells)]
    return lines + [f"{METRICS[name].header}: {METRICS[name].definition}" for name in measured]
