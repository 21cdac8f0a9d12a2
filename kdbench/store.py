"""What runs leave on disk: records, plans, predictions and students of one suite, in one folder.

    FOLDER/records/<run id>.json            what came out of a run, failed ones included
    FOLDER/plan/<run id>.json               what was asked for, so that a missing run can be told from one never wanted
    FOLDER/predictions/<run id>.npz         logits and labels of the validation and test splits, and what metrics need
                                            besides: training images per class, groups of the test images
    FOLDER/students/<run id>.safetensors    the trained network

A file appears under its name only when it is complete and on disk; a damaged one is reported, never raised over.
"""

import difflib
import fcntl
import hashlib
import io
import os
import secrets
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol, Self, TypeVar

import msgspec
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kdbench.errors import UserError
from kdbench.saved import Predictions, check_predictions
from kdbench.spec import RunSpec, identify_fields, read_field

SCHEMA_VERSION: Final = 1
Role = Literal["student", "teacher"]
Status = Literal["ok", "diverged", "crashed", "timeout", "inapplicable"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Utc = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$")]
TEMPORARY = ".tmp"  # the end of a file name that is still being written


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


@dataclass(frozen=True)
class Contents:
    records: list[Record]
    problems: list[Problem]


class Store:
    """The folder of one suite's results. Making one touches nothing; `lock` is what creates the folder."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    def record_path(self, run_id: str) -> Path:
        return self.folder / "records" / f"{run_id}.json"

    def plan_path(self, run_id: str) -> Path:
        return self.folder / "plan" / f"{run_id}.json"

    def predictions_path(self, run_id: str) -> Path:
        return self.folder / "predictions" / f"{run_id}.npz"

    def student_path(self, run_id: str) -> Path:
        return self.folder / "students" / f"{run_id}.safetensors"

    def no_records(self) -> UserError:
        return UserError(f"{self.folder}: no records here (expected {self.record_path('RUN_ID')})")

    # Records.

    def scan(self) -> Iterator[Record | Problem]:
        """Every record or problem in the order of file names, one at a time: 100,000 of them need no memory."""
        for path in json_files(self.folder / "records"):
            yield _read(Record, path)

    def summaries(self) -> Iterator[Summary | Problem]:
        """`scan` for those who make tables."""
        for path in json_files(self.folder / "records"):
            yield _summary(path)

    def read(self) -> Contents:
        contents = Contents([], [])
        for found in self.scan():
            if isinstance(found, Record):
                contents.records.append(found)
            else:
                contents.problems.append(found)
        return contents

    def get(self, run_id: str) -> Record | Problem | None:
        """The record of a run; None if there is none; a Problem if it is damaged."""
        path = self.record_path(run_id)
        return _read(Record, str(path)) if path.exists() else None

    def find(self, name: str) -> Record:
        """The record of a run, by the beginning of its id. UserError if there is none, several, or a damaged one."""
        runs = [_run_id(path) for path in json_files(self.folder / "records")]
        if not runs:
            raise self.no_records()
        matching = [run for run in runs if run.startswith(name)]
        if len(matching) != 1:
            near = difflib.get_close_matches(name, runs, n=1, cutoff=.5)
            hint = f"the nearest is {near[0]}" if near else "none is near"
            if matching:
                hint = f"{len(matching)} begin with it"
            raise UserError(f"{self.folder}: no single run {name!r} among {len(runs)}: {hint}")
        found = self.get(matching[0])
        if not isinstance(found, Record):
            raise UserError(f"{self.record_path(matching[0])}: {found.reason if found else 'gone'}")
        return found

    def write(self, record: Record) -> None:
        atomic_write(self.record_path(record.run_id), record.to_json())

    def set_aside(self, path: Path) -> Path:
        """Rename a damaged file so that its work can be redone; the new path."""
        number = 1
        while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
            number += 1
        path.rename(aside)
        _sync_folder(path.parent)
        return aside

    # The plan.

    def plan(self, runs: Iterable[Planned]) -> None:
        """Note what is wanted. Earlier plans of the folder stay: its table is of all that was ever asked for."""
        for planned in runs:
            path = self.plan_path(planned.spec.id)
            if isinstance(_read(Planned, str(path)), Problem):
                atomic_write(path, planned.model_dump_json(indent=1).encode() + b"\n")

    def planned(self, but: Collection[str] = ()) -> tuple[list[Planned], list[Problem]]:
        """The planned runs whose ids are not among `but`, and the plan's damaged files."""
        found = [_read(Planned, path) for path in json_files(self.folder / "plan")
                 if _run_id(path) not in but]
        return [f for f in found if isinstance(f, Planned)], [f for f in found if isinstance(f, Problem)]

    # Predictions.

    def write_predictions(self, run_id: str, arrays: Mapping[str, np.ndarray]) -> str:
        """Save logits and labels; the SHA-256 of the file, which the same arrays always give."""
        checked = check_predictions(arrays)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for name in checked:  # a fixed order and ZipInfo's fixed date: no clock in the bytes
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, checked[name], version=(1, 0), allow_pickle=False)
        atomic_write(self.predictions_path(run_id), buffer.getvalue())
        return hashlib.sha256(buffer.getvalue()).hexdigest()

    def read_predictions(self, run_id: str, sha256: str | None = None) -> Predictions:
        """The saved arrays of a run; UserError if they are missing, damaged, or not the ones with that SHA-256."""
        path = self.predictions_path(run_id)
        try:
            content = path.read_bytes()
            if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
                raise ValueError("its SHA-256 is not the one in the record")
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                return check_predictions(dict(archive))
        except FileNotFoundError as error:
            raise UserError(f"{path}: no saved predictions of run {run_id}") from error
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: the saved predictions are damaged: {_one_line(error)}") from error

    # One writer at a time.

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one `kdbench run`; UserError if another one does, or if it is not writable."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / ".lock").open("a+")
        except OSError as error:
            raise UserError(f"{self.folder}: the output folder is not writable: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise UserError(f"{self.folder}: in use by another `kdbench run` (process {holder})") from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove what killed processes left half written."""
        for path in self.folder.glob(f"*/.*{TEMPORARY}"):
            path.unlink(missing_ok=True)


def atomic_write(path: Path, content: bytes) -> None:
    """Put `content` at `path`, which at every moment, power cuts included, holds all of the old or all of the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_files(folder: Path) -> list[str]:
    """The finished JSON files of a folder, sorted. A temporary name starts with a dot and ends otherwise."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:  # strings, as making a Path takes as long as parsing a small file
        return sorted(entry.path for entry in entries if entry.name.endswith(".json") and entry.name[0] != ".")


def _run_id(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".json")


def _content(path: str) -> bytes:
    """All of a file, in half the time that Python's file objects take for a small one."""
    file = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(file, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(file)


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
