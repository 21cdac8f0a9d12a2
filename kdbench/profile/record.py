"""Profiles: the records of measurements, as a results folder keeps them."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from msgspec import Struct

from kdbench.disk import atomic_write, json_files
from kdbench.execution.estimate import Sample, machine
from kdbench.profile.energy import Source
from kdbench.results.record import Outcome, Problem, decode, read
from kdbench.results.store import Store
from kdbench.spec import RunSpec

Subject = Literal["method", "pair"]
BUSY = 1.5  # a load average above which something else runs beside a measurement


class Quartiles(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The median of repeats, and the quartiles that say how far they spread."""

    low: float
    median: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Quartiles":
        low, median, high = np.percentile(values, [25, 50, 75]).tolist()
        return cls(low=low, median=median, high=high, count=len(values))


class Training(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The cost of a method's training steps, measured in passes over all parts of a run, in which the reference takes
    the same steps in turns with the method."""

    reference: str                      # the method that it is compared with
    pass_steps: int                     # steps in a pass
    run_steps: int                      # steps in a whole run
    step_seconds: Quartiles             # of a step, as the mean of a pass; over passes
    reference_step_seconds: Quartiles
    step_time_ratio: Quartiles          # the method's over the reference's in a pass, over passes
    step_joules: Quartiles | None       # over passes by the method alone; None: no energy counter
    peak_memory_bytes: int

    @property
    def metrics(self) -> dict[str, float]:
        found = {
            "step_ms": 1000 * self.step_seconds.median, "step_time_ratio": self.step_time_ratio.median,
            "training_seconds": self.run_steps * self.step_seconds.median,
            "training_memory_bytes": float(self.peak_memory_bytes),
        }
        if self.step_joules is not None:
            found |= {"step_energy_joules": self.step_joules.median,
                      "training_energy_joules": self.run_steps * self.step_joules.median}
        return found


class Deployment(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Size and cost of one network in use."""

    parameters: int
    flops: int                          # for one image; a multiply-accumulate is two
    file_bytes: int
    latency_seconds: Quartiles          # of one image, over calls
    latency_p95_seconds: float
    throughput: Quartiles               # images per second at batch 64, over repeats
    joules_per_1000_images: Quartiles | None

    @property
    def metrics(self) -> dict[str, float]:
        found = {
            "parameters": float(self.parameters), "flops": float(self.flops), "file_bytes": float(self.file_bytes),
            "latency_ms": 1000 * self.latency_seconds.median, "latency_p95_ms": 1000 * self.latency_p95_seconds,
            "throughput": self.throughput.median,
        }
        if self.joules_per_1000_images is not None:
            found["energy_per_1000_images"] = self.joules_per_1000_images.median
        return found


class Deployments(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The cost of a student and its teacher in use, measured in turns."""

    student: Deployment
    teacher: Deployment | None
    speedup: Quartiles | None           # teacher's latency over student's, over repeats
    energy_saving: Quartiles | None     # share of the teacher's energy per image that the student saves, over repeats

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the student, including those that compare it with the teacher."""
        shares = {"speedup": self.speedup, "energy_saving": self.energy_saving}
        return self.student.metrics | {name: share.median for name, share in shares.items() if share is not None}


class Profile(Outcome, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The measurement of one method in one cell, or of the cell's pair: its plain student and its teacher. The run id
    is that of the method's run with the spec's seed; for a pair it is the cell."""

    subject: Subject
    training: Training | None = None      # of a method
    deployment: Deployments | None = None  # of a pair; of a method only where it deploys another network
    energy_source: Source | None = None
    watts_per_core: float | None = None   # of an estimate of energy
    load_average: float | None = None     # of the machine over the last minute, when the measurement began

    def check(self) -> None:
        super().check()
        if self.run_id != profile_id(self.subject, self.spec):
            raise ValueError(f"id {self.run_id!r} is not the hash of its spec")

    @property
    def metrics(self) -> dict[str, float]:
        parts = (self.training, self.deployment)
        return {name: value for part in parts if part is not None for name, value in part.metrics.items()}


def samples_of(profile: Profile) -> list[Sample]:
    """The training times that a profile of a method gives, as samples of its own run and of a run of the reference.
    Empty if the profile holds none."""
    training = profile.training
    if training is None:
        return []
    reference = profile.spec.model_copy(update={"method": training.reference, "hyperparameters": {}})
    here = machine(profile.environment)
    return [Sample(spec, training.run_steps * step.median, here, "profile") for spec, step in (
        (profile.spec, training.step_seconds), (reference, training.reference_step_seconds))]


def profile_id(subject: Subject, spec: RunSpec) -> str:
    """The id of the profile of a method's run, or of a cell's pair."""
    return spec.cell if subject == "pair" else spec.id


def write_profile(store: Store, profile: Profile) -> None:
    """Write a profile into the folder. Raises ValueError, and writes nothing, if it could not be read back."""
    content = profile.to_json()
    decode(Profile, content)
    atomic_write(store.files.profile(profile.run_id), content)


def read_profile(store: Store, name: str) -> Profile | Problem | None:
    """The profile with the id `name`; None if there is none, a Problem if its file is damaged."""
    path = store.files.profile(name)
    return read(Profile, str(path))[0] if path.exists() else None


def profiles(store: Store) -> Iterator[tuple[Profile | Problem, str]]:
    """Every profile of a folder, or the Problem of a file that is not a usable one, with the SHA-256 of its file."""
    for path in json_files(store.files.profiles):
        found, content = read(Profile, path)
        yield found, hashlib.sha256(content).hexdigest()
