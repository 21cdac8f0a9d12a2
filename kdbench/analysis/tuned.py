"""Which rows of a folder have settings that `kdbench tune` chose, what they gained by it, and whether it changes the
order of methods."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdbench.analysis.answers.kendall import between_halves, bootstrap, signs, tau
from kdbench.analysis.intervals import Estimate, paired_difference
from kdbench.analysis.labels import Variant
from kdbench.disk import read_file
from kdbench.errors import UserError, plain
from kdbench.plugins.source import Facts
from kdbench.results.record import Problem
from kdbench.results.store import Store
from kdbench.spec import RunSpec
from kdbench.tune.choice import Choice, Choices, read_choices

TUNED, KEPT, TUNED_ON = "tuned", "tuned: default kept", "tuned on"  # the last is followed by another pair
MIN_METHODS = 5    # fewest methods for a correlation of orders


@dataclass(frozen=True)
class Tuned:
    """The choices of `kdbench tune` that the runs of a folder follow; empty if there are none."""

    choices: Choices | None = None
    sha256: str = ""
    by_place: Mapping[tuple[str, str], Choice] = field(default_factory=dict)  # by method and cell

    def mark(self, spec: RunSpec) -> str:
        """The remark that tables show beside the label of a run's row: `TUNED` or `KEPT`, or "" if its settings are not
        the chosen ones. If these come from another pair, the remark names it."""
        choice = self.by_place.get((spec.method, spec.cell))
        if choice is None or settings_of(spec) != (choice.hyperparameters, choice.recipe):
            return ""
        if choice.carried_from:
            pair = plain(choice.carried_from)
            return {"tuned": f"{TUNED_ON} {pair}", "default": f"default kept on {pair}"}.get(choice.status, "")
        return {"tuned": TUNED, "default": KEPT}.get(choice.status, "")

    def rename(self, names: Mapping[Variant, str], specs: Iterable[RunSpec],
               known: Mapping[str, Facts]) -> dict[Variant, str]:
        """The labels of a cell's rows, with "METHOD (tuned)" in place of a label that lists the tuned settings."""
        tuned = {Variant.of(spec, known) for spec in specs if is_tuned([self.mark(spec)])}
        return {variant: f"{variant.method} ({TUNED})" if variant in tuned and label != variant.method else label
                for variant, label in names.items()}

    def lines(self) -> Iterable[str]:
        """At most one sentence, for readers of tables, on how settings were tuned; none if there are no choices."""
        if self.choices is not None:
            study, choices = self.choices.study, self.choices.choices
            counts = " or ".join(map(str, sorted({len(choice.trials) for choice in choices if choice.trials})))
            trials = f", of {counts} trials each" if counts else ""
            seeds, pruned = len(self.choices.seeds), ", pruned by the median" if "pruner" in study else ""
            carried = ", here or on another pair" if any(choice.carried_from for choice in choices) else ""
            yield (f"Tuned{carried}: by validation accuracy{trials} ({study.get('sampler')}, {seeds} "
                   f"seed{'s' * (seeds > 1)} that no run here has{pruned}); choices {self.sha256[:16]}.")


def is_tuned(remarks: Iterable[str]) -> bool:
    """Whether remarks on a row, such as its conditions, say that it has tuned settings that are not the defaults."""
    return any(one == TUNED or one.startswith(f"{TUNED_ON} ") for one in remarks)


def settings_of(spec: RunSpec) -> tuple[dict[str, Any], dict[str, float]]:
    """The settings of a run that tuning may choose: its hyperparameters, and its own values of the recipe."""
    return spec.hyperparameters, spec.own_recipe.given() if spec.own_recipe else {}


def read_tuned(store: Store) -> tuple[Tuned, list[Problem]]:
    """The choices in a folder of results, empty if there are none, and what is wrong with their file."""
    file = store.files.tuning.choices
    if not file.exists():
        return Tuned(), []
    try:
        choices, sha256 = read_choices(store.folder), hashlib.sha256(read_file(file)).hexdigest()
    except UserError as error:
        return Tuned(), [Problem(file, str(error).removeprefix(f"{file}: "))]
    return Tuned(choices, sha256, {(one.method, one.cell): one for one in choices.choices}), []


# What tuning changed in a cell.

@dataclass(frozen=True)
class Tuning:
    """The effect of tuning on one method in one cell, by its trials and its final runs. Accuracies are shares."""

    label: str
    choice: Choice
    validation: Estimate | None  # of final runs: validation accuracy, tuned minus default, on equal seeds
    test: Estimate | None        # the same for test accuracy; both are None if no seed is shared

    @property
    def claimed(self) -> float | None:
        """The gain in validation accuracy by the trials: the chosen trial's mean minus the default's; None if either is
        missing."""
        if self.choice.accuracy is None or self.choice.default_accuracy is None:
            return None
        return self.choice.accuracy - self.choice.default_accuracy

    @property
    def optimism(self) -> float | None:
        """The claimed gain minus the gain in test accuracy on the seeds of final runs, which no trial used; None if
        either is not known."""
        return None if self.claimed is None or self.test is None else self.claimed - self.test.mean


@dataclass(frozen=True)
class Order:
    """How far the order of a cell's methods by mean test accuracy stays the same when they are tuned."""

    methods: int              # number of methods
    correlation: float        # Kendall's tau-b between both orders: 1 is the same order, -1 the reverse
    low: float                # the ends of its 95 % interval over methods, by the bootstrap
    high: float
    same_settings: float | None  # mean tau-b between the orders by default on two halves of the seeds, over splits into
                                 # halves: how far noise alone changes an order; None for one seed
    other_settings: float | None  # the same between the order by default on one half and tuned on the other
    swapped: int              # number of pairs of methods whose order is reversed


@dataclass(frozen=True)
class Compared:
    """The final runs of a method, with default and with tuned settings, as values by metric and seed. Both are the same
    runs if tuning kept the default."""

    label: str
    ranked: bool  # whether it sees the data and all its planned runs are finished
    default: Mapping[str, Mapping[int, float]]
    tuned: Mapping[str, Mapping[int, float]]


def tuning_of(choice: Choice, compared: Compared) -> Tuning:
    """The effect of tuning on one method, from the choice and the final runs."""
    validation, test = (paired_difference(compared.tuned.get(name, {}), compared.default.get(name, {}))
                        for name in ("validation_accuracy", "test_accuracy"))
    return Tuning(compared.label, choice, validation, test)


def order_of(methods: Iterable[Compared]) -> Order | None:
    """How far tuning keeps the order of the methods that are `ranked`. None if fewer than `MIN_METHODS` have default
    and tuned runs on a common seed, or if these methods have no seed in common."""
    found = [tuple(own.get("test_accuracy", {}) for own in (one.default, one.tuned)) for one in methods if one.ranked]
    found = [(default, tuned) for default, tuned in found if default.keys() & tuned.keys()]
    if len(found) < MIN_METHODS:
        return None
    seeds = sorted(set.intersection(*(set(default) & set(tuned) for default, tuned in found)))
    if not seeds:
        return None
    default, tuned = (np.array([[one[which][seed] for seed in seeds] for one in found]) for which in (0, 1))  # [M, S]
    both = signs(default.mean(1)), signs(tuned.mean(1))
    low, high = bootstrap(*both)
    swapped = int((both[0] * both[1] < 0).sum()) // 2
    return Order(len(found), tau(*both), low, high, between_halves(default, default),
                 between_halves(default, tuned), swapped)
