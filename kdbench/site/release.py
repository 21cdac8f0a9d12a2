"""Archives of what runs left beside their records: the same bytes for the same files, on any day and machine."""

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
    """UserError for a kind that there is none of."""
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("release file", kind, KINDS)


def write_release(part: Part, kinds: list[str], target: Path) -> list[Path]:
    """Write an archive of each kind into the folder `target`, with their SHA-256; the files. UserError if the folder of
    results has none of a kind, or if a file is missing or is not the one that its record is of; networks of submitted
    runs may be missing."""
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
    """The files of a kind, in the order of run ids."""
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
            continue  # it did not finish
        if kind != "records" and record.role == "teacher" and not path.exists():
            continue  # its files stay in the cache
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
    """A tar archive of files in a folder of that name, without dates, owners and permissions of this machine."""
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar:
        for path in files:
            content = read_file(path)
            about = tarfile.TarInfo(f"{folder}/{path.name}")
            about.size, about.mode = len(content), 0o644
            tar.addfile(about, io.BytesIO(content))
