"""What a leaderboard consists of: cells, their rows and teachers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kdbench.analysis.costs import Cost
from kdbench.analysis.harm import Harm
from kdbench.analysis.intervals import Estimate, estimate
from kdbench.analysis.labels import Sweep
from kdbench.analysis.moderated import Comparison, Comparisons
from kdbench.analysis.shares import Shares, class_names
from kdbench.analysis.tuned import Order, Tuning
from kdbench.compress.record import Compressed
from kdbench.data import catalog
from kdbench.errors import UserError, plain
from kdbench.plugins.source import Facts
from kdbench.results.submitted import Mark
from kdbench.spec import Transfer

REFERENCE = "ce"                # every method is compared with plain training,
REFERENCES = (REFERENCE, "kd")  # and with the oldest way to distill
DATA_FREE = "data_free"         # the family that sees no training image, and is ranked by itself
EQUAL_COMPUTE = "equal compute"  # in titles,
LABELLED = "labelled images alone"  # likewise, beside cells that have others
OF_A_RUN = ("method", "hyperparameters", "seed", "self_teacher", "updates", "own_recipe")  # what differs in a cell
MUCH_ALIKE = 0.95, 1.05  # times what plain training has: not worth a word
PROFILED_SEED = 0               # costs do not depend on the seed: they are measured for one


@dataclass(frozen=True)
class Failure:
    """A run that failed, does not apply, or is missing, and why."""

    seed: int
    status: str
    reason: str


@dataclass(frozen=True)
class Wins:
    """Of how many pairs of runs a method won how many; a tie is half, a run that failed or is missing is lost."""

    won: float
    pairs: int


@dataclass(frozen=True)
class Row:
    """One method, with one choice of hyperparameters, in one cell."""

    method: str
    label: str                            # what it is called in its cell
    family: str
    hyperparameters: dict[str, Any]       # where they are not the defaults, and a budget of updates
    conditions: tuple[str, ...]           # under which other conditions than plain training it learned
    metrics: Mapping[str, Mapping[int, float]]  # by metric and seed: what all finished runs have, and the one profile
    differences: dict[str, Estimate]      # of test accuracy to each reference but itself, on equal seeds, by itself
    wins: dict[str, Wins]                 # against each reference but itself, over equal seeds
    harm: Harm | None                     # against the first reference; None where it is withheld
    failures: tuple[Failure, ...]         # failed, not applicable and missing runs
    runs: dict[int, str]                  # the ids of the finished ones, by seed
    shares: Shares = field(default_factory=dict)  # test accuracy on classes, on groups and under corruptions
    submission: Mark | None = None        # of a row that others submitted: what was done to believe it

    @property
    def is_reference(self) -> bool:
        return self.label == REFERENCE

    @property
    def data_free(self) -> bool:
        return self.family == DATA_FREE

    @property
    def size(self) -> float:
        """Parameters of the network that it deploys, in multiples of the plain student's."""
        size = self.estimate("deployed_size")
        return size.mean if size else 1.0

    @property
    def larger(self) -> bool:
        """Whether the network that it deploys is not the plain student, but one with more parameters."""
        return self.size > MUCH_ALIKE[1]

    @property
    def told(self) -> tuple[str, ...]:
        """What pages say beside its name: its conditions, and what was done to believe it if others submitted it."""
        return (*self.conditions, *([f"submitted, {self.submission}"] if self.submission else []))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.runs)

    def estimate(self, metric: str) -> Estimate | None:
        """The metric's mean over seeds; None if the row has no finished run or they lack the metric."""
        return estimate(list(self.metrics[metric].values())) if metric in self.metrics else None


