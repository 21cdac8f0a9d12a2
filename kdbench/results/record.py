"""TODO."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol, Self, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kdbench.disk import _content
from kdbench.spec import RunSpec, identify_fields, read_field

SCHEMA_VERSION: Final = 1


Role = Literal["student", "teacher"]


Status = Literal["ok", "diverged", "crashed", "timeout", "inapplicable"]


Finite = Annotated[float, Field(allow_inf_nan=False)]


Utc = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$")]


class Kept(Protocol):
    """What a file holds that is named by an id."""

    @property
    def run_id(self) -> str: ...

    @classmethod
    def model_validate_json(cls, json_data: bytes) -> Self: ...


Model = TypeVar("Model", bound=Kept)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> bytes:
        """One line per field: readable, and small in a diff."""
        lines = (f'"{name}": {self._field(name)}' for name in type(self).model_fields)
        return ("{\n" + ",\n".join(lines) + "\n}\n").encode()

    def _field(self, name: str) -> str:
        return self.model_dump_json(include={name})[len(name) + 4:-1]


class Planned(Strict):
    """A run that somebody asked for."""

    suite: str
    role: Role
    spec: RunSpec

    @property
    def run_id(self) -> str:
        return self.spec.id


class Record(Strict):
    """What came out of one run. A metric or curve that is absent was not computed; none is ever NaN."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: str
    role: Role
    suite: str
    spec: RunSpec
    status: Status
    reason: str | None = None           # why the status is not ok, in one line
    traceback: str | None = None
    notes: list[str] = []               # what the user should know of how it went, such as a damaged checkpoint
    metrics: dict[str, Finite] = {}
    curves: dict[str, list[Finite]] = {}  # one value per epoch: loss terms by name, validation_accuracy, lr
    vectors: dict[str, list[Finite | None]] = {}  # of the test predictions: accuracy per class, reliability bins
    groups: dict[str, list[str]] = {}   # by attribute: whose accuracies its vector holds
    seconds: Finite                     # of training
    peak_memory_bytes: int | None = None
    weights_sha256: str | None = None
    predictions_sha256: str | None = None
    family: str | None = None           # of the method, which the reader may not have installed
    method_digest: str                  # of the method's source
    dataset_digest: str | None = None
    environment: dict[str, Any] = {}    # versions, hardware, threads, git commit
    started: Utc
    finished: Utc

    @model_validator(mode="after")
    def _named_by_its_spec(self) -> "Record":
        if self.run_id != self.spec.id:
            raise ValueError(f"run id {self.run_id!r} is not the hash of its spec, {self.spec.id!r}")
        return self


_SPEC_FIELDS = RunSpec.model_fields.keys()  # looked up once, as pydantic takes longer than the comparison


class Summary(msgspec.Struct, kw_only=True):
    """The part of a record that tables are made of. Read ten times as fast: its spec's fields are looked up by their
    text, its curves stay unread."""

    schema_version: Literal[1]
    run_id: str
    role: Role
    suite: str
    written: dict[str, msgspec.Raw] = msgspec.field(name="spec")
    status: Status
    reason: str | None = None
    metrics: dict[str, float]
    seconds: float
    peak_memory_bytes: int | None = None
    predictions_sha256: str | None = None
    family: str | None = None
    method_digest: str

    spec: dict[str, Any] = msgspec.field(name="", default_factory=dict)  # as it is written
    self_teacher: str = ""  # of the spec, as canonical JSON
    cell: str = ""          # of the spec
    file_sha256: str = ""   # of the record's file

    def __post_init__(self) -> None:
        """ValueError if the run id is not the hash of the spec."""
        if self.written.keys() != _SPEC_FIELDS:
            raise ValueError("its spec has not the fields that this kdbench knows")
        try:
            fields = {name: read_field(name, bytes(text)) for name, text in self.written.items()}
            run_id, self.cell = identify_fields(fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("its spec is malformed") from error
        if self.run_id != run_id:
            raise ValueError(f"run id {self.run_id!r} is not the hash of its spec, {run_id!r}")
        self.self_teacher = fields["self_teacher"].canonical
        self.written, self.spec = {}, {name: field.value for name, field in fields.items()}


_SUMMARIES = msgspec.json.Decoder(Summary)


@dataclass(frozen=True)
class Problem:
    """A file that could not be used, and why."""

    path: Path
    reason: str


def _run_id(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".json")


def _read(model: type[Model], path: str) -> Model | Problem:
    return read_json(model, path)[0]


def _summary(path: str) -> Summary | Problem:
    try:
        content = _content(path)
        found = _SUMMARIES.decode(content)
        if found.run_id == _run_id(path):
            found.file_sha256 = hashlib.sha256(content).hexdigest()
            return found
        why = "the file is named otherwise than its run id"
    except (OSError, msgspec.MsgspecError) as error:
        why = _one_line(error)
    full = _read(Record, path)  # slower, but it tells exactly what is wrong
    return full if isinstance(full, Problem) else Problem(Path(path), why)


def read_json(model: type[Model], path: str) -> tuple[Model | Problem, bytes]:
    """What a file says, and its bytes."""
    try:
        content = _content(path)
    except OSError as error:
        return Problem(Path(path), f"cannot be read: {error.strerror}"), b""
    try:
        found = model.model_validate_json(content)
    except ValidationError as error:
        return Problem(Path(path), _reason(error)), content
    if found.run_id != _run_id(path):
        return Problem(Path(path), f"the file is named otherwise than its run id, {found.run_id}"), content
    return found, content


def _reason(error: ValidationError) -> str:
    """The first complaint of a validation, but above all another schema version, which explains all the others."""
    complaints = error.errors(include_url=False)
    first = next((c for c in complaints if c["loc"] == ("schema_version",)), complaints[0])
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "json_invalid":
        return f"truncated or not JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
    if where == "schema_version":
        return f"schema version {first['input']!r}, this kdbench reads {SCHEMA_VERSION}"
    return f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
