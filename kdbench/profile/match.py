"""Equal compute: every method trains for as many epochs as take the core-seconds of `kd`, according to measured step
times."""

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from kdbench.errors import UserError, counted
from kdbench.profile.record import Profile, profiles
from kdbench.results.record import Problem, Record
from kdbench.results.store import Store
from kdbench.spec import MAX_EPOCHS, OwnRecipe, RunSpec
from kdbench.suites.plan import Plan, Selection

EQUAL_TO = "kd"
NOTABLE = 0.1  # share of kd's compute by which a method's may differ without a note


class Kind(NamedTuple):
    """What a run has in common with the profile that measured its steps: everything but its length, its seed and how a
    self-teacher was trained. A budget of updates makes a run longer, but its steps no slower."""

    cell: str  # the cell that the run has with equal steps
    method: str
    hyperparameters: tuple

    @classmethod
    def of(cls, spec: RunSpec) -> "Kind":
        cell = spec.model_copy(update={"own_recipe": None}).cell if spec.equal_compute else spec.cell
        return cls(cell, spec.method, tuple(sorted(spec.hyperparameters.items())))


def epochs_for(recipe_epochs: int, ratio: float, ratio_of_kd: float) -> int:
    """The whole number of epochs, at least one and at most MAX_EPOCHS, whose compute is nearest to that of kd, which
    trains for `recipe_epochs`. `ratio` and `ratio_of_kd` are the step times of the method and of kd over those of one
    reference."""
    return max(1, math.floor(min(recipe_epochs * ratio_of_kd / ratio, MAX_EPOCHS) + 0.5))


def share_of_kd(spec: RunSpec, ratio: float, ratio_of_kd: float) -> float:
    """The compute of a matched run in multiples of kd's, from the same ratios as in `epochs_for`."""
    return spec.training.epochs * ratio / (spec.recipe.epochs * ratio_of_kd)


def match_compute(plan: Plan, kd: Plan, folder: Path, measure: Sequence[str]) -> tuple[Plan, list[str]]:
    """The plan with the epochs that give each method the compute of kd in its cell, and notes on methods that miss it.

    `kd` is the same plan with kd alone, and `folder` the results folder whose profiles hold the step times. A method
    that does not apply keeps the recipe's epochs. A budget of updates is set to 1, since it only serves comparisons
    with equal steps. Raises UserError if a profile is missing or failed, with the command that measures it, made from
    the words `measure`; and if the folder has runs with other epochs.
    """
    found = _profiles(folder)
    wanted = {Kind.of(spec): spec for spec in plan.students}
    base = {spec.cell: spec for spec in reversed(kd.students)}  # of several settings the usual one, which is first
    _need_all([*wanted.values(), *base.values()], found, plan.reference, folder, measure)
    own: dict[Kind, OwnRecipe] = {}
    notes = []
    for kind, spec in wanted.items():
        training = found[kind].training
        anchor = found[Kind.of(base[spec.cell])].training
        if training is None or anchor is None:  # the method does not apply
            own[kind] = OwnRecipe(epochs=spec.recipe.epochs)
            continue
        ratio, ratio_of_kd = training.step_time_ratio.median, anchor.step_time_ratio.median
        epochs = epochs_for(spec.recipe.epochs, ratio, ratio_of_kd)
        own[kind] = OwnRecipe(epochs=epochs)
        share = share_of_kd(spec.model_copy(update={"own_recipe": own[kind]}), ratio, ratio_of_kd)
        if abs(share - 1) > NOTABLE:
            notes.append(f"{spec.method} ({spec.pair}, {spec.dataset}): {counted(epochs, 'epoch')}, the "
                         f"nearest whole number, are {share:.2f} times the compute of {EQUAL_TO}")
    matched = tuple(spec.model_copy(update={"own_recipe": own[Kind.of(spec)], "updates": 1}) for spec in plan.students)
    _refuse_other_epochs(matched, folder)
    return replace(plan, students=matched), notes


def profile_command(suite: str, selection: Selection, plugins: Iterable[Path], folder: Path) -> list[str]:
    """The words of `kdbench profile` for a selection of a suite, without its methods, pairs and datasets."""
    return ["kdbench", "profile", suite, *selection.options(plugins), "--out", str(folder)]


def _profiles(folder: Path) -> dict[Kind, Profile]:
    """The folder's readable profiles of methods, by kind."""
    found = (profile for profile, _ in profiles(Store(folder)))
    return {Kind.of(profile.spec): profile for profile in found
            if not isinstance(profile, Problem) and profile.subject == "method"}


def _need_all(specs: Sequence[RunSpec], found: Mapping[Kind, Profile], reference: str, folder: Path,
              measure: Sequence[str]) -> None:
    """Raise UserError if the profile of a spec is missing or cannot be used; it names the methods and the command that
    measures them."""
    lacking = {Kind.of(spec): (spec, why) for spec in specs
               if (why := _why_unusable(found.get(Kind.of(spec)), spec.method, reference))}
    if not lacking:
        return
    told: dict[str, list[str]] = {}
    for spec, why in lacking.values():
        told.setdefault(f"({spec.pair}, {spec.dataset}) {why}", []).append(spec.method)
    reasons = "; ".join(f"{', '.join(methods)} {why}" for why, methods in told.items())
    narrowed = [word for option, values in (
        ("--methods", [spec.method for spec, _ in lacking.values()]),
        ("--pairs", [spec.pair for spec, _ in lacking.values()]),
        ("--datasets", [spec.dataset for spec, _ in lacking.values()]),
    ) for word in (option, ",".join(dict.fromkeys(values)))]
    raise UserError(f"--match compute: {folder} does not tell what a step costs: {reasons}. This measures it: "
                    f"{shlex.join([*measure, *narrowed])}")


def _why_unusable(profile: Profile | None, method: str, reference: str) -> str:
    """Why a profile cannot be used. "" if it gives a ratio of step times, or says that the method, other than kd, does
    not apply."""
    if profile is None:
        return "not profiled"
    if profile.status == "inapplicable" and method != EQUAL_TO:
        return ""
    if profile.training is None:
        return f"{profile.status}: {profile.reason}"
    if profile.training.reference != reference:
        return f"measured against {profile.training.reference}, not {reference}"
    ratio = profile.training.step_time_ratio.median
    return "" if 0 < ratio < math.inf else f"a ratio of {ratio}"


def _refuse_other_epochs(matched: Iterable[RunSpec], folder: Path) -> None:
    """Raise UserError if the folder has runs of the same kind with another number of epochs: then its profiles were
    measured again since, and one method would stand in one table with two lengths."""
    wanted = {Kind.of(spec): spec for spec in matched}
    for spec in _asked_before(folder):
        now = wanted.get(Kind.of(spec)) if spec.equal_compute else None
        if now is not None and now.training.epochs != spec.training.epochs:
            raise UserError(
                f"--match compute: {folder} has runs of {spec.method} ({spec.pair}, {spec.dataset}) with "
                f"{spec.training.epochs} epochs, and by the profiles that it holds now they are "
                f"{now.training.epochs}: it was measured again since; choose another --out, and measure there")


def _asked_before(folder: Path) -> Iterator[RunSpec]:
    """The specs of the students that the folder has a record or a plan of, without those whose record says that the
    method does not apply."""
    store = Store(folder)
    skipped = set()
    for record in store.scan():
        if isinstance(record, Record) and record.role == "student" and record.status != "inapplicable":
            yield record.spec
        if isinstance(record, Record):
            skipped.add(record.run_id)
    yield from (planned.spec for planned in store.planned(but=skipped)[0] if planned.role == "student")
