"""Removes submissions from a folder of results."""

from pathlib import Path

from kdbench.errors import UserError, unknown
from kdbench.results.record import Problem
from kdbench.results.store import Store
from kdbench.results.submitted import Submission, Submitted, read_submitted, write_submitted


def remove(folder: Path, method: str) -> list[Submission]:
    """Delete the submissions to a results folder that include a method, and return them: with all their methods, their
    runs, profiles and plugin files, and their entries in submissions.json. What another submission brought too stays,
    and so do teachers. Raises UserError if no submission includes the method, or if submissions.json is damaged."""
    store = Store(folder)
    files, (note, _) = store.files, read_submitted(store)
    if isinstance(note, Problem):
        raise UserError(f"{note.path}: {note.reason}; `kdbench fsck` tells of it")
    there = note.submissions if note is not None else []
    gone, left = ([one for one in there if (method in one.methods) is wanted] for wanted in (True, False))
    if not gone:
        raise unknown(f"submitted method in {folder}", method, {name for one in there for name in one.methods})
    runs = {run for one in gone for run in one.runs} - {run for one in left for run in one.runs}
    plugins = {name for one in gone for name in one.plugins} - {name for one in left for name in one.plugins}
    paths = [kind(run) for run in sorted(runs)
             for kind in (files.plan, files.record, files.predictions, files.student, files.profile)]
    with store.lock():
        for path in (*paths, *map(files.plugin, sorted(plugins))):
            path.unlink(missing_ok=True)
        if left:
            write_submitted(store, Submitted(submissions=left))
        else:  # at last, so that the same command finishes what a killed one began
            files.submitted.unlink(missing_ok=True)
    return gone
