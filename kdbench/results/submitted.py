"""The content of submissions.json: which results of a folder others submitted, and how these were checked."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from kdbench.results.record import Problem, Utc
from kdbench.results.store import Store, read_note, write_note

Mark = Literal["self-reported", "checked", "replayed"]
MARKS: tuple[Mark, ...] = get_args(Mark)  # from the least to the most that was done to check results
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
    when: Utc                     # when it was added to the folder
    author: str
    licence: str                  # its SPDX identifier
    paper: str | None = None
    url: str | None = None
    plugins: dict[FileName, str] = {}  # the files in plugins/ with its methods, by name, and the SHA-256 of each
    requirement: str | None = None  # the installed package with the methods, if no plugin files hold them
    runs: list[str]               # the ids of its runs
    replayed: list[str] = []      # the ids of the runs that gave the same weights again in a replay

    def __str__(self) -> str:
        return (f"{', '.join(self.methods)} ({self.mark}; by {self.author}, {self.licence}, added {self.when[:10]}, "
                f"SHA-256 {self.sha256[:16]})")


class Submitted(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The content of submissions.json."""

    schema_version: Literal[1] = 1
    submissions: list[Submission]  # by SHA-256

    def marks(self) -> dict[str, Mark]:
        """The mark of each submitted run by its id; of a run in several submissions, the highest."""
        found: dict[str, Mark] = {}
        for one in sorted(self.submissions, key=lambda one: MARKS.index(one.mark)):
            found |= dict.fromkeys(one.runs, one.mark)
        return found

    def lines(self) -> Iterator[str]:
        """The line that the folder's tables show about the submissions."""
        yield f"Submitted by others: {'; '.join(map(str, self.submissions))}."


def least(marks: Iterable[Mark]) -> Mark | None:
    """The mark of a figure made of several runs, which is the lowest of their marks; None if there are none."""
    return min(marks, key=MARKS.index, default=None)


def joined(several: Iterable[Submitted]) -> Submitted:
    """The submissions of several folders. Of a submission that several folders have, the entry with the highest mark is
    kept, and of equal marks the earliest."""
    kept: dict[str, Submission] = {}
    for one in sorted((one for each in several for one in each.submissions),
                      key=lambda one: (-MARKS.index(one.mark), one.when, msgspec.json.encode(one))):
        kept.setdefault(one.sha256, one)
    return Submitted(submissions=[kept[sha256] for sha256 in sorted(kept)])


def read_submitted(store: Store) -> tuple[Submitted | Problem | None, str]:
    """The content of a folder's submissions.json, and the SHA-256 of that file. None if the folder has no submissions,
    a Problem if the file is damaged."""
    return read_note(store.files.submitted, Submitted)


def write_submitted(store: Store, submitted: Submitted) -> None:
    write_note(store.files.submitted, submitted)
