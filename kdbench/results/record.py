"""The records of runs and measurements: the one schema in which they are written, read and turned into tables."""

import hashlib
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol, Self, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, field

from kdbench.disk import read_file
from kdbench.environment import environment, now
from kdbench.metrics.answers import Answers
from kdbench.metrics.catalog import check_bounds
from kdbench.metrics.metric import LARGEST
from kdbench.plugins.source import Facts, MethodInfo
from kdbench.results.numbers import Lists, Numbers, significant
from kdbench.spec import PORTABLE, RunSpec

SCHEMA_VERSION: Final = 1
Role = Literal["student", "teacher", "trial"]  # a trial is a student that tuning trains: it never sees test images
# "pruned": a trial that was stopped because it was behind others. "missing": there is no record file.
Status = Literal["ok", "diverged", "crashed", "timeout", "inapplicable", "pruned", "missing"]
NOTHING: dict[str, Any] = {}  # one empty dictionary, which all records without details share
NO_NOTES: list[str] = []
PORTABLE_DIGITS = 10  # significant digits of a metric on "cpu-portable", see `as_recorded`
LEFT_OUT = Answers((), "")  # says in a record without details that the record's file has answers
DIGEST = b',\n"sha256": "'  # between the fields of an entry and the digest of its content
MAX_REASON = 300  # characters of the message about a damaged file
Utc = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$")]

Part = TypeVar("Part")
Number = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]


class Task(Protocol):
    """What `Outcome.of` needs to know of the run or measurement whose outcome it makes."""

    @property
    def id(self) -> str: ...
    @property
    def spec(self) -> RunSpec: ...
    @property
    def method(self) -> MethodInfo: ...
    @property
    def suite(self) -> str: ...


