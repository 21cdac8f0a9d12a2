"""What the tests of running share: the smoke suite in small, and methods that go wrong in every way."""

import textwrap
from pathlib import Path

from kdbench.execution.job import Job
from kdbench.folders import CacheFolder
from kdbench.plugins.registry import Registry
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


def job(plan: Plan, out: Path, cache: Path, method: str) -> Job:
    (spec,) = [s for s in plan.students if s.method == method]
    return Job(spec, plan.methods[method], "student", plan.suite, out, CacheFolder(cache))


def teacher_job(plan: Plan, cache: Path) -> Job:
    (spec,) = plan.teachers
    return Job(spec, plan.methods[spec.method], "teacher", plan.suite, cache / "teachers", CacheFolder(cache))
