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

REFERENCE = "ce"                # plain training, which every method is compared with
REFERENCES = (REFERENCE, "kd")  # every method is also compared with kd, the oldest method of distillation
DATA_FREE = "data_free"         # the family of methods that see no training images; it is ranked by itself
EQUAL_COMPUTE = "equal compute"  # how titles name this regime
LABELLED = "labelled images alone"  # in titles, where other cells of the pair and dataset add images
OF_A_RUN = ("method", "hyperparameters", "seed", "self_teacher", "updates", "own_recipe")  # vary within a cell
MUCH_ALIKE = 0.95, 1.05  # multiples of plain training that are not worth a remark
PROFILED_SEED = 0               # profiled costs, which do not depend on the seed, are kept under this one


@dataclass(frozen=True)
class Failure:
    """A run without a result: it failed, does not apply or is missing, for the reason stated."""

    seed: int
    status: str
    reason: str


@dataclass(frozen=True)
class Wins:
    """The number of pairs of runs with equal seeds that a method won against a reference. A tie counts as half a win,
    and a run of the method that failed or is missing as a loss; runs that do not apply are not counted."""

    won: float
    pairs: int


@dataclass(frozen=True)
class Row:
    """One method, with one choice of hyperparameters, in one cell."""

    method: str
    label: str                            # the name that tables show
    family: str
    hyperparameters: dict[str, Any]       # those that are not defaults; a budget of updates; own values of the recipe
    conditions: tuple[str, ...]           # what differs from plain training, in words
    metrics: Mapping[str, Mapping[int, float]]  # by metric and seed: those of all finished runs, and profiled costs
    differences: dict[str, Estimate]      # of test accuracy to each reference but itself, on equal seeds; not moderated
    wins: dict[str, Wins]                 # by reference but itself, on equal seeds
    harm: Harm | None                     # against `REFERENCE`; None for itself, and with fewer than three usable seeds
    failures: tuple[Failure, ...]         # failed, inapplicable and missing runs
    runs: dict[int, str]                  # the ids of finished runs by seed
    shares: Shares = field(default_factory=dict)  # accuracies on classes, on groups and under corruptions
    submission: Mark | None = None        # how far the row was verified, if others submitted it

    @property
    def is_reference(self) -> bool:
        return self.label == REFERENCE

    @property
    def data_free(self) -> bool:
        return self.family == DATA_FREE

    @property
    def size(self) -> float:
        """The deployed network's number of parameters, in multiples of the plain student's; 1 if it is not known."""
        size = self.estimate("deployed_size")
        return size.mean if size else 1.0

    @property
    def larger(self) -> bool:
        """Whether the deployed network has notably more parameters than the plain student."""
        return self.size > MUCH_ALIKE[1]

    @property
    def told(self) -> tuple[str, ...]:
        """The remarks that pages show beside the label: the row's conditions and, if others submitted it, how far it
        was verified."""
        return (*self.conditions, *([f"submitted, {self.submission}"] if self.submission else []))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.runs)

    def estimate(self, metric: str) -> Estimate | None:
        """The metric's mean over seeds with its interval; None if the row has no finished run, or if one of its runs
        lacks the metric."""
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
    spec: dict[str, Any] = field(repr=False)  # the spec of one of its runs, as JSON
    teacher: Teacher | None
    rows: tuple[Row, ...]
    comparisons: Comparisons  # of test accuracy
    costs: tuple[Cost, ...]  # the profiles of its methods and pair
    tuning: tuple[Tuning, ...] = ()  # the effect of tuning on each method that was tuned
    order: Order | None = None       # how far tuning keeps the order of the methods; None for too few
    compressed: tuple[Compressed, ...] = ()  # compressed networks made from its students
    classes: tuple[str, ...] = ()    # the names of classes by the records; () if these have none
    split_sizes: Mapping[str, int] = field(default_factory=dict)  # images by split, by the records
    sweeps: tuple[Sweep, ...] = ()   # settings of its methods that differ in one number, such as a temperature

    @property
    def equal_compute(self) -> bool:
        """Whether the cell's methods are compared at equal compute (as many core-seconds, with epochs that differ by
        method) and not at equal steps."""
        return "epochs" in (self.spec.get("own_recipe") or {})

    @property
    def transfer(self) -> str:
        """The images without labels that the cell's students learn from, in words; "" if all images have labels."""
        transfer = self.spec.get("transfer")
        return plain(Transfer(**transfer).told) if transfer else ""

    @property
    def regime(self) -> str:
        """The conditions that the cell's methods are compared under, in words: images without labels, equal compute, or
        both. "" for the usual ones, equal steps on labelled images."""
        return ", ".join(filter(None, [self.transfer, EQUAL_COMPUTE if self.equal_compute else ""]))

    def compared(self, reference: str) -> dict[str, Comparison]:
        """The comparisons of the methods that see the data with a reference, by label, in the order of rows."""
        to = self.comparisons.to.get(reference, {})
        return {row.label: to[row.label] for row in self.rows if not row.data_free and row.label in to}

    def shares(self, kind: str) -> list[tuple[str, Mapping[str, Estimate]]]:
        """The label and the accuracies by part, for one kind of parts of the test images (see
        `kdbench.analysis.shares`), of the teacher and of each row that has them. The teacher's label is "teacher"."""
        teacher = self.teacher.shares if self.teacher else {}
        known = [("teacher", teacher), *((row.label, row.shares) for row in self.rows)]
        return [(label, shares[kind]) for label, shares in known if kind in shares]

    @property
    def test_images(self) -> int | None:
        """The number of test images by the records, else by the catalog; None if neither states it."""
        if "test" in self.split_sizes:
            return self.split_sizes["test"]
        try:
            sizes = catalog.parse(self.dataset).info.sizes
        except UserError:
            return None
        return sizes[2] if sizes else None

    def class_name(self, index: int) -> str:
        """The name of the class with this index if it is known, else the index as text."""
        names = class_names(self.dataset, self.classes)
        return plain(names[index]) if index < len(names) else str(index)


