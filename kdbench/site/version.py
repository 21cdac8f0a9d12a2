"""Gives a folder of results a version: a name for exactly these results, with what others need to reproduce them."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kdbench.analysis.build import build
from kdbench.disk import atomic_write
from kdbench.environment import now
from kdbench.errors import UserError
from kdbench.plugins.registry import Registry
from kdbench.results.lock import lock, read_lock
from kdbench.results.record import Problem, Record
from kdbench.results.release import Release, Version, read_release, write_release
from kdbench.results.store import Store
from kdbench.suites.plan import Selection, expand
from kdbench.suites.suite import Suite, frozen_text, load_suite

VERSION = re.compile(r"\d{4}\.(?:[1-9]|1[0-2])(?:\.[1-9]\d*)?")


@dataclass(frozen=True)
class Made:
    """A version that was just given, and sentences about it for the user."""

    version: Version
    told: tuple[str, ...]


def release(folder: Path, version: str, note: str, methods: Registry, suite: str | None = None) -> Made:
    """Record a version in the folder, with the suite's text and the versions of the packages that are installed here.
    The entry of the last version is replaced if it has the same name and the same results.

    `version` is YEAR.MONTH or YEAR.MONTH.N, and `note` says what is in it. `suite` is the name or file of the suite
    that made the results; by default it is the one that the records name. UserError if the version is malformed or not
    later than the last one, if the note is empty, if the folder has damaged files or another suite's results, and if
    the records name several suites but `suite` is not given.
    """
    if not VERSION.fullmatch(version):
        raise UserError(f"version {version[:50]}: expected YEAR.MONTH, such as 2026.12, or YEAR.MONTH.N for a "
                        "correction")
    if not note.strip():
        raise UserError("--note: expected what is in this version, or what changed since the last one")
    store = Store(folder)
    board, (records, problems) = build(folder, methods), store.read()
    if problems:
        raise UserError(f"{problems[0].path}: {problems[0].reason}; `kdbench fsck {folder}` tells all that is wrong")
    if len(board.suites) > 1 and suite is None:
        raise UserError(f"{folder} holds runs of {len(board.suites)} suites ({', '.join(board.suites)}): --suite names "
                        "the one whose results they are")
    used = load_suite(suite or board.suites[0])
    earlier = _earlier(store, version, board.results_hash)
    made = Version(version=version, released=now(), results=board.results_hash, records=board.records_hash,
                   note=" ".join(note.split()))
    told = [*_own_runs(folder, used, records, methods), *_other_versions(records, read_lock(packages := lock()))]
    atomic_write(store.files.suite, frozen_text(used).encode())
    atomic_write(store.files.packages, packages.encode())
    write_release(store, Release(suite=used.name, versions=[made, *earlier]))  # last: it names the others
    return Made(made, tuple(told))


def _earlier(store: Store, version: str, results: str) -> list[Version]:
    """The versions of the folder, newest first, without the last one if it has the same name and results as the new
    one. UserError if the new version is not later than the last one."""
    found = read_release(store)
    if isinstance(found, Problem):
        raise UserError(f"{found.path}: {found.reason}")
    earlier = found.versions if found else []
    if earlier and earlier[0].version == version and earlier[0].results == results:
        return earlier[1:]
    if earlier and _numbers(version) <= _numbers(earlier[0].version):
        raise UserError(f"version {version}: {store.folder} has version {earlier[0].version}, of other results "
                        f"({earlier[0].results[:16]}): expected a later one")
    return earlier


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _own_runs(folder: Path, suite: Suite, records: list[Record], methods: Registry) -> Iterator[str]:
    """A sentence on how many of the runs are exactly those that the suite's text asks for. UserError if none is, since
    then another text made the results."""
    students = [record for record in records if record.role == "student"]
    specs = [record.spec for record in students if record.spec.method in methods]
    datasets = {str(suite.dataset(name)) for name in suite.content.datasets}
    asked = Selection(methods=sorted({spec.method for spec in specs}), seeds=sorted({spec.seed for spec in specs}),
                      pairs=sorted({spec.pair for spec in specs} & suite.pairs.keys()),
                      datasets=sorted(({spec.dataset for spec in specs} - datasets) | datasets))
    ids = {spec.id for device in {spec.device for spec in specs} if asked.pairs
           for spec in expand(suite, methods, replace(asked, device=device)).students}
    own = sum(record.run_id in ids for record in students)
    if not own:
        raise UserError(f"{folder}: none of its {len(students)} runs is one that {suite.source} asks for: --suite "
                        "names the file that made them")
    yield f"{own} of {len(students)} runs are those of {suite.name}'s text" + (
        ", the others have settings of their own" if own < len(students) else "")


def _other_versions(records: list[Record], locked: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each package version in the records that is not the one in the lock."""
    made = Counter((name, version) for record in records
                   for name, version in (record.environment.get("versions") or {}).items() if version)
    for (name, version), count in sorted(made.items()):
        if name in locked and locked[name] != version:
            yield f"{count} records were made with {name} {version}, and {locked[name]} is installed and locked here"
