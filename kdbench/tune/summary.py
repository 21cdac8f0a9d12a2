"""What the trials of a method show besides the choice: the best accuracy to expect of fewer trials, and which values
matter."""

from collections.abc import Sequence
from statistics import quantiles
from typing import Any

from kdbench.tune.choice import Trial
from kdbench.tune.sampler import WORST, load_optuna
from kdbench.tune.space import RECIPE, Space

MIN_TRIALS = 8      # finished trials for importances: fewer say nothing about several values
IMPORTANCE_SEED = 0  # of the random forest


def expected_best(accuracies: Sequence[float | None]) -> list[float]:
    """The expected highest accuracy of n trials, for each n from 1 to the number N of trials that were made. The n
    trials are drawn from these at random, with replacement; None, for a trial that failed, counts as `WORST`.

    Dodge et al. 2019, "Show Your Work" (arXiv 1909.03004), equation 5: with v_1 <= ... <= v_N, the highest of n is at
    most v_i with probability (i / N)^n. This assumes trials that are independent of each other, as in a random search;
    for other samplers it shows what their trials would give in random order.
    """
    values, count = sorted(WORST if value is None else value for value in accuracies), len(accuracies)
    return [sum(value * ((i / count) ** n - ((i - 1) / count) ** n) for i, value in enumerate(values, start=1))
            for n in range(1, count + 1)]


def quartiles(accuracies: Sequence[float | None]) -> tuple[float, float, float] | None:
    """Lower quartile, median and upper quartile of the accuracies of finished trials; None for fewer than two."""
    values = [value for value in accuracies if value is not None]
    if len(values) < 2:
        return None
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


def importances(space: Space, trials: Sequence[Trial]) -> dict[str, float]:
    """The share of the variance of accuracy over the space that each value explains by itself, by name, largest first.
    The shares add up to 1. Empty if the space has one value, with fewer than `MIN_TRIALS` finished trials, and if all
    of these have the same accuracy.

    Functional ANOVA of a random forest fitted to the finished trials (Hutter et al. 2014), as implemented in optuna:
    the shares cover what single values explain, and leave out what only several explain together. Trials that failed
    are left out: they would outweigh all differences between finished ones.
    """
    finished = [trial for trial in trials if trial.accuracy is not None]
    if len(space) < 2 or len(finished) < MIN_TRIALS or len({trial.accuracy for trial in finished}) < 2:
        return {}
    optuna = load_optuna()
    kinds = optuna.distributions
    distributions = {one.name: kinds.CategoricalDistribution(one.choices) if one.limits is None
                     else kinds.FloatDistribution(*map(one.scaled, one.limits[:2])) for one in space}
    study = optuna.create_study(direction="maximize")
    for trial in finished:
        study.add_trial(optuna.trial.create_trial(
            params=_params(space, trial), distributions=distributions, value=trial.accuracy))
    found = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=IMPORTANCE_SEED))
    return {name: float(value) for name, value in sorted(found.items(), key=lambda item: (-item[1], item[0]))}


def _params(space: Space, trial: Trial) -> dict[str, Any]:
    """The trial's value of each dimension, by name, on the scale of the search, since optuna's evaluator knows no
    logarithmic scales. A value that is not in the trial's recipe is the suite's."""
    given = trial.hyperparameters | {f"{RECIPE}.{name}": value for name, value in trial.recipe.items()}
    values = {one: given.get(one.name, one.centre) for one in space}
    return {one.name: value if one.limits is None else one.scaled(value) for one, value in values.items()}
