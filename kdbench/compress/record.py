"""Records of compressed networks of finished students, as a results folder keeps them: one file for each network."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field

from kdbench.disk import atomic_write, json_files
from kdbench.errors import UserError
from kdbench.metrics.catalog import check_bounds
from kdbench.metrics.metric import LARGEST
from kdbench.plugins.source import MethodInfo
from kdbench.profile.energy import Source
from kdbench.profile.record import Quartiles
from kdbench.results.record import Number, Outcome, Problem, decode, read
from kdbench.results.store import Store
from kdbench.spec import RunSpec

Kind = Literal["float", "int8", "pruned", "pruned int8"]
KINDS: tuple[Kind, ...] = ("float", "int8", "pruned", "pruned int8")
CALIBRATION: Final = 256          # training images for the ranges of activations; all if there are fewer
RECOVERY: Final = 0.25            # share of the recipe's epochs in which a pruned network learns from the float one
FLOAT_AGREEMENT: Final = "float_agreement"  # share of test images on which it predicts the float network's class
PRUNED = ("pruned", "pruned int8")
INT8 = ("int8", "pruned int8")


@dataclass(frozen=True)
class Settings:
    """Which networks a command makes of each student, and how. UserError if the options ask for none or contradict each
    other."""

    int8: bool = False
    prune: float | None = None      # share of each layer's channels to remove; None: no pruned networks
    recovery: int | None = None     # epochs of training after pruning; None: the share RECOVERY of the recipe's

    def __post_init__(self) -> None:
        if not self.int8 and self.prune is None:
            raise UserError("nothing to do: give --int8, --prune SHARE, or both")
        if self.prune is not None and not 0 < self.prune < 1:
            raise UserError(f"--prune {self.prune:g}: expected the share of channels to remove, above 0 and below 1, "
                            "such as 0.5")
        if self.recovery is not None and self.prune is None:
            raise UserError("--recovery goes with --prune: only a pruned network learns again")

    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of networks that are made of a student. The float network is always among them, to compare the
        others with."""
        return tuple(kind for kind in KINDS if (kind not in INT8 or self.int8)
                     and (kind not in PRUNED or self.prune is not None))

    def of(self, kind: Kind, spec: RunSpec) -> dict[str, Any]:
        """The fields of a record that say how a network of this kind is made of the student with this spec."""
        found: dict[str, Any] = {"kind": kind}
        if kind in INT8:
            found["calibration_images"] = CALIBRATION
        if kind in PRUNED:
            epochs = max(1, round(RECOVERY * spec.training.epochs)) if self.recovery is None else self.recovery
            found |= {"prune": self.prune, "recovery_epochs": epochs}
        return found


@dataclass(frozen=True)
class CompressTask:
    """One network to make of a student, as far as its record tells of it."""

    spec: RunSpec
    method: MethodInfo
    suite: str
    fields: Mapping[str, Any]  # how it is made, from `Settings.of`

    @property
    def id(self) -> str:
        return compressed_id(self.spec, self.fields)


class Use(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The costs of using a network in onnxruntime, on one thread."""

    latency_seconds: Quartiles          # of one image; quartiles over calls
    latency_p95_seconds: Annotated[float, Meta(ge=0, le=LARGEST)]
    throughput: Quartiles               # images per second at batch 64; quartiles over repeats
    joules_per_1000_images: Quartiles | None  # at batch 64; quartiles over repeats; none without an energy counter


class Compressed(Outcome, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A network that was made of a finished student, and what was measured of it. The float student itself is recorded
    in the same way, as an ONNX file. `spec` is the student's, and `run_id` is a hash of it and of how the network was
    made."""

    kind: Kind                                                        # which network of the student it is.
    prune: Annotated[float, Meta(gt=0, lt=1)] | None = None           # share of channels removed; None: not pruned
    recovery_epochs: Annotated[int, Meta(ge=0)] | None = None         # epochs of learning from the float student
    calibration_images: Annotated[int, Meta(gt=0)] | None = None      # number asked for, or all if there are fewer
    source_sha256: str                                                # of the float student's weights, from its record
    network_sha256: str | None = None                                 # of the ONNX file
    file_bytes: Annotated[int, Meta(ge=0)] | None = None              # of the ONNX file
    parameters: Annotated[int, Meta(ge=0)] | None = None
    metrics: Mapping[str, Number] = field(default_factory=dict)  # as in a record, by onnxruntime; and float_agreement
    vectors: Mapping[str, list[Number | None]] = field(default_factory=dict)  # as in a record
    groups: dict[str, list[str]] = field(default_factory=dict)  # as in a record
    # The gradients that attacks follow: the network's own, or those of the float network that an int8 one was made of.
    attack: Literal["own gradients", "gradients of its float form"] | None = None
    use: Use | None = None                # costs of using it; None if it could not be made
    energy_source: Source | None = None
    watts_per_core: float | None = None   # that an estimate assumes; None for an energy counter
    load_average: float | None = None     # of the machine over the last minute, when the measurement began
    packages: dict[str, str | None] = field(default_factory=dict)  # versions of the packages that made the network

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that say how the network was made and that its id depends on, by name, without those that are
        None."""
        named = ("kind", "prune", "recovery_epochs", "calibration_images")
        return {name: getattr(self, name) for name in named if getattr(self, name) is not None}

    @property
    def label(self) -> str:
        """What was done to the network, as tables say it: "int8", "pruned 50 %", "pruned 50 % int8", or "float"."""
        pruned = "" if self.prune is None else f"pruned {100 * self.prune:g} %"
        return " ".join(part for part in (pruned, "int8" if self.kind in INT8 else "") if part) or "float"

    def check(self) -> None:
        super().check()
        if self.run_id != compressed_id(self.spec, self.fields):
            raise ValueError(f"id {self.run_id!r} is not the hash of its spec and of how it was made")
        if (self.kind in PRUNED) != (self.prune is not None):
            raise ValueError(f"kind {self.kind!r} and prune {self.prune} contradict each other")
        if self.status == "ok" and None in (self.network_sha256, self.file_bytes, self.use, self.attack):
            raise ValueError("status 'ok' without a network or its cost of use")
        check_bounds(self.metrics)
        if not 0 <= self.metrics.get(FLOAT_AGREEMENT, 0) <= 1:
            raise ValueError(f"metrics.{FLOAT_AGREEMENT}: {self.metrics[FLOAT_AGREEMENT]:g} is not between 0 and 1")


def compressed_id(spec: RunSpec, fields: Mapping[str, Any]) -> str:
    """The id of the network that is made of the student with this spec in the way that `fields` say (see
    `Settings.of`)."""
    text = json.dumps([spec.id, dict(fields)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_compressed(store: Store, one: Compressed) -> None:
    """Write a record into the folder. ValueError, and nothing is written, if it could not be read back."""
    content = one.to_json()
    decode(Compressed, content)
    atomic_write(store.files.compressed_record(one.run_id), content)


def read_compressed(store: Store, name: str) -> Compressed | Problem | None:
    """The record of a compressed network by its id; None if there is none, a Problem if it is damaged."""
    path = store.files.compressed_record(name)
    return read(Compressed, str(path))[0] if path.exists() else None


def all_compressed(store: Store) -> Iterator[tuple[Compressed | Problem, str]]:
    """Every record of a compressed network in a folder, or what is wrong with it, and the SHA-256 of its file."""
    for path in json_files(store.files.compressed):
        found, content = read(Compressed, path)
        yield found, hashlib.sha256(content).hexdigest()
