"""The profiles of a folder as metrics of a leaderboard's rows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from kdbench.analysis.labels import Variant, label
from kdbench.compress.record import Compressed, all_compressed
from kdbench.plugins.source import Facts
from kdbench.profile.match import EQUAL_TO, Kind, share_of_kd
from kdbench.profile.record import Profile, profiles
from kdbench.results.record import Problem, Record
from kdbench.results.store import Store
from kdbench.spec import OwnRecipe, RunSpec

TRAINING = ("step_ms", "step_time_ratio", "training_seconds", "training_memory_bytes", "step_energy_joules",
            "training_energy_joules")
USE = ("parameters", "flops", "file_bytes", "latency_ms", "latency_p95_ms", "throughput", "energy_per_1000_images",
       "speedup", "energy_saving")
PROFILED = TRAINING + USE  # metrics that a method has once, not by seed


@dataclass(frozen=True)
class Cost:
    """A profile with the label of its method in tables."""

    label: str
    profile: Profile
    file_sha256: str = ""


def cost(profile: Profile, known: Mapping[str, Facts], file_sha256: str = "") -> Cost:
    variant = Variant.of(profile.spec, known)
    return Cost(label(variant, [variant, Variant(variant.method, ())]), profile, file_sha256)


def read_profiles(store: Store) -> tuple[dict[str, Profile], list[Problem]]:
    """The usable profiles of a folder by the SHA-256 of their files, and what is wrong with the others."""
    usable, problems = {}, []
    for found, sha256 in profiles(store):
        if isinstance(found, Problem):
            problems.append(found)
        else:
            usable[sha256] = found
    return usable, problems


def read_compressed(store: Store, runs: Iterable[Record]) -> tuple[dict[str, Compressed], list[Problem]]:
    """The usable compressed networks of a folder by the SHA-256 of their records' files, and what is wrong with the
    others. A network cannot be used if the run that it was made from is not finished, or has other weights by now."""
    weights = {run.run_id: run.weights_sha256 for run in runs if run.status == "ok"}
    usable, problems = {}, []
    for found, sha256 in all_compressed(store):
        if isinstance(found, Problem):
            problems.append(found)
        elif weights.get(found.spec.id) != found.source_sha256:
            why = "has other weights now" if found.spec.id in weights else "has no usable record"
            problems.append(Problem(store.files.compressed_record(found.run_id),
                                    f"the run that it was made of, {found.spec.id}, {why}"))
        else:
            usable[sha256] = found
    return usable, problems


# At equal compute.

def costs_of_matched(specs: Iterable[RunSpec], costs: Iterable[Cost]) -> Iterator[Cost]:
    """The profiles that apply to a cell of equal compute, whose runs have the given specs.

    Profiles are measured for runs of equal steps. Each method's profile is therefore adapted to the epochs of its runs.
    The profile of a method without runs is dropped, except for kd's, to whose compute the other methods were matched.
    """
    runs = {Kind.of(spec): spec for spec in specs}
    cell = next(iter(runs)).cell
    has_kd = any(kind.method == EQUAL_TO for kind in runs)
    for one in costs:
        spec = one.profile.spec
        if spec.cell != cell:
            continue
        if one.profile.subject == "pair":
            yield one
        elif run := runs.get(Kind.of(spec)):
            yield replace(one, profile=_of_length(one.profile, run))
        elif spec.method == EQUAL_TO and not has_kd:
            yield replace(one, profile=_of_length(one.profile, spec.model_copy(
                update={"own_recipe": OwnRecipe(epochs=spec.recipe.epochs)})))


def _of_length(profile: Profile, run: RunSpec) -> Profile:
    """The profile of a method adapted to a run with other epochs or updates: the number of steps is scaled."""
    measured, training = profile.spec, profile.training
    if training is not None:
        steps = training.run_steps * run.training.epochs * run.updates // (measured.recipe.epochs * measured.updates)
        training = msgspec.structs.replace(training, run_steps=steps)
    return msgspec.structs.replace(profile, spec=run, training=training)


def shares_of_kd(costs: Iterable[Cost]) -> dict[str, float]:
    """The compute of the methods in a cell of equal compute, in multiples of kd's, by label; empty if kd's is not
    known."""
    known = {one.label: (one.profile.spec, one.profile.training.step_time_ratio.median) for one in costs
             if one.profile.training is not None and one.profile.spec.equal_compute}
    _, ratio_of_kd = known.get(EQUAL_TO, (None, 0.0))
    return {label: share_of_kd(spec, ratio, ratio_of_kd) for label, (spec, ratio) in known.items() if ratio_of_kd > 0}


# As metrics.

def pair_of(costs: Iterable[Cost]) -> Profile | None:
    """The finished profile of the pair, its plain student and its teacher, among a cell's profiles; None if there is
    none."""
    return next((c.profile for c in costs if c.profile.subject == "pair" and c.profile.status == "ok"), None)


def method_metrics(costs: Sequence[Cost], name: str) -> dict[str, float]:
    """The profiled metrics of the method with the label `name` in a cell: of its training, and of the network that it
    deploys. Empty if it has no finished profile."""
    own = next((c.profile for c in costs if c.profile.subject == "method" and c.label == name), None)
    if own is None or own.status != "ok":
        return {}
    pair = pair_of(costs)
    return (pair.metrics if pair else {}) | own.metrics


def teacher_metrics(costs: Sequence[Cost]) -> dict[str, float]:
    pair = pair_of(costs)
    return pair.deployment.teacher.metrics if pair and pair.deployment and pair.deployment.teacher else {}


def energy_source(costs: Sequence[Cost], metric: str, name: str | None = None) -> str | None:
    """The source of a metric's energy figures, such as "rapl": of the method with the label `name`, or of all methods
    if that is None. Several sources are joined by "and"; None if there is none."""
    found = [c for c in costs if c.profile.subject == "method" and name in (None, c.label) and c.profile.energy_source]
    pair = pair_of(costs)
    sources = {pair.energy_source if pair and metric in USE and c.profile.deployment is None else
               c.profile.energy_source for c in found}
    return " and ".join(sorted(source for source in sources if source)) or None
