"""Which results of a folder others submitted, and what was done to believe them, as the folder keeps it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from kdbench.results.record import Problem, Utc
from kdbench.results.store import Store, read_note, write_note

Mark = Literal["self-reported", "checked", "replayed"]
MARKS: tuple[Mark, ...] = get_args(Mark)  # from the least that was done to the most
MEANING: Mapping[Mark, str] = {
    "self-reported": "nobody checked the results but the one who submitted them",
    "checked": "the metrics follow from the saved predictions, and the runs are those of the suite",
    "replayed": "checked, and a run that was drawn gave the same weights again while it could not see the test images",
}
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]{1,100}\.py$")]


class Submission(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One submission that was added to a folder."""

    sha256: str                   # of the submitted file
    methods: list[str]
    mark: Mark
    when: Utc                     # it was added
    author: str
    licence: str                  # its SPDX identifier
    paper: str | None = None
    url: str | None = None
    plugins: dict[FileName, str] = {}  # the files in plugins/ with its methods, by name, and the SHA-256 of each
    requirement: str | None = None  # the installed package that brings the methods otherwise
    runs: list[str]               # the ids of its runs
    replayed: list[str] = []      # of those that gave the same weights again

    def __str__(self) -> str:
        return (f"{', '.join(self.methods)} ({self.mark}; by {self.author}, {self.licence}, added {self.when[:10]}, "
                f"SHA-256 {self.sha256[:16]})")


class Submitted(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The content of submissions.json."""

    schema_version: Literal[1] = 1
    submissions: list[Submission]  # by SHA-256

    def marks(self) -> dict[str, Mark]:
        """How far each submitted run is to be believed, by its id; of several submissions with it the most."""
        found: dict[str, Mark] = {}
        for one in sorted(self.submissions, key=lambda one: MARKS.index(one.mark)):
            found |= dict.fromkeys(one.runs, one.mark)
        return found

    def lines(self) -> Iterator[str]:
        """What a reader of the folder's tables should know of it."""
        yield f"Submitted by others: {'; '.join(map(str, self.submissions))}."


def least(marks: Iterable[Mark]) -> Mark | None:
    """The mark of what several runs make together; None if there is none."""
    return min(marks, key=MARKS.index, default=None)


def joined(several: Iterable[Submitted]) -> Submitted:
    """The submissions of several folders; of one that several have, the note with the higher mark, then the earlier."""
    kept: dict[str, Submission] = {}
    for one in sorted((one for each in several for one in each.submissions),
                      key=lambda one: (-MARKS.index(one.mark), one.when, msgspec.json.encode(one))):
        kept.setdefault(one.sha256, one)
    return Submitted(submissions=[kept[sha256] for sha256 in sorted(kept)])


def read_submitted(store: Store) -> tuple[Submitted | Problem | None, str]:
    """A folder's submissions, and the SHA-256 of the file that tells of them; None if it has none, a Problem if the
    file is damaged."""
    return read_note(store.files.submitted, Submitted)


def write_submitted(store: Store, submitted: Submitted) -> None:
    write_note(store.files.submitted, submitted)
