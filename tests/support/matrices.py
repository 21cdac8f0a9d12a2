"""What the tests of running share: the smoke suite in small, and methods that go wrong in every way."""

import textwrap
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from kdbench.execution.display import PlainDisplay
from kdbench.execution.executor import Executor
from kdbench.execution.job import Job
from kdbench.execution.matrix import Matrix
from kdbench.folders import CacheFolder
from kdbench.plugins.registry import Registry
from kdbench.results.record import Record
from kdbench.results.store import Store
from kdbench.spec import Architecture
from kdbench.suites.plan import Plan, Selection, expand
from kdbench.suites.suite import load_suite

PRELUDE = """
import os, signal, time
import torch
import torch.nn.functional as F
from kdbench.method import Method

class Mine(Method):
    '''A method of the tests.'''
    name, family = "mine", "logit"

    def losses(self, batch, student, teacher):
        {trouble}
        return {{"ce": F.cross_entropy(student.logits, batch.labels)}}
"""


def plugin(folder: Path, trouble: str = "pass", name: str = "mine") -> Path:
    """A plugin file whose loss does `trouble` first; `self.progress` is at hand."""
    file = folder / f"{name}.py"
    file.write_text(textwrap.dedent(PRELUDE).format(trouble=trouble).replace('"mine"', f'"{name}"'))
    return file


def smoke(*methods: str, plugins=(), **selection) -> Plan:
    return expand(load_suite("smoke"), Registry(plugins), Selection(
        methods=methods or None, **{"seeds": [0], "settings": {"recipe.epochs": 2}, **selection}))


def assisted(*methods: str, **selection) -> Plan:
    """The smoke suite, whose pair has an assistant of the student's depth and one and a half times its width."""
    suite = load_suite("smoke")
    tiny = suite.pairs["tiny"]
    wider = Architecture(model="resnet_cifar", kwargs={**tiny.student.kwargs, "stem": 6, "channels": [6, 12, 24]})
    pair = tiny.model_copy(update={"assistant": wider})
    return expand(replace(suite, pairs={**suite.pairs, "tiny": pair}), Registry(), Selection(
        methods=methods, **{"seeds": [0], "settings": {"recipe.epochs": 2}, **selection}))


def job(plan: Plan, out: Path, cache: Path, method: str) -> Job:
    (spec,) = [s for s in plan.students if s.method == method]
    return Job(spec, plan.methods[method], "student", plan.suite, out, CacheFolder(cache))


def teacher_job(plan: Plan, cache: Path) -> Job:
    (spec,) = plan.teachers
    return Job(spec, plan.methods[spec.method], "teacher", plan.suite, cache / "teachers", CacheFolder(cache))


def run_all(plan: Plan, out: Path, cache: Path, pool: Executor, said: list[str]):
    """Everything of the plan that is not done yet, by the executor; what came of it, and `said`, where messages go."""
    matrix = Matrix(plan, out, CacheFolder(cache), said.append)
    return matrix.run(matrix.pending(), {}, pool, PlainDisplay(Console(quiet=True), 2)), said


def students(out: Path) -> dict[str, Record]:
    return {r.run_id: r for r in Store(out).read()[0] if r.role == "student"}


def weights(out: Path) -> dict[str, str | None]:
    return {run_id: record.weights_sha256 for run_id, record in students(out).items()}
