"""Which runs of a matrix share a teacher pass, how large each pass becomes, and what of it may be kept."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from kdbench.execution.job import Job, PassShare
from kdbench.folders import CacheFolder
from kdbench.plugins.source import MethodInfo
from kdbench.results.cached import CachedPass, remove
from kdbench.results.sizes import size_text
from kdbench.spec import RunSpec, TrainedTeacher, digest, tutor

DEFAULT_SHARE = 0.1  # of the disk's free space: the budget, unless one is given
BATCH_SETTINGS = {"batch_size", "image_size", "train_size", "augment", "normalise", "precision"}
LIGHT, HEAVY = ("logits", "embedding"), ("stages",)


class AnswerSize(NamedTuple):
    """What a teacher answers in a run, in bytes of float32: see `Outputs`."""

    light: int  # logits and embeddings
    heavy: int  # stages


@dataclass(frozen=True)
class SharedPass:
    """A teacher pass that several pending runs meet."""

    key: str
    runs: int
    size: AnswerSize        # of the longest of these runs
    parts: tuple[str, ...]  # what the budget allows to keep


def pass_key(spec: RunSpec, method: MethodInfo) -> str | None:
    """A hash that runs share whose teacher answers the same batches; None for a run without a teacher or batches."""
    source = tutor(method.learns_from, teacher=spec.teacher, self_teacher=spec.self_teacher)
    if source is None or not method.needs_data:
        return None
    teacher = source.run.id if isinstance(source, TrainedTeacher) else source.model_dump(mode="json", exclude={"path"})
    batches = spec.recipe.model_dump(mode="json", include=BATCH_SETTINGS)
    return digest([teacher, spec.dataset, spec.dataset_digest, batches, spec.seed, spec.device])[:16]


def shared_passes(jobs: Iterable[Job], sizes: Mapping[str, AnswerSize], budget: int) -> list[SharedPass]:
    """The passes that two or more of the runs share, in the order of the runs, each with what may be kept of it.

    `sizes` are by run id. Logits and embeddings are small and come first, for as many passes as `budget` bytes allow;
    stages are kept of the passes for which there is room then.
    """
    sharing: dict[str, list[AnswerSize]] = {}
    for job in jobs:
        key = pass_key(job.spec, job.method)
        if key is not None and job.id in sizes:
            sharing.setdefault(key, []).append(sizes[job.id])
    found = [SharedPass(key, len(all_sizes), max(all_sizes), ())
             for key, all_sizes in sharing.items() if len(all_sizes) > 1]
    for place, one in enumerate(found):
        if one.size.light <= budget:
            budget -= one.size.light
            found[place] = replace(one, parts=LIGHT)
    for place, one in enumerate(found):
        if one.parts and one.size.heavy <= budget:
            budget -= one.size.heavy
            found[place] = replace(one, parts=LIGHT + HEAVY)
    return found


def with_passes(jobs: Iterable[Job], shared: Iterable[SharedPass]) -> list[Job]:
    """The jobs, each told the pass that it may read and what it may add to it."""
    parts = {one.key: one.parts for one in shared}
    return [replace(job, teacher_pass=PassShare(key, parts.get(key, ())))
            if (key := pass_key(job.spec, job.method)) is not None else job for job in jobs]


def default_budget(cache: CacheFolder, kept: Sequence[CachedPass]) -> int:
    """A share of what is free on the cache's disk, with what passes take of it now, in bytes."""
    folder = next(place for place in (cache.root, *cache.root.absolute().parents) if place.is_dir())
    return int(DEFAULT_SHARE * (shutil.disk_usage(folder).free + sum(one.bytes for one in kept)))


def make_room(kept: Iterable[CachedPass], shared: Iterable[SharedPass], budget: int) -> list[CachedPass]:
    """Remove passes that the runs do not share, the longest unused first, until all passes together will stay within
    `budget` bytes; those that were removed."""
    keys = {one.key for one in shared}
    others = sorted((one for one in kept if one.key not in keys), key=lambda one: one.used)
    room = budget - sum(bytes_to_keep(one) for one in shared) - sum(one.bytes for one in others)
    removed = []
    for one in others:
        if room >= 0:
            break
        remove(one)
        removed.append(one)
        room += one.bytes
    return removed


def bytes_to_keep(shared: SharedPass) -> int:
    """The bytes that a pass takes once it is complete."""
    return shared.size.light * (LIGHT[0] in shared.parts) + shared.size.heavy * (HEAVY[0] in shared.parts)


def pass_lines(shared: Sequence[SharedPass], budget: int) -> list[str]:
    """What the plan says of its passes, in a sentence or two; nothing where none is shared."""
    if not shared:
        return []
    light = [one for one in shared if one.parts]
    heavy = [one for one in shared if HEAVY[0] in one.parts]
    text = (f"teacher passes: {sum(one.runs for one in light)} runs share the answers of a teacher in {len(light)} "
            f"{'pass' if len(light) == 1 else 'passes'}: {size_text(sum(one.size.light for one in light))} of logits "
            f"and embeddings")
    if heavy:
        text += f", up to {size_text(sum(one.size.heavy for one in heavy))} of stages"
    lines = [f"{text}; --teacher-cache {size_text(budget)}"]
    if left := [one.size.heavy for one in shared if HEAVY[0] not in one.parts]:
        lines.append(f"teacher passes: the stages of {len(left)} of them, {size_text(sum(left))}, are beyond that: "
                     "each run that uses them computes them")
    return lines
