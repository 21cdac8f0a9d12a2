"""Zip files of submissions: written so that the same content gives the same bytes, and read as if an enemy wrote them.

A zip is refused before anything is unpacked unless its table of contents is like those that `write_zip` makes: only
names of the format, each once, only plain files, sizes within limits, and nothing before, between or behind the parts
that another reader might interpret differently. Members are then unpacked one at a time into a folder of ours, and
never beyond the size that they announce.
"""

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kdbench.errors import UserError, printable
from kdbench.results.sizes import size_text

MANIFEST, LOCK, REQUIREMENT = "submission.json", "lock.txt", "requirement.txt"
RUN = r"[0-9a-f]{16}"
MIB = 1 << 20
MOST_BYTES = 2_000_000_000  # of all members together; a zip of 2 GiB or more, headers included, has another form
LIMITS = {  # bytes of a member, by what its name must match
    MANIFEST.replace(".", r"\."): 16 * MIB,
    LOCK.replace(".", r"\."): MIB // 4,
    REQUIREMENT.replace(".", r"\."): 1024,
    r"plugin/[A-Za-z0-9_]{1,100}\.py": MIB // 4,
    rf"(?:records|plan|profile)/{RUN}\.json": 4 * MIB,
    rf"predictions/{RUN}\.npz": 512 * MIB,
    rf"students/{RUN}\.safetensors": MOST_BYTES,
}
MOST_MEMBERS = 20_000
MOST_TIMES = 100           # a member's bytes over its compressed bytes, at most: predictions and texts have less
TABLE = 8 * MIB            # bytes of the table of contents
END = struct.Struct("<4s4H2LH")
PIECE = MIB


@dataclass(eq=False)
class Refusal(Exception):
    """Raised for a zip that is not read: why it is refused, and what its submitter can do."""

    kind: str
    why: str
    remedy: str = "pack it anew with `kdbench submit`"

    def __str__(self) -> str:
        return self.why


def write_zip(path: Path, members: Mapping[str, bytes | Path]) -> None:
    """Write a zip of the members, which are contents or files by name: sorted by name, uncompressed and without dates.
    Raises UserError, and writes nothing, if there are more members or bytes than a submission may have."""
    total = sum(len(one) if isinstance(one, bytes) else one.stat().st_size for one in members.values())
    if len(members) > MOST_MEMBERS or total > MOST_BYTES:
        raise UserError(f"{len(members)} files of {size_text(total)}, allowed are {MOST_MEMBERS} of "
                        f"{size_text(MOST_BYTES)}: submit fewer methods at a time, or leave out the students' weights")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        for name, content in sorted(members.items()):
            one = zipfile.ZipInfo(name)
            one.external_attr = (stat.S_IFREG | 0o644) << 16
            one.create_system = 3
            archive.writestr(one, content if isinstance(content, bytes) else content.read_bytes())


def unpack(path: Path, folder: Path) -> list[str]:
    """Unpack a submitted zip into an empty folder, and return the names of its members. Raises Refusal if it is not
    safe or not of the format; what the folder holds then must not be used."""
    _check_end(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MOST_MEMBERS:  # counted: the number that a zip announces is not the one that is read
                raise Refusal("too many members", f"{len(members)} members, allowed are {MOST_MEMBERS}",
                              "submit fewer methods at a time")
            _check_table(members, archive.start_dir)
            for member in members:
                _unpack_member(archive, member, folder / member.filename)
            return [member.filename for member in members]
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, ValueError, zlib.error) as error:
        raise Refusal("not a zip", f"damaged: {printable(' '.join(str(error).split()))[:200]}") from error


def _check_end(path: Path) -> None:
    """Raise Refusal if the file does not end as a plain zip does. The check takes no memory, whatever the zip
    announces."""
    size = path.stat().st_size
    if size > MOST_BYTES + TABLE:
        raise Refusal("too large", f"the file has {size_text(size)}, allowed are {size_text(MOST_BYTES)}",
                      "leave out the students' weights")
    with path.open("rb") as file:
        file.seek(max(0, size - END.size - 20))
        tail = file.read()
    if len(tail) < END.size:
        tail = bytes(END.size)
    signature, disk, start_disk, here, count, table, offset, comment = END.unpack(tail[-END.size:])
    if signature != b"PK\5\6" or comment or disk or start_disk or here != count or offset + table + END.size != size:
        raise Refusal("not a zip", "it is no plain zip file: it is cut off, or something stands before, between or "
                                   "behind its parts")
    if tail[:4] == b"PK\6\7":
        raise Refusal("not a zip", "it has the form of zips from 2 GiB on")
    if table > TABLE:
        raise Refusal("too large", f"its table of contents has {size_text(table)}, allowed are {size_text(TABLE)}",
                      "submit fewer methods at a time")


def _check_table(members: list[zipfile.ZipInfo], start: int) -> None:
    """Raise Refusal for the first member in a zip's table of contents that may not be in a submission, or if one is
    missing. `start` is the byte at which that table starts."""
    seen: set[str] = set()
    for member in members:
        name, shown = member.filename, printable(repr(member.orig_filename[:200]))
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind == stat.S_IFLNK:
            raise Refusal("symlink", f"{shown} is a symbolic link")
        if kind not in (0, stat.S_IFREG) or member.is_dir():
            raise Refusal("not a file", f"{shown} is no plain file")
        if name != member.orig_filename or ".." in name.split("/") or name.startswith(("/", "\\")) or ":" in name:
            raise Refusal("path", f"{shown} leads out of the folder that a zip is unpacked into")
        limit = next((most for pattern, most in LIMITS.items() if re.fullmatch(pattern, name)), None)
        if limit is None:
            raise Refusal("unknown member", f"{shown} is no file of a submission")
        if name in seen:
            raise Refusal("twice", f"{shown} is in it twice")
        seen.add(name)
        if member.file_size > limit:
            raise Refusal("too large", f"{shown} announces {size_text(member.file_size)}, allowed are "
                                       f"{size_text(limit)}")
        if member.file_size > MOST_TIMES * max(member.compress_size, 1):
            raise Refusal("too large", f"{shown} is {member.file_size // max(member.compress_size, 1)} times as large "
                                       f"as its compressed bytes, allowed is {MOST_TIMES} times")
        _check_form(member, shown, start)
    if (total := sum(member.file_size for member in members)) > MOST_BYTES:
        raise Refusal("too large", f"its members announce {size_text(total)}, allowed are {size_text(MOST_BYTES)}")
    for name in (MANIFEST, LOCK):
        if name not in seen:
            raise Refusal("missing member", f"{name} is not in it")


def _check_form(member: zipfile.ZipInfo, shown: str, start: int) -> None:
    """Raise Refusal if a member is encrypted or compressed otherwise than by deflate, or does not lie before the table
    of contents."""
    if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refusal("not a zip", f"{shown} is encrypted, or compressed otherwise than by deflate")
    if not 0 <= member.header_offset <= start - member.compress_size:
        raise Refusal("not a zip", f"{shown} should stand at a place that the file does not have")


def _unpack_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Unpack a member, and write no more bytes than it announces. Raises Refusal if it holds another number of bytes.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("xb") as file:
        for piece in _pieces(archive, member):
            written += len(piece)
            if written > member.file_size:
                break
            file.write(piece)
    if written != member.file_size:
        raise Refusal("too large" if written > member.file_size else "not a zip",
                      f"{member.filename!r} announces {member.file_size} bytes and holds another number")


def _pieces(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(member) as file:
        while piece := file.read(PIECE):
            yield piece
