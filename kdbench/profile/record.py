"""What a profile says, as it is kept: FOLDER/profile/<id>.json beside the records of runs. Free of torch."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import model_validator

from kdbench.disk import atomic_write, json_files
from kdbench.profile.energy import Source
from kdbench.results.record import Finite, Problem, Status, Strict, Utc, read_json
from kdbench.results.store import Store
from kdbench.spec import RunSpec

Subject = Literal["method", "pair"]
BUSY = 1.5  # a load average from which on something else runs beside a measurement


class Quartiles(Strict):
    """The median of repeats, and the quartiles that say how far they spread."""

    low: Finite
    median: Finite
    high: Finite
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Quartiles":
        low, median, high = np.percentile(values, [25, 50, 75]).tolist()
        return cls(low=low, median=median, high=high, count=len(values))


class Training(Strict):
    """Steps of a method, in passes over the parts of a run; in each the reference takes the same steps in turns."""

    reference: str                      # the method that it is compared with
    pass_steps: int                     # steps in a pass
    run_steps: int                      # steps of the recipe
    step_seconds: Quartiles             # over passes, of a pass's mean
    reference_step_seconds: Quartiles
    step_time_ratio: Quartiles          # over passes
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


class Deployment(Strict):
    """A network in use."""

    parameters: int
    flops: int                          # for one image; a multiply-accumulate is two
    file_bytes: int
    latency_seconds: Quartiles          # of one image, over calls
    latency_p95_seconds: Finite
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


class Comparison(Strict):
    """Two networks in use, measured in turns."""

    student: Deployment
    teacher: Deployment | None
    speedup: Quartiles | None           # teacher's latency over student's, over repeats
    energy_saving: Quartiles | None     # share of the teacher's energy per image, over repeats

    @property
    def metrics(self) -> dict[str, float]:
        """Of the student."""
        shares = {"speedup": self.speedup, "energy_saving": self.energy_saving}
        return self.student.metrics | {name: share.median for name, share in shares.items() if share is not None}


class Profile(Strict):
    """What came out of measuring one method in one cell, or the cell's pair: its plain student and its teacher."""

    schema_version: Literal[1] = 1
    run_id: str                         # of the method's run with the spec's seed; of a pair: the cell
    subject: Subject
    suite: str
    spec: RunSpec
    status: Status
    reason: str | None = None           # why the status is not ok, in one line
    traceback: str | None = None
    training: Training | None = None    # of a method
    deployment: Comparison | None = None  # of a pair; of a method only where it deploys another network
    energy_source: Source | None = None
    watts_per_core: Finite | None = None  # of an estimate
    load_average: Finite | None = None  # of the machine over the last minute, when the measurement began
    seconds: Finite                     # that the measurement took
    method_digest: str
    environment: dict[str, Any] = {}
    started: Utc
    finished: Utc

    @model_validator(mode="after")
    def _named_by_its_spec(self) -> "Profile":
        if self.run_id != profile_id(self.subject, self.spec):
            raise ValueError(f"id {self.run_id!r} is not the hash of its spec")
        return self

    @property
    def metrics(self) -> dict[str, float]:
        parts = (self.training, self.deployment)
        return {name: value for part in parts if part is not None for name, value in part.metrics.items()}


def profile_id(subject: Subject, spec: RunSpec) -> str:
    return spec.cell if subject == "pair" else spec.id


def profile_path(folder: Path, name: str) -> Path:
    return folder / "profile" / f"{name}.json"


def write_profile(folder: Path, profile: Profile) -> None:
    atomic_write(profile_path(folder, profile.run_id), profile.to_json())


def read_profile(folder: Path, name: str) -> Profile | Problem | None:
    """None if there is none; a Problem if it is damaged."""
    path = profile_path(folder, name)
    return read_json(Profile, str(path))[0] if path.exists() else None


def profiles(store: Store) -> Iterator[tuple[Profile | Problem, str]]:
    """Every profile of a folder, or the problem with it, with the SHA-256 of its file."""
    for path in json_files(store.folder / "profile"):
        found, content = read_json(Profile, path)
        yield found, hashlib.sha256(content).hexdigest()
