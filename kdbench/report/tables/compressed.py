"""The table of compressed students: one row for each row of the leaderboard and kind of network."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kdbench.analysis.board import Cell
from kdbench.analysis.intervals import Estimate, estimate, paired_difference
from kdbench.compress.record import CALIBRATION, FLOAT_AGREEMENT, KINDS, Compressed
from kdbench.metrics.catalog import METRICS
from kdbench.profile.record import BUSY
from kdbench.report.formatting import NONE, Table, interval, number, three_digits
from kdbench.report.tables.costs import SOURCES

USE = {  # by name: the column's header, and what its values are divided by
    "onnx_file_bytes": ("KiB", 2**10), "onnx_latency_ms": ("ms", 1), "onnx_latency_p95_ms": ("p95 ms", 1),
    "onnx_joules_per_1000_images": ("J/1000", 1),
}
SHARES = {  # by metric: the column's header
    FLOAT_AGREEMENT: "as float", "worst_class_accuracy": "worst", "worst_group_accuracy": "worst group",
    "corruption_accuracy": "corrupted", "pgd_small_accuracy": "PGD small", "pgd_accuracy": "PGD",
}
FLOAT = "float"


@dataclass(frozen=True)
class CompressedRow:
    """The networks of one kind that were made from the students of one row of the leaderboard."""

    label: str                              # of the leaderboard's row
    method: str
    family: str
    network: str                            # the kind, such as "int8"
    networks: dict[int, Compressed]         # the networks that were made, by seed
    failures: dict[int, Compressed]         # the records of those that could not be made, by seed

    def values(self, name: str) -> dict[int, float]:
        """The values of a metric, or of a figure in `USE`, by seed; without networks that lack it."""
        found = {seed: value_of(one, name) for seed, one in self.networks.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def estimate(self, name: str) -> Estimate | None:
        found = list(self.values(name).values())
        return estimate(found) if found else None


def value_of(one: Compressed, name: str) -> float | None:
    """The value of a network's metric, or of the figure of its use that has that name in `USE`; None if it is not
    known."""
    if name not in USE or one.use is None or one.file_bytes is None:
        return one.metrics.get(name)
    joules = one.use.joules_per_1000_images
    return {"onnx_file_bytes": float(one.file_bytes), "onnx_latency_ms": 1000 * one.use.latency_seconds.median,
            "onnx_latency_p95_ms": 1000 * one.use.latency_p95_seconds,
            "onnx_joules_per_1000_images": joules.median if joules else None}[name]


def compressed_rows(cell: Cell) -> list[CompressedRow]:
    """The rows of a cell's compressed networks, in the order of the leaderboard's rows; for each of these, the float
    network comes before the networks that were made from it."""
    row_of = {run: row for row in cell.rows for run in row.runs.values()}
    groups: dict[tuple[str, str], list[Compressed]] = defaultdict(list)
    for one in cell.compressed:
        groups[row_of[one.spec.id].label, one.label].append(one)
    place = {row.label: number for number, row in enumerate(cell.rows)}
    order = sorted(groups, key=lambda key: (place[key[0]], KINDS.index(groups[key][0].kind), key[1]))
    found = []
    for label, network in order:
        row = cell.rows[place[label]]
        some = sorted(groups[label, network], key=lambda one: (one.spec.seed, one.finished))
        found.append(CompressedRow(
            label, row.method, row.family, network,
            {one.spec.seed: one for one in some if one.status == "ok"},
            {one.spec.seed: one for one in some if one.status != "ok"}))
    return found


def compressed_tables(cell: Cell, name: str) -> Iterator[Table]:
    """The table of a cell's compressed networks; none if there are no such networks. `name` is the cell's name in its
    title."""
    if not cell.compressed:
        return
    rows = compressed_rows(cell)
    shares = [metric for metric in SHARES if any(row.values(metric) for row in rows)]
    floats = {row.label: row for row in rows if row.network == FLOAT}
    lines = [[row.label, row.network, str(len(row.networks)),
              interval(row.estimate("test_accuracy"), "share"), _change(row, floats.get(row.label)),
              *("" if metric == FLOAT_AGREEMENT and row.network == FLOAT else
                number(_mean(row, metric), "share") for metric in shares),
              *(_cost(row, metric) for metric in USE)] for row in rows]
    header = ["method", "network", "seeds", METRICS["test_accuracy"].header, "vs float",
              *(SHARES[metric] for metric in shares), *(header for header, _ in USE.values())]
    yield Table(f"Compressed: {name}", header, lines, 2, tuple(_notes(rows, list(cell.compressed))))


def _mean(row: CompressedRow, metric: str) -> float | None:
    found = row.estimate(metric)
    return found.mean if found else None


def _change(row: CompressedRow, reference: CompressedRow | None) -> str:
    if row.network == FLOAT:
        return ""
    if reference is None or (told := paired_difference(row.values("test_accuracy"),
                                                       reference.values("test_accuracy"))) is None:
        return NONE
    return interval(told, "share", "+")


def _cost(row: CompressedRow, name: str) -> str:
    mean = _mean(row, name)
    return NONE if mean is None else three_digits(mean / USE[name][1])


def _notes(rows: Sequence[CompressedRow], found: Sequence[Compressed]) -> Iterable[str]:
    """The notes of the table: how the networks were made and measured, on which machine, and which could not be
    made."""
    yield ("Every network is an ONNX file that onnxruntime runs on one thread of the CPU, the float one among them. "
           "vs float: of test accuracy, on equal seeds. as float: share of test images for which it predicts the class "
           "that the float student does. KiB: of the file. ms: median latency of one image, and its 95th percentile, "
           "call by call in turns with the student's other networks.")
    if any(one.calibration_images for one in found):
        yield (f"int8: static, of the layers with weights and of their inputs; ranges are those of {CALIBRATION} "
               "training images (all, where there are fewer). PGD on int8 is a transfer: it has no gradients, so that "
               "attacks follow those of the float network that it was made of, and the figure is an upper bound.")
    epochs = sorted({one.recovery_epochs for one in found if one.recovery_epochs is not None})
    if epochs:
        yield ("pruned: that share of the channels of every layer, by the L2 norm of their weights; then "
               f"{' or '.join(map(str, epochs))} epochs on the training images, in which it learns the float student's "
               "probabilities and no labels. These steps are not among the method's.")
    measured = [one for one in found if one.status == "ok"]
    yield f"Measured on {'; '.join(sorted({str(one.environment.get('cpu')) for one in measured}))}, 1 thread." \
        if measured else "None could be made."
    if (load := max((one.load_average or 0 for one in measured), default=0)) > BUSY:
        yield f"The machine's load average was up to {load:.1f} when measurements began: something else ran."
    for source in sorted({one.energy_source for one in measured if one.energy_source}):
        watts = sorted({one.watts_per_core for one in measured if one.energy_source == source and one.watts_per_core})
        yield f"Energy, {source}: {SOURCES[source]}" + (
            f", at {' or '.join(f'{w:g}' for w in watts)} W per core." if watts else ".")
    for row in rows:
        why = {seed: one.reason or one.status for seed, one in row.failures.items()}
        for reason in dict.fromkeys(why.values()):
            seeds = [str(seed) for seed, one in why.items() if one == reason]
            yield f"{NONE}: {row.label}, {row.network}, seed {', '.join(seeds)}: {reason}."
