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
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdbench.disk import TEMPORARY, _sync_folder, atomic_write, json_files
from kdbench.errors import UserError
from kdbench.results.predictions import Predictions, check_predictions
from kdbench.results.record import Planned, Problem, Record, Summary, _one_line, _read, _run_id, _summary


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
