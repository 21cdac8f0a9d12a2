"""Suggests what to try, in batches: optuna's samplers, asked in the order of trials and told in the order of trials.

All of a batch is asked before any of it is told, and what a batch is does not depend on how many processes work or
which ends first. So a seed gives the same trials for any number of workers, and a search that was stopped is the same
again once it is asked and told the same things.
"""

import itertools
import math
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdbench.errors import UserError, unknown
from kdbench.plugins.source import Value
from kdbench.tune.space import Space

SAMPLERS = ("tpe", "random", "grid")
BATCH = 4    # suggestions that are asked together
WORST = 0.0  # what a trial that failed is told as, an accuracy
# Of optuna's tree of Parzen estimators: as few random trials as a budget of 16 can spare, one density over all values
# together, and suggestions of one batch that keep clear of each other.
TPE = {"n_startup_trials": 5, "n_ei_candidates": 24, "multivariate": True, "group": False, "constant_liar": True}

Values = dict[str, Value]


def load_optuna() -> types.ModuleType:
    """UserError that names the extra if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UserError(f"`kdbench tune` needs optuna ({error}): pip install 'kdbench[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def settings_of(sampler: str) -> dict[str, Any]:
    """What a study records of its sampler, besides the seed. UserError for an unknown one."""
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    return {"sampler": sampler, "batch": BATCH, "worst": WORST, "optuna": load_optuna().__version__,
            "settings": TPE if sampler == "tpe" else {}}


def grid_of(space: Space) -> list[Values]:
    """Every point of the grid once, the centre first."""
    points = itertools.product(*(one.grid() for one in space))
    return [dict(zip([one.name for one in space], point, strict=True)) for point in points]


def grid_size(space: Space) -> int:
    """How many points `grid_of` has."""
    return math.prod(len(one.grid()) for one in space)


class Search:
    """One search for a high value. The first suggestion is the centre of the space."""

    def __init__(self, space: Space, sampler: str, seed: int, storage: Any = None, name: str | None = None):
        self.space, self.optuna = space, load_optuna()
        self.points = grid_of(space) if sampler == "grid" else None
        self.study = self.optuna.create_study(
            storage=storage, study_name=name, direction="maximize", sampler=self._sampler(sampler, seed % 2**32))
        self._asked: list[Any] = []  # optuna's trials that are not told yet
        self._count = 0

    def _sampler(self, sampler: str, seed: int) -> Any:
        if sampler == "tpe":
            return _quiet(self.optuna, lambda: self.optuna.samplers.TPESampler(seed=seed, **TPE))
        return self.optuna.samplers.RandomSampler(seed=seed)  # a grid's points are all given

    @property
    def most(self) -> int | None:
        """How many trials there can be; None without a bound."""
        return len(self.points) if self.points is not None else None

    def ask(self, count: int) -> list[Values]:
        """The next suggestions: values by name."""
        return [self._ask() for _ in range(count)]

    def tell(self, values: Sequence[float | Mapping[int, float] | None],
             notes: Sequence[Mapping[str, Any]] | None = None) -> None:
        """What the suggestions of the last `ask` are worth, in their order; None for one that failed, and for one that
        was pruned its values by step, which optuna ranks behind all others by the last of them. `notes` are kept with
        them."""
        for trial, value, note in zip(self._asked, values, notes or [{}] * len(values), strict=True):
            for key, content in note.items():
                trial.set_user_attr(key, content)
            if isinstance(value, Mapping):
                for step, intermediate in value.items():
                    trial.report(intermediate, step)
                self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)
            else:
                self.study.tell(trial, WORST if value is None else value)
        self._asked = []

    def _ask(self) -> Values:
        number, self._count = self._count, self._count + 1
        if self.points is not None:
            self.study.enqueue_trial(self.points[number])
        elif number == 0:
            self.study.enqueue_trial({one.name: one.centre if one.limits is None else one.position
                                      for one in self.space})
        trial = _quiet(self.optuna, lambda: self.study.ask(self._distributions()))
        self._asked.append(trial)
        if self.points is not None:
            values = self.points[number]
        else:
            values = {one.name: trial.params[one.name] if one.limits is None else one.value(trial.params[one.name])
                      for one in self.space}
        trial.set_user_attr("values", values)
        return values

    def _distributions(self) -> dict[str, Any]:
        """Optuna's side of the space: numbers are positions from 0 to 1, see `Dimension.value`; of a grid, choices."""
        kinds = self.optuna.distributions
        if self.points is not None:
            return {one.name: kinds.CategoricalDistribution(one.grid()) for one in self.space}
        return {one.name: kinds.CategoricalDistribution(one.choices) if one.limits is None
                else kinds.FloatDistribution(0.0, 1.0) for one in self.space}


def _quiet(optuna: types.ModuleType, call: Any) -> Any:
    """Without the warnings that some of the pinned settings are experimental: the version is recorded beside them."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return call()


def journal(file: Path) -> Any:
    """Optuna's journal in a file that is begun anew: what optuna's own tools read. Only this process writes it."""
    optuna = load_optuna()
    from optuna.storages import journal as journals

    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    Path(f"{file}.lock").unlink(missing_ok=True)
    return optuna.storages.JournalStorage(journals.JournalFileBackend(str(file)))
