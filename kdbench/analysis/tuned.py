"""Which rows of a folder are what `kdbench tune` chose."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kdbench.analysis.labels import Variant
from kdbench.disk import read_file
from kdbench.errors import UserError
from kdbench.results.record import Problem
from kdbench.results.store import Store
from kdbench.spec import RunSpec
from kdbench.tune.choice import Choice, Choices, read_choices

TUNED, KEPT = "tuned", "tuned: default kept"


@dataclass(frozen=True)
class Tuned:
    """The choices that the runs of a folder went by."""

    choices: Choices | None = None
    sha256: str = ""
    by_place: Mapping[tuple[str, str], Choice] = field(default_factory=dict)  # by method and cell

    def mark(self, spec: RunSpec) -> str:
        """What a table says of a row beside its name; nothing where its settings were not chosen."""
        choice = self.by_place.get((spec.method, spec.cell))
        recipe = spec.own_recipe.given() if spec.own_recipe else {}
        if choice is None or (choice.hyperparameters, choice.recipe) != (spec.hyperparameters, recipe):
            return ""
        return {"tuned": TUNED, "default": KEPT}.get(choice.status, "")

    def rename(self, names: Mapping[Variant, str], specs: Iterable[RunSpec],
               registry: Mapping[str, object]) -> dict[Variant, str]:
        """The names of a cell's rows, with "(tuned)" in place of settings where a method stands beside its default."""
        tuned = {Variant.of(spec, registry) for spec in specs if self.mark(spec) == TUNED}
        return {variant: f"{variant.method} ({TUNED})" if variant in tuned and label != variant.method else label
                for variant, label in names.items()}

    def lines(self) -> Iterable[str]:
        """What a reader should know of it."""
        if self.choices is not None:
            study, trials = self.choices.study, {len(choice.trials) for choice in self.choices.choices}
            yield (f"Tuned: by validation accuracy, of {' or '.join(map(str, sorted(trials)))} trials each "
                   f"({study.get('sampler')}, {len(self.choices.seeds)} seeds that no run here has); choices "
                   f"{self.sha256[:16]}.")


def read_tuned(store: Store) -> tuple[Tuned, list[Problem]]:
    """The choices in a folder of results, or what is wrong with them."""
    file = store.files.tuning.choices
    if not file.exists():
        return Tuned(), []
    try:
        choices, sha256 = read_choices(store.folder), hashlib.sha256(read_file(file)).hexdigest()
    except UserError as error:
        return Tuned(), [Problem(file, str(error).removeprefix(f"{file}: "))]
    return Tuned(choices, sha256, {(one.method, one.cell): one for one in choices.choices}), []
