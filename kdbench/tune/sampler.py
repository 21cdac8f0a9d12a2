"""Suggests what to try, in batches, by optuna's samplers. Suggestions are asked for, and their results are told, in the
order of trials.

All suggestions of a batch are asked for before any of its results is told, and which trials make up a batch does not
depend on the number of processes or on which ends first. So a seed gives the same trials for any number of workers, and
an interrupted search is restored by asking and telling the same again.
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
BATCH = 4    # suggestions that are asked for together
WORST = 0.0  # the accuracy that is told for a trial that failed
# Settings of optuna's tree-structured Parzen estimator: few random trials at the beginning, for budgets such as 16, one
# joint density of all values, and suggestions that avoid the others of their batch.
TPE = {"n_startup_trials": 5, "n_ei_candidates": 24, "multivariate": True, "group": False, "constant_liar": True}

Values = dict[str, Value]


def load_optuna() -> types.ModuleType:
    """Import optuna, which then logs errors alone. UserError that names the extra to install if optuna is missing."""
    try:
        import optuna
    except ImportError as error:
        raise UserError(f"`kdbench tune` needs optuna ({error}): pip install 'kdbench[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def settings_of(sampler: str) -> dict[str, Any]:
    """The settings of a sampler that a study records, besides its seed. UserError for an unknown sampler, or if optuna
    is missing."""
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    return {"sampler": sampler, "batch": BATCH, "worst": WORST, "optuna": load_optuna().__version__,
            "settings": TPE if sampler == "tpe" else {}}


def grid_of(space: Space) -> list[Values]:
    """Every point of the grid once, as values by name, the centre of the space first."""
    points = itertools.product(*(one.grid() for one in space))
    return [dict(zip([one.name for one in space], point, strict=True)) for point in points]


def grid_size(space: Space) -> int:
    """The number of points that `grid_of` gives, without making them."""
    return math.prod(len(one.grid()) for one in space)


class Search:
    """One search of a space for the values with the highest result. The first suggestion is the centre of the space."""

    def __init__(self, space: Space, sampler: str, seed: int, storage: Any = None, name: str | None = None):
        self.space, self.optuna = space, load_optuna()
        self.points = grid_of(space) if sampler == "grid" else None
        self.study = self.optuna.create_study(
            storage=storage, study_name=name, direction="maximize", sampler=self._sampler(sampler, seed % 2**32))
        self._asked: list[Any] = []  # optuna's trials whose results are not told yet
        self._count = 0

    def _sampler(self, sampler: str, seed: int) -> Any:
        if sampler == "tpe":
            return _quiet(self.optuna, lambda: self.optuna.samplers.TPESampler(seed=seed, **TPE))
        return self.optuna.samplers.RandomSampler(seed=seed)  # all points of a grid are enqueued

    @property
    def most(self) -> int | None:
        """The maximum number of suggestions; None if there is no limit."""
        return len(self.points) if self.points is not None else None

    def ask(self, count: int) -> list[Values]:
        """The next `count` suggestions, each as values by name."""
        return [self._ask() for _ in range(count)]

    def tell(self, values: Sequence[float | Mapping[int, float] | None],
             notes: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Tell the results of the suggestions of the last `ask`, in their order. A result is a number, None for a
        suggestion that failed, or, for a pruned one, its values by step; optuna ranks pruned ones behind all others, by
        their last values. `notes` are stored with the suggestions in optuna's study."""
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
        """The space as optuna's distributions: numbers are positions from 0 to 1 (see `Dimension.value`), all else is
        categorical; in a grid, numbers are too."""
        kinds = self.optuna.distributions
        if self.points is not None:
            return {one.name: kinds.CategoricalDistribution(one.grid()) for one in self.space}
        return {one.name: kinds.CategoricalDistribution(one.choices) if one.limits is None
                else kinds.FloatDistribution(0.0, 1.0) for one in self.space}


def _quiet(optuna: types.ModuleType, call: Any) -> Any:
    """Return what `call` returns, without the warnings that some of the pinned settings are experimental: a study
    records optuna's version beside them."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return call()


def journal(file: Path) -> Any:
    """A storage of optuna that writes to a journal file, for optuna's own tools to read. An existing file is replaced.
    Only this process may write to it."""
    optuna = load_optuna()
    from optuna.storages import journal as journals

    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    Path(f"{file}.lock").unlink(missing_ok=True)
    return optuna.storages.JournalStorage(journals.JournalFileBackend(str(file)))
