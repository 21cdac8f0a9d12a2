"""A results folder: its records, plans and predictions, read and written."""

import difflib
import fcntl
import hashlib
import io
import stat
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from kdbench.disk import InUse, NoLocks, atomic_write, explain, file_sha256, json_files, locked, read_file, sweep
from kdbench.errors import UserError, unknown
from kdbench.folders import ResultsFolder
from kdbench.results.predictions import Predictions, check_predictions, read_npz
from kdbench.results.record import MAX_REASON, Entry, Planned, Problem, Record, decode, id_of, read

LEFT_OVER = 3600.0  # seconds after which no process is still writing a temporary file of a shared folder

Note = TypeVar("Note", bound=msgspec.Struct)


class Store:
    """One results folder. Making a `Store` neither reads nor creates anything; `lock` creates the folder."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.files = ResultsFolder(self.folder)

    def no_records(self) -> UserError:
        """The error for a folder that holds no results."""
        return UserError(f"{self.folder}: no records here (expected {self.files.record('RUN_ID')})")

    # Records.

    def scan(self) -> Iterator[Record | Problem]:
        """Every record, or the Problem of a file that is not a usable one, one at a time in the order of file names."""
        for path in json_files(self.files.records):
            yield read(Record, path)[0]

    def scan_with_hashes(self) -> Iterator[tuple[Record | Problem, str]]:
        """Every record without its details, or the Problem of a file that is not a usable one, with the SHA-256 of its
        file."""
        for path in json_files(self.files.records):
            found, content = read(Record, path)
            yield (found.without_details() if isinstance(found, Record) else found,
                   hashlib.sha256(content).hexdigest())

    def read(self) -> tuple[list[Record], list[Problem]]:
        """All records, and the problems of the files that are not usable records."""
        found = list(self.scan())
        return [f for f in found if isinstance(f, Record)], [f for f in found if isinstance(f, Problem)]

    def get(self, run_id: str) -> Record | Problem | None:
        """The record of a run; None if there is none, a Problem if its file is damaged."""
        path = self.files.record(run_id)
        return read(Record, str(path))[0] if path.exists() or path.is_symlink() else None

    def find(self, name: str) -> Record:
        """The record of the one run whose id begins with `name`, or, for a `name` of the form METHOD:SEED, of the one
        student with that method and seed. Raises UserError if no run or several match, or if the record is damaged."""
        if ":" in name:
            return self._find_student(name)
        runs = [id_of(path) for path in json_files(self.files.records)]
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
            raise UserError(f"{self.files.record(matching[0])}: {found.reason if found else 'gone'}")
        return found

    def _find_student(self, name: str) -> Record:
        students = [record for record in self.read()[0] if record.role == "student"]
        if not students:
            raise self.no_records()
        method, _, seed = name.partition(":")
        matching = [one for one in students if (one.spec.method, str(one.spec.seed)) == (method, seed.strip())]
        if len(matching) == 1:
            return matching[0]
        if matching:
            told = ", ".join(f"{one.run_id} ({one.spec.pair} on {one.spec.dataset}{_settings(one)})"
                             for one in matching)
            raise UserError(f"{self.folder}: {len(matching)} runs are {name}, name one by its id: {told}")
        raise unknown(f"run in {self.folder}", name, sorted({f"{one.spec.method}:{one.spec.seed}" for one in students}))

    def write(self, record: Record) -> None:
        """Write a record into the folder. Raises ValueError, and writes nothing, if it could not be read back."""
        self._write(self.files.record(record.run_id), record)

    # The plan.

    def plan(self, runs: Iterable[Planned]) -> list[Problem]:
        """Add runs to the folder's plan, and return the problems of the damaged files that this replaced. Runs that
        were planned earlier stay in the plan: the folder's table shows everything that was ever asked for."""
        damaged = []
        for planned in runs:
            path = self.files.plan(planned.run_id)
            found = read(Planned, str(path))[0]
            if isinstance(found, Problem):
                if path.exists() or path.is_symlink():
                    damaged.append(found)
                self._write(path, planned)
        return damaged

    def planned(self, but: Collection[str] = ()) -> tuple[list[Planned], list[Problem]]:
        """The planned runs whose ids are not among `but`, and the problems of the damaged files among them."""
        found = [read(Planned, path)[0] for path in json_files(self.files.plans) if id_of(path) not in but]
        return [f for f in found if isinstance(f, Planned)], [f for f in found if isinstance(f, Problem)]

    # Predictions.

    def write_predictions(self, run_id: str, arrays: Mapping[str, np.ndarray]) -> str:
        """Save the arrays that metrics are computed from, and return the SHA-256 of the file, which is the same for the
        same arrays. Raises ValueError for arrays that `check_predictions` refuses."""
        checked = check_predictions(arrays)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for name in checked:  # a fixed order and ZipInfo's fixed date: no clock in the bytes
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, checked[name], version=(1, 0), allow_pickle=False)
        atomic_write(self.files.predictions(run_id), buffer.getvalue())
        return hashlib.sha256(buffer.getvalue()).hexdigest()

    def read_predictions(self, run_id: str, sha256: str | None = None) -> Predictions:
        """The saved arrays of a run. Raises UserError if the file is missing or damaged, or does not have the SHA-256
        given."""
        path = self.files.predictions(run_id)
        try:
            content = read_file(path)
            if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
                raise ValueError("its SHA-256 is not the one in the record")
            return read_npz(content)
        except FileNotFoundError as error:
            raise UserError(f"{path}: no saved predictions of run {run_id}") from error
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: the saved predictions are damaged: {error}") from error

    def faults(self, record: Record) -> Iterator[Problem]:
        """The problems of the files that a finished run left beside its record: its network's weights and its
        predictions.

        A student's record without either file is a copy of the record alone, as repositories hold it: none is expected
        of it, also beside runs that were added to such a folder and have theirs. Nor is one of a folder without a
        subfolder of students, or of predictions. A teacher's network stays in the cache, and is not expected in a
        folder that has only a copy of the teacher's record.
        """
        files = ((self.files.student(record.run_id), record.weights_sha256),
                 (self.files.predictions(record.run_id), record.predictions_sha256))
        alone = record.role == "student" and not any(path.exists() for path, _ in files)
        for path, sha256 in files:
            if record.status != "ok" or sha256 is None or not path.parent.is_dir():
                continue
            try:
                if not stat.S_ISREG(path.stat().st_mode):  # to read a pipe would wait for ever
                    yield Problem(path, "is damaged: it is not a file")
                elif file_sha256(path) != sha256:
                    yield Problem(path, "is damaged: its SHA-256 is not the one in the record")
            except FileNotFoundError:
                if not alone and (record.role == "student" or path != self.files.student(record.run_id)):
                    yield Problem(path, "is missing", missing=True)
            except OSError as error:
                yield Problem(path, f"cannot be read: {error.strerror}")

    def damage(self, record: Record) -> str | None:
        """The first of a run's `faults` as a sentence that begins with the path; None if the run has none."""
        return next((f"{fault.path} {fault.reason}" for fault in self.faults(record)), None)

    # One writer at a time.

    @contextmanager
    def lock(self, part: str | None = None) -> Iterator[None]:
        """Lock the folder for one command that writes, or only the part of its runs with the name `part`, which leaves
        the other parts to other commands. Creates the folder, and removes what killed processes left half written.
        Raises UserError if another command has the lock, or if the folder is not writable or cannot be locked."""
        if part is None:
            with self._held(self.files.lock, fcntl.LOCK_EX):
                # Jobs of a cluster outlive the command that submitted them, and may be writing now.
                sweep(self.folder, older_than=LEFT_OVER if self.files.slurm.root.is_dir() else 0.0)
                yield
        else:
            with self._held(self.files.lock, fcntl.LOCK_SH), self._held(self.files.part_lock(part), fcntl.LOCK_EX):
                sweep(self.folder, older_than=LEFT_OVER)  # another part's command may be writing younger files
                yield

    @contextmanager
    def _held(self, path: Path, how: int) -> Iterator[None]:
        """Hold a lock on the file, shared or exclusive as `how` says, without waiting for it. Raises UserError if
        another command has the lock, or if the file cannot be written or locked."""
        with ExitStack() as held:
            try:
                held.enter_context(locked(path, how | fcntl.LOCK_NB))
            except InUse as error:
                raise UserError(f"{self.folder}: in use by another `kdbench run` (process {error})") from error
            except NoLocks as error:
                raise UserError(f"the output folder's disk cannot lock files: {explain(error)}; choose another folder "
                                "with --out, or mount the disk with locks") from error
            except OSError as error:
                raise UserError(f"the output folder is not writable: {explain(error)}") from error
            yield

    def _write(self, path: Path, entry: Entry) -> None:
        content = entry.to_json()
        decode(type(entry), content)  # the reader is the check of what is written
        atomic_write(path, content)


def _settings(run: Record) -> str:
    values = dict(sorted(run.spec.hyperparameters.items())) | run.spec.own_values
    return "".join(f", {name}={value}" for name, value in values.items())


def read_note(path: Path, kind: type[Note]) -> tuple[Note | Problem | None, str]:
    """The content of a JSON file that describes a whole folder, and the file's SHA-256. The content is None if there is
    no such file and a Problem if it is damaged, both with an empty SHA-256."""
    try:
        content = read_file(path)
        return msgspec.json.decode(content, type=kind), hashlib.sha256(content).hexdigest()
    except FileNotFoundError:
        return None, ""
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:MAX_REASON]
        return Problem(path, f"cannot be read: {reason}"), ""


def write_note(path: Path, note: msgspec.Struct) -> None:
    atomic_write(path, msgspec.json.format(msgspec.json.encode(note), indent=1) + b"\n")
