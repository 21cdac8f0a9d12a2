"""Teacher passes, the cached outputs of a teacher for a stream of batches: which runs of a matrix share one, how large
each becomes, and which parts of it may be kept."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from kdbench.disk import free_space
from kdbench.execution.job import Job, PassShare
from kdbench.folders import CacheFolder
from kdbench.plugins.source import MethodInfo
from kdbench.results.cached import CachedPass, passes, remove
from kdbench.results.sizes import size_text
from kdbench.spec import RunSpec, TrainedTeacher, digest, tutor

DEFAULT_SHARE = 0.1  # the budget unless one is given, as a fraction of the disk's free space
BATCH_SETTINGS = {"batch_size", "image_size", "train_size", "augment", "normalise", "precision"}


class AnswerSize(NamedTuple):
    """The sizes of all outputs of a teacher in one run, in bytes of float32, by the fields of `Outputs`."""

    logits: int
    embedding: int
    stages: int


@dataclass(frozen=True)
class SharedPass:
    """A teacher pass that several pending runs share."""

    key: str                # see `pass_key`
    runs: int               # how many share it
    size: AnswerSize        # for the longest of these runs
    parts: tuple[str, ...]  # the parts that the budget allows to keep


def pass_key(spec: RunSpec, method: MethodInfo) -> str | None:
    """A hash that is equal for all runs in which the same teacher is shown the same batches; None if the method learns
    from no teacher or uses no data."""
    source = tutor(method.learns_from, teacher=spec.teacher, self_teacher=spec.self_teacher)
    if source is None or not method.needs_data:
        return None
    teacher = source.run.id if isinstance(source, TrainedTeacher) else source.model_dump(mode="json", exclude={"path"})
    batches = spec.recipe.model_dump(mode="json", include=BATCH_SETTINGS)
    if spec.transfer is not None:
        batches |= {"transfer": spec.transfer.model_dump(mode="json"), "unlabelled": bool(method.unlabelled)}
    return digest([teacher, spec.dataset, spec.dataset_digest, batches, spec.seed, spec.device])[:16]


def shared_passes(jobs: Iterable[Job], sizes: Mapping[str, AnswerSize], budget: int) -> list[SharedPass]:
    """The teacher passes that two or more of the runs share, in the order of the runs, each with the parts of it that
    may be kept.

    `sizes` are by run id; runs without one are left out. The `budget`, in bytes, is spent on the logits of as many
    passes as fit, then on the embeddings of these passes, then on their stages.
    """
    sharing: dict[str, list[AnswerSize]] = {}
    for job in jobs:
        key = pass_key(job.spec, job.method)
        if key is not None and job.id in sizes:
            sharing.setdefault(key, []).append(sizes[job.id])
    found = [SharedPass(key, len(all_sizes), max(all_sizes), ())
             for key, all_sizes in sharing.items() if len(all_sizes) > 1]
    for number, part in enumerate(AnswerSize._fields):
        for place, one in enumerate(found):
            if len(one.parts) == number and one.size[number] <= budget:
                budget -= one.size[number]
                found[place] = replace(one, parts=(*one.parts, part))
    return found


def with_passes(jobs: Iterable[Job], shared: Iterable[SharedPass]) -> list[Job]:
    """The jobs, each with the teacher pass that it may read and the parts that it may add to it. Jobs without a teacher
    stay as they are."""
    parts = {one.key: one.parts for one in shared}
    return [replace(job, teacher_pass=PassShare(key, parts.get(key, ())))
            if (key := pass_key(job.spec, job.method)) is not None else job for job in jobs]


def default_budget(cache: CacheFolder, kept: Sequence[CachedPass]) -> int:
    """`DEFAULT_SHARE` of the sum of the free space on the cache's disk and the space that the cached passes take now,
    in bytes."""
    return int(DEFAULT_SHARE * (free_space(cache.root) + sum(one.bytes for one in kept)))


@dataclass(frozen=True)
class PassPlan:
    """The teacher passes that a matrix shares, those that the cache holds already, and the budget for all of them."""

    shared: Sequence[SharedPass]
    kept: Sequence[CachedPass]
    budget: int  # bytes

    @property
    def bytes(self) -> int:
        """The bytes that the kept parts of the shared passes take once they are complete."""
        return sum(getattr(one.size, part) for one in self.shared for part in one.parts)

    def make_room(self) -> list[CachedPass]:
        """Remove cached passes that the matrix does not share, the longest unused first, until all passes together will
        stay within the budget, and return the removed passes."""
        keys = {one.key for one in self.shared}
        others = sorted((one for one in self.kept if one.key not in keys), key=lambda one: one.used)
        room, removed = self.budget - self.bytes - sum(one.bytes for one in others), []
        for one in others:
            if room >= 0:
                break
            remove(one)
            removed.append(one)
            room += one.bytes
        return removed

    def lines(self) -> list[str]:
        """A line on the parts that will be kept and one on those beyond the budget, each only if there are such
        parts."""
        kept, beyond = [], []
        for part in AnswerSize._fields:
            inside = [getattr(one.size, part) for one in self.shared if part in one.parts]
            outside = [getattr(one.size, part) for one in self.shared if part not in one.parts]
            if inside:
                kept.append(f"{size_text(sum(inside))} of {_plural(part)}")
            if outside:
                beyond.append(f"{size_text(sum(outside))} of {_plural(part)} of {_passes(len(outside))}")
        lines, budget = [], f"--teacher-cache {size_text(self.budget)}"
        if kept:
            holding = [one for one in self.shared if one.parts]
            lines.append(f"teacher passes: {sum(one.runs for one in holding)} runs share the answers of a teacher in "
                         f"{_passes(len(holding))}: up to {', '.join(kept)}; {budget}")
        if beyond:
            lines.append(f"teacher passes: beyond {budget}, and computed by each run that uses them: "
                         f"{', '.join(beyond)}")
        return lines


def plan_passes(cache: CacheFolder, jobs: Iterable[Job], sizes: Mapping[str, AnswerSize],
                budget: int | None) -> PassPlan:
    """The plan of the teacher passes that the runs share within `budget` bytes, or within `default_budget` if that is
    None. Nothing is written or removed."""
    kept = passes(cache)
    allowed = default_budget(cache, kept) if budget is None else budget
    return PassPlan(shared_passes(jobs, sizes, allowed) if allowed else [], kept, allowed)


def _plural(part: str) -> str:
    return part if part.endswith("s") else f"{part}s"


def _passes(count: int) -> str:
    return "1 pass" if count == 1 else f"{count} passes"