@dataclass(frozen=True)
class Teacher:
    """The teacher of a cell: its architecture, and its own metrics as a yardstick for the students'."""

    architecture: str
    status: str
    reason: str
    metrics: dict[str, float]
    shares: Shares = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """A pair, dataset and recipe, within which methods are compared, with one row per method."""

    id: str
    pair: str
    dataset: str
    spec: dict[str, Any] = field(repr=False)  # of one of its runs, as JSON
    teacher: Teacher | None
    rows: tuple[Row, ...]
    comparisons: Comparisons  # of test accuracy
    costs: tuple[Cost, ...]  # its profiles
    tuning: tuple[Tuning, ...] = ()  # what tuning did to its methods
    order: Order | None = None       # how much their order stays the same by it
    compressed: tuple[Compressed, ...] = ()  # networks that were made of its students
    classes: tuple[str, ...] = ()    # their names, as records hold them
    split_sizes: Mapping[str, int] = field(default_factory=dict)  # images by split, as records hold them
    sweeps: tuple[Sweep, ...] = ()   # settings of its methods that differ in one number, such as a temperature

    @property
    def equal_compute(self) -> bool:
        """Whether its methods have the same core-seconds, each with epochs of its own, and not the same steps."""
        return "epochs" in (self.spec.get("own_recipe") or {})

    @property
    def transfer(self) -> str:
        """From which images without labels its students learn, in words; "" where all images have labels."""
        transfer = self.spec.get("transfer")
        return plain(Transfer(**transfer).told) if transfer else ""

    @property
    def regime(self) -> str:
        """In which way its methods are compared, where that is not at equal steps on labelled images, in words."""
        return ", ".join(filter(None, [self.transfer, EQUAL_COMPUTE if self.equal_compute else ""]))

    def compared(self, reference: str) -> dict[str, Comparison]:
        """The comparisons of the methods that see the data with a reference, by label, in the order of rows."""
        to = self.comparisons.to.get(reference, {})
        return {row.label: to[row.label] for row in self.rows if not row.data_free and row.label in to}

    def shares(self, kind: str) -> list[tuple[str, Mapping[str, Estimate]]]:
        """The accuracies on the parts of a kind, by part, of the teacher and of each row that has them, with its
        label."""
        teacher = self.teacher.shares if self.teacher else {}
        known = [("teacher", teacher), *((row.label, row.shares) for row in self.rows)]
        return [(label, shares[kind]) for label, shares in known if kind in shares]

    @property
    def test_images(self) -> int | None:
        """How many there are, by the records, or else by the catalog; None if neither says."""
        if "test" in self.split_sizes:
            return self.split_sizes["test"]
        try:
            sizes = catalog.parse(self.dataset).info.sizes
        except UserError:
            return None
        return sizes[2] if sizes else None

    def class_name(self, index: int) -> str:
        """The class's name if it is known, else its index as text."""
        names = class_names(self.dataset, self.classes)
        return plain(names[index]) if index < len(names) else str(index)


@dataclass(frozen=True)
class Leaderboard:
    cells: tuple[Cell, ...]
    suites: tuple[str, ...]
    methods: Mapping[str, Facts]  # what is known of the methods, by name
    statement: tuple[str, ...]  # what was used, what was not, and what a reader should know of it
    results_hash: str           # SHA-256 of what repeated runs must give again: weights, predictions, metrics
    records_hash: str           # SHA-256 of everything that the tables are made from: the same hash, the same tables
                                # (but for the line that names a version of the results, which keeps this hash)
    packages: Mapping[str, tuple[str, ...]]  # the versions of kdbench, torch and timm that the runs were made with
    version: str                # of these results; "" if they have none

    @property
    def equal_compute(self) -> bool:
        """Whether all of its cells compare at equal compute."""
        return all(cell.equal_compute for cell in self.cells)

    @property
    def regime(self) -> str:
        """In which way all of its cells compare methods, where they do so in the same way."""
        return self.cells[0].regime if len({cell.regime for cell in self.cells}) == 1 else ""

    def title(self, cell: Cell) -> str:
        """"PAIR on DATASET"; where several cells share both, with the parts of its spec in which the cell differs, and
        for a cell of another regime with that."""
        alike = [c for c in self.cells if (c.pair, c.dataset) == (cell.pair, cell.dataset)]
        specs, own = [flatten(c.spec) for c in alike], flatten(cell.spec)
        differing = sorted(key for key in own if any(other.get(key) != own[key] for other in specs))
        regime = cell.regime or (LABELLED if any(c.transfer for c in alike) else "")
        suffix = ", ".join([*(f"{key}={own[key]}" for key in differing), *filter(None, [regime])])
        return plain(f"{cell.pair} on {cell.dataset}" + (f" ({suffix})" if suffix else ""))

    def regimes(self) -> Iterator["Leaderboard"]:
        """The cells of equal steps, then those of equal compute, and so for each set of images without labels: what is
        said across cells is said of one kind, since ranks and gains of several do not mix."""
        kinds = dict.fromkeys((cell.equal_compute, cell.transfer) for cell in self.cells)
        for kind in sorted(kinds, key=lambda kind: (kind[0], bool(kind[1]))):
            yield replace(self, cells=tuple(c for c in self.cells if (c.equal_compute, c.transfer) == kind))


def flatten(spec: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """The values of a cell's spec by dotted path, without those that differ within a cell, and without what it says of
    images without labels."""
    flat: dict[str, str] = {}
    for key, value in spec.items():
        if key == "pair" or (not prefix and key in (*OF_A_RUN, "transfer")):
            continue
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: str(value)}
    return flat
