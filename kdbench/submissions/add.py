"""Adds a submission to a folder of results, with the mark that says how it was checked."""

import hashlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from kdbench.disk import atomic_write
from kdbench.environment import now
from kdbench.errors import UserError
from kdbench.finished.merge import Merge, ReadChoices, merge
from kdbench.profile.record import Profile
from kdbench.results.record import Problem, Record
from kdbench.results.store import Store
from kdbench.results.submitted import Mark, Submission, Submitted, read_submitted, write_submitted
from kdbench.submissions.check import Checked


def add(done: Checked, name: str, out: Path, mark: Mark, replayed: Collection[str], folder: Path,
        read_choices: ReadChoices) -> Merge:
    """Merge a checked submission into the results folder `out`, under the file name `name`, and return what merging
    did; nothing was written if it refused something. `folder` is an empty folder to work in. Runs of witnesses are not
    merged, and teachers only if `out` lacks them. Raises UserError if the submissions.json of `out` is damaged, or if
    `out` has another plugin file of the same name."""
    manifest, source, target = done.manifest, done.store, Store(out)
    assert manifest is not None
    submitted = read_submitted(target)[0]
    if isinstance(submitted, Problem):
        raise UserError(f"{submitted.path}: {submitted.reason}; `kdbench fsck` tells of it")
    teachers = [one for one in done.others if one.role == "teacher" and not isinstance(target.get(one.run_id), Record)]
    files, own = source.files, Store(folder).files
    runs = [*done.own, *teachers]
    pairs = [(getattr(files, kind)(run.run_id), getattr(own, kind)(run.run_id)) for run in runs
             for kind in ("record", "plan", "predictions", "student")]
    pairs += [(path, own.profiles / path.name) for path in files.profiles.glob("*.json")]
    for path, copy in pairs:
        if path.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    plugins = {}
    for plugin in sorted({method.plugin for method in manifest.methods if method.plugin}):
        content = (done.folder / "plugin" / plugin).read_bytes()
        plugins[plugin] = hashlib.sha256(content).hexdigest()
        there = target.files.plugin(plugin)
        if there.exists() and there.read_bytes() != content:
            raise UserError(f"{there}: another submission has a plugin file of that name; its submitter can name it "
                            "otherwise")
        atomic_write(own.plugin(plugin), content)
    write_submitted(Store(folder), Submitted(submissions=[Submission(
        sha256=done.sha256, methods=manifest.names, mark=mark, when=now(), author=manifest.author,
        licence=manifest.licence, paper=manifest.paper, url=manifest.url, plugins=plugins,
        requirement=manifest.requirement, runs=sorted(one.run_id for one in done.own), replayed=sorted(replayed))]))
    return merge([folder], out, Profile, read_choices, names={folder: os.fspath(name)})