@dataclass(frozen=True)
class Leaderboard:
    cells: tuple[Cell, ...]
    suites: tuple[str, ...]
    methods: Mapping[str, Facts]  # facts about the methods, by name
    statement: tuple[str, ...]  # sentences: which files were used, which were not and why, and remarks
    results_hash: str           # SHA-256 of what repeated runs must reproduce: weights, predictions, metrics
    records_hash: str           # SHA-256 of everything that the tables are made from: the same hash, the same tables
                                # (except for the line that names the version of the results: it does not change this)
    packages: Mapping[str, tuple[str, ...]]  # the versions of kdbench, torch and timm that the runs were made with
    version: str                # the version of these results; "" if they have none

    @property
    def equal_compute(self) -> bool:
        """Whether all cells compare their methods at equal compute."""
        return all(cell.equal_compute for cell in self.cells)

    @property
    def regime(self) -> str:
        """The `regime` that all cells share; "" if they differ in it."""
        return self.cells[0].regime if len({cell.regime for cell in self.cells}) == 1 else ""

    def title(self, cell: Cell) -> str:
        """The title of a cell, "PAIR on DATASET (DIFFERENCES)". The differences are the settings in which it differs
        from other cells of the same pair and dataset, and its regime, or "labelled images alone" if others of these
        cells add images without labels."""
        alike = [c for c in self.cells if (c.pair, c.dataset) == (cell.pair, cell.dataset)]
        specs, own = [flatten(c.spec) for c in alike], flatten(cell.spec)
        differing = sorted(key for key in own if any(other.get(key) != own[key] for other in specs))
        regime = cell.regime or (LABELLED if any(c.transfer for c in alike) else "")
        suffix = ", ".join([*(f"{key}={own[key]}" for key in differing), *filter(None, [regime])])
        return plain(f"{cell.pair} on {cell.dataset}" + (f" ({suffix})" if suffix else ""))

    def regimes(self) -> Iterator["Leaderboard"]:
        """Leaderboards of the cells of each regime, since ranks and gains of different regimes must not be averaged:
        first those at equal steps, then those at equal compute; of each, first the one on labelled images alone, then
        one for each set of images without labels."""
        kinds = dict.fromkeys((cell.equal_compute, cell.transfer) for cell in self.cells)
        for kind in sorted(kinds, key=lambda kind: (kind[0], bool(kind[1]))):
            yield replace(self, cells=tuple(c for c in self.cells if (c.equal_compute, c.transfer) == kind))


def flatten(spec: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """The values of a cell's spec as text, by dotted path. Left out are the fields that differ within a cell, the names
    of pairs, and the images without labels. `prefix` begins the paths."""
    flat: dict[str, str] = {}
    for key, value in spec.items():
        if key == "pair" or (not prefix and key in (*OF_A_RUN, "transfer")):
            continue
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: str(value)}
    return flat
