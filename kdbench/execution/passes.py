"""Which runs of a matrix share a teacher pass, how large each pass becomes, and what of it may be kept."""

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

DEFAULT_SHARE = 0.1  # of the disk's free space: the budget, unless one is given
BATCH_SETTINGS = {"batch_size", "image_size", "train_size", "augment", "normalise", "precision"}


class AnswerSize(NamedTuple):
    """What a teacher answers in a run, in bytes of float32, by the parts of `Outputs`."""

    logits: int
    embedding: int
    stages: int


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
    if spec.transfer is not None:
        batches |= {"transfer": spec.transfer.model_dump(mode="json"), "unlabelled": bool(method.unlabelled)}
    return digest([teacher, spec.dataset, spec.dataset_digest, batches, spec.seed, spec.device])[:16]


def shared_passes(jobs: Iterable[Job], sizes: Mapping[str, AnswerSize], budget: int) -> list[SharedPass]:
    """The passes that two or more of the runs share, in the order of the runs, each with what may be kept of it.

    `sizes` are by run id. The budget of so many bytes goes to the logits of as many passes as it allows, then to their
    embeddings, then to their stages.
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
    """The jobs, each told the pass that it may read and what it may add to it."""
    parts = {one.key: one.parts for one in shared}
    return [replace(job, teacher_pass=PassShare(key, parts.get(key, ())))
            if (key := pass_key(job.spec, job.method)) is not None else job for job in jobs]


def default_budget(cache: CacheFolder, kept: Sequence[CachedPass]) -> int:
    """A share of what is free on the cache's disk, with what passes take of it now, in bytes."""
    return int(DEFAULT_SHARE * (free_space(cache.root) + sum(one.bytes for one in kept)))


@dataclass(frozen=True)
class PassPlan:
    """The passes of a matrix beside those that the cache holds already."""

    shared: Sequence[SharedPass]
    kept: Sequence[CachedPass]
    budget: int  # bytes

    @property
    def bytes(self) -> int:
        """What the shared passes take once they are complete."""
        return sum(getattr(one.size, part) for one in self.shared for part in one.parts)

    def make_room(self) -> list[CachedPass]:
        """Remove passes that the matrix does not share, the longest unused first, until all passes together will stay
        within the budget; those that were removed."""
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
        """A line on what will be kept, and one on what is beyond the budget. Nothing where no pass is shared."""
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
    """The passes of the runs within `budget` bytes, by default a share of the free disk. Nothing is written or
    removed."""
    kept = passes(cache)
    allowed = default_budget(cache, kept) if budget is None else budget
    return PassPlan(shared_passes(jobs, sizes, allowed) if allowed else [], kept, allowed)


def _plural(part: str) -> str:
    return part if part.endswith("s") else f"{part}s"


def _passes(count: int) -> str:
    return "1 pass" if count == 1 else f"{count} passes"