class Entry(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Base class of planned runs and of outcomes: the content of a JSON file that is named by the id of a run."""

    suite: str
    spec: RunSpec

    @property
    def run_id(self) -> str:
        raise NotImplementedError

    def check(self) -> None:
        """Raise ValueError if fields contradict each other."""

    def to_json(self) -> bytes:
        """The content of the file: JSON with one field per line, which is readable and keeps diffs small. The last
        field, `sha256`, is the SHA-256 of all bytes before the comma that precedes it."""
        lines = (f'"{name}": {msgspec.json.encode(getattr(self, name), enc_hook=_as_json).decode()}'
                 for name in self.__struct_fields__)
        fields = ("{\n" + ",\n".join(lines)).encode()
        return fields + DIGEST + hashlib.sha256(fields).hexdigest().encode() + b'"\n}\n'


class Planned(Entry, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A run that somebody asked for, whether or not it has a record yet."""

    role: Role

    @property
    def run_id(self) -> str:
        return self.spec.id

    def without_record(self, damage: str | None = None) -> "Record":
        """A record with the status "missing" in place of the run's own. `damage` says why the file of that record
        cannot be used; None if there is no such file."""
        return Record(run_id=self.run_id, role=self.role, suite=self.suite, spec=self.spec, status="missing",
                      reason=f"its record is damaged: {damage}" if damage else "planned, no record yet",
                      seconds=0.0, method_digest="", started="", finished="")


class Outcome(Entry, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The fields that the records of runs and of measurements have in common."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: str
    status: Status
    reason: str | None = None           # one line that says why the status is not "ok"
    traceback: str | None = None        # Python's traceback of the exception that ended it
    seconds: Annotated[float, Meta(ge=0, le=LARGEST)]  # wall time of training, or of the measurement
    family: str | None = None           # of the method; kept here since a reader may not have the method installed
    method_digest: str                  # SHA-256 of the method's source file
    facts: Facts | None = None          # what the method's source declares; older records have none
    environment: dict[str, Any] = field(default_factory=dict)  # versions, hardware, threads, git commit
    started: Utc
    finished: Utc

    def check(self) -> None:
        for name, moment in (("started", self.started), ("finished", self.finished)):
            try:  # the pattern of Utc lets a month 13 through
                datetime.fromisoformat(moment)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    @classmethod
    def of(cls, task: Task, status: Status, reason: str | None = None, **measured: Any) -> Self:
        """The outcome of a task, with the environment and the time of this call. `measured` adds fields, or replaces
        those that are filled in here."""
        return cls(**{
            "run_id": task.id, "suite": task.suite, "spec": task.spec, "status": status, "reason": reason,
            "seconds": 0.0, "family": task.method.family, "method_digest": task.method.digest,
            "facts": task.method.facts,
            "environment": environment(task.spec.device), "started": now(), "finished": now(), **measured,
        })


def as_recorded(metrics: Mapping[str, Number], device: str) -> dict[str, Number]:
    """The metrics of a run as its record keeps them: rounded to PORTABLE_DIGITS on the device "cpu-portable", unchanged
    on others. NumPy, which computes some of them, cannot be restricted to AVX2 once it is imported, and the last digit
    of its exponentials may differ between processors."""
    if device != PORTABLE:
        return dict(metrics)
    return {name: significant(value, PORTABLE_DIGITS) for name, value in metrics.items()}


class Record(Outcome, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The result of one run: status, metrics, curves and digests. A metric that is absent was not computed; no number
    is ever NaN or infinite."""

    role: Role
    notes: list[str] = field(default_factory=list)  # what did not go as planned, such as a damaged checkpoint
    metrics: Mapping[str, Number] = field(default_factory=dict)  # by the names that `kdbench list metrics` prints
    # "loss" and "loss.TERM" have one value per epoch, the mean over its steps. "validation_accuracy" has one value for
    # each of the epochs in "validation_epoch", which count from 1. Older records have no "validation_epoch", and a
    # validation accuracy of every epoch.
    curves: dict[str, list[Number]] = field(default_factory=dict)
    # Of the test predictions: accuracy by class and by group, reliability bins; of the robustness subset: accuracy by
    # severity of each corruption, and the attack's radius. None where there are no images.
    vectors: Mapping[str, list[Number | None]] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)  # by attribute, the names of the groups in its vector
    peak_memory_bytes: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    weights_sha256: str | None = None
    predictions_sha256: str | None = None
    dataset_digest: str | None = None   # SHA-256 of the labels and pixels (or files) that the run saw
    classes: tuple[str, ...] = ()       # names of the classes; older records have none
    split_sizes: dict[str, Annotated[int, Meta(ge=0)]] = field(default_factory=dict)  # images by split;
    #                                                 older records have none
    answers: Answers | None = None      # the class predicted for each test image; older records have none

    def check(self) -> None:
        super().check()
        if self.run_id != self.spec.id:
            raise ValueError(f"run id {self.run_id!r} is not the hash of its spec, {self.spec.id!r}")
        if self.status == "missing":
            raise ValueError("status: 'missing' is said of a planned run without a record")
        check_bounds(self.metrics)

    def described(self) -> dict[str, Any]:
        """The main facts of the run by name, for display: its spec, its outcome and its metrics. Seconds are rounded to
        3 decimals, metrics to 6."""
        spec = self.spec
        return {
            "run": self.run_id, "role": self.role, "status": self.status, "reason": self.reason or "",
            "suite": self.suite, "method": spec.method, "family": self.family or "", "pair": spec.pair,
            "dataset": spec.dataset, "seed": spec.seed, "hyperparameters": spec.hyperparameters | spec.own_values,
            "student": spec.student.model, "seconds": round(self.seconds, 3),
            **{name: round(value, 6) for name, value in self.metrics.items()},
            "notes": "; ".join(self.notes), "weights": self.weights_sha256 or "", "started": self.started,
            "finished": self.finished, **({"traceback": self.traceback} if self.traceback else {}),
        }

    def without_details(self) -> "Record":
        """A copy of the record with only what tables need, in a fraction of the memory: parts that many records share
        are held once."""
        return msgspec.structs.replace(
            self, run_id=self.spec.id, suite=sys.intern(self.suite), family=self.family and sys.intern(self.family),
            metrics=Numbers(self.metrics), curves=NOTHING,
            environment=_shared(dict[str, Any], {"versions": self.environment.get("versions")}),
            vectors=Lists({name: values for name, values in self.vectors.items() if "_accuracy" in name}),
            groups=_shared(dict[str, list[str]], self.groups), classes=_shared(tuple[str, ...], self.classes),
            split_sizes=_shared(dict[str, int], self.split_sizes), answers=self.answers and LEFT_OUT,
            notes=NO_NOTES, traceback=None, started="", finished="", method_digest=sys.intern(self.method_digest),
            facts=self.facts and _shared(Facts, self.facts),
            dataset_digest=self.dataset_digest and sys.intern(self.dataset_digest))


def _shared(kind: Any, part: Part) -> Part:
    """An object of type `kind` that equals the part of a record: the same object for all records with an equal part."""
    return _decoded(kind, msgspec.json.encode(part))


@cache
def _decoded(kind: Any, content: bytes) -> Any:
    return msgspec.json.decode(content, type=kind)


SomeEntry = TypeVar("SomeEntry", bound=Entry)


class Problem(Struct, frozen=True):
    """A file that cannot be used, and the reason. `newer`: a newer kdbench wrote it, and can read it. `missing`: there
    is no such file."""

    path: Path
    reason: str
    newer: bool = False
    missing: bool = False


class NewerError(ValueError):
    """A file was written by a newer kdbench."""


def decode(kind: type[SomeEntry], content: bytes) -> SomeEntry:
    """The entry that the content of a file holds. Raises ValueError, with a message of one line, if the content is
    damaged, contradictory or of another schema version; NewerError if that version is a later one."""
    try:
        return _decode(kind, content)
    except ValueError as error:  # its text may quote names of any length from the file
        line = " ".join(str(error).split())
        raise (NewerError if isinstance(error, NewerError) else ValueError)(line[:MAX_REASON]) from error


def _decode(kind: type[SomeEntry], content: bytes) -> SomeEntry:
    content = _without_digest(content)
    try:
        written = _decoder(kind).decode(content)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _refusal(error, content) from error
    spec = RunSpec.from_json({name: bytes(text) for name, text in written.spec.items()})
    entry = kind(**{**msgspec.structs.asdict(written), "spec": spec})
    entry.check()
    return entry


def read(kind: type[SomeEntry], path: str) -> tuple[SomeEntry | Problem, bytes]:
    """The entry in a file, and the file's content. The entry is a Problem if the file cannot be read (the content is
    then empty), is damaged or is not named by its run id."""
    try:
        content = read_file(path)
    except OSError as error:
        return Problem(Path(path), f"cannot be read: {error.strerror}"), b""
    try:
        entry = decode(kind, content)
    except ValueError as error:
        return Problem(Path(path), str(error), newer=isinstance(error, NewerError)), content
    if entry.run_id != id_of(path):
        return Problem(Path(path), f"the file is named otherwise than its run id, {entry.run_id}"), content
    return entry, content


def id_of(path: str) -> str:
    """The run id that a JSON file is named by, from the file's path."""
    return path.rpartition("/")[2].removesuffix(".json")


def _without_digest(content: bytes) -> bytes:
    """The content without the digest at its end; unchanged if it has none, as files of kdbench 0.1. Raises ValueError
    if the digest is not the SHA-256 of what comes before it."""
    fields, found, digest = content.rpartition(DIGEST)
    if not found or not digest.endswith(b'"\n}\n'):
        return content
    if hashlib.sha256(fields).hexdigest().encode() != digest[:-4]:
        raise ValueError("its content was changed after it was written: it does not have its SHA-256")
    return fields + b"\n}\n"


@cache
def _decoder(kind: type[Entry]) -> msgspec.json.Decoder[Any]:
    """A decoder of a kind of entry that leaves each field of the spec undecoded, as `RunSpec.from_json` takes them."""
    fields: list[Any] = []
    for one in msgspec.structs.fields(kind):
        written = dict[str, Raw] if one.type is RunSpec else one.type
        default = field(default=one.default) if one.default is not msgspec.NODEFAULT else \
            field(default_factory=one.default_factory) if one.default_factory is not msgspec.NODEFAULT else UNSET
        fields.append((one.name, written) if default is UNSET else (one.name, written, default))
    return msgspec.json.Decoder(msgspec.defstruct(kind.__name__, fields, kw_only=True, forbid_unknown_fields=True))


def _as_json(value: Any) -> Any:
    if isinstance(value, RunSpec):
        return value.model_dump(mode="json")
    if isinstance(value, float):  # a subclass of it, as NumPy's float64 is
        return float(value)
    raise TypeError(f"{type(value).__name__} is no part of a record")


class _Version(Struct):
    schema_version: Any = SCHEMA_VERSION


def _refusal(error: Exception, content: bytes) -> ValueError:
    """The error that says why a file's content is not an entry. If the content is JSON of another schema version it
    says only that, since that explains all other faults."""
    if not isinstance(error, msgspec.ValidationError):
        return ValueError(f"truncated or not JSON: {' '.join(str(error).split())}")
    with suppress(msgspec.MsgspecError, RecursionError):
        version = msgspec.json.decode(content, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            newer = isinstance(version, int) and version > SCHEMA_VERSION
            text = f"schema version {str(version)[:20]!r}" if not newer else f"schema version {version}"
            return (NewerError if newer else ValueError)(f"{text}, this kdbench reads {SCHEMA_VERSION}")
    if "unknown field `sha256`" in str(error):
        return ValueError("its content was changed after it was written: it does not end with its SHA-256")
    message, _, place = str(error).partition(" - at `$")
    place = place.strip(".`")
    return ValueError(f"{place}: {message}" if place else message)
