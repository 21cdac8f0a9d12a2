"""Archives of records, predictions and students. The same files give an archive with the same bytes, on any day and
machine."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from kdbench.disk import file_sha256, read_file
from kdbench.errors import UserError, unknown
from kdbench.results.record import Record
from kdbench.results.store import Store
from kdbench.results.submitted import Submitted, read_submitted
from kdbench.site.data import SUMS
from kdbench.site.parts import Part

KINDS = ("records", "predictions", "students")


def check_kinds(kinds: list[str]) -> None:
    """Raise UserError for a kind of files that is none of `KINDS`."""
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("release file", kind, KINDS)


def write_release(part: Part, kinds: list[str], target: Path) -> list[Path]:
    """Write one tar archive for each kind of files into the folder `target`, and their SHA-256 sums beside them; return
    the paths of all of these. UserError if the folder of results has no files of a kind, or if a file is missing or
    does not have the SHA-256 in its record. The networks of submitted runs may be missing."""
    archives = []
    for kind in sorted(set(kinds)):
        target.mkdir(parents=True, exist_ok=True)
        archives.append(target / f"{kind}.tar")
        _write(archives[-1], f"{part.name}-{kind}", list(_files(part.store, kind)))
    if not archives:
        return []
    sums = target / SUMS
    sums.write_text("".join(f"{file_sha256(archive)}  {archive.name}\n" for archive in archives))
    return [*archives, sums]


def _files(store: Store, kind: str) -> Iterator[Path]:
    """The paths of the files of a kind, in the order of run ids, without those of trials. UserError in the same cases
    as `write_release`."""
    records = [one for one in store.scan() if isinstance(one, Record) and one.role != "trial"]
    note = read_submitted(store)[0]
    submitted = note.marks() if isinstance(note, Submitted) else {}
    found = 0
    for record in records:
        if kind == "records":
            path, sha256 = store.files.record(record.run_id), None
        elif kind == "predictions":
            path, sha256 = store.files.predictions(record.run_id), record.predictions_sha256
        else:
            path, sha256 = store.files.student(record.run_id), record.weights_sha256
        if kind != "records" and sha256 is None:
            continue  # a run that did not finish
        if kind != "records" and record.role == "teacher" and not path.exists():
            continue  # a teacher's files stay in the cache
        if kind == "students" and record.run_id in submitted and not path.exists():
            continue  # submissions come without networks, unless they were packed with them
        if not path.exists():
            more = "" if found else f"; a folder of records alone has no {kind} to release"
            raise UserError(f"{path}: missing{more}")
        if sha256 is not None and file_sha256(path) != sha256:
            raise UserError(f"{path}: damaged: its SHA-256 is not the one in the record")
        found += 1
        yield path
    if not found:
        raise UserError(f"{store.folder}: it has no {kind} to release")


def _write(archive: Path, folder: str, files: list[Path]) -> None:
    """Write a tar archive with the files in a folder of that name, without dates, owners and permissions of this
    machine."""
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar:
        for path in files:
            content = read_file(path)
            about = tarfile.TarInfo(f"{folder}/{path.name}")
            about.size, about.mode = len(content), 0o644
            tar.addfile(about, io.BytesIO(content))
