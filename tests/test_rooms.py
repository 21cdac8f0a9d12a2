"""Tests of the import graph: which room may import which, which modules may import torch, and that nothing is circular.

A room is a folder of kdbench/ or a module beside the folders, such as spec.py; methods/ is one room, and the room
"kdbench" is kdbench/__init__.py. The imports are read from the source, wherever in a module they stand:

    eager  runs when the module is imported
    lazy   stands in a function
    types  stands under `if TYPE_CHECKING:`; it never runs, so it counts for layers and cycles and not for torch
    name   a string that names a module, for code that imports it by name; only the rule `strings` looks at these

`python tests/test_rooms.py [FOLDER]` prints the number of rooms, arrows and cycles of this checkout or of another.
"""

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
MAP = ROOT / "CONTRIBUTING.md"
PACKAGES = {"kdbench": "kdbench", "methods": "kdbench_methods"}  # by folder

# From bottom to top: a room imports rooms of lower layers, none of its own layer and none of a higher one.
LAYERS = (
    "disk environment errors paper seeds spec version",
    "architectures convolutions folders method metrics",
    "data networks plugins remote",
    "parts results suites",
    "execution robustness",
    "train",
    "checks finished profile tune",
    "compress",
    "analysis",
    "report submissions",
    "api site",
    "cli kdbench methods",
)
LAYER = {room: number for number, rooms in enumerate(LAYERS, start=1) for room in rooms.split()}

# The rooms that a method may import.
PUBLIC = ("method", "networks", "parts")

# The modules, or whole rooms, that import torch. The others load fast, for the command line and the parent process.
TORCH = (
    "kdbench.architectures.mlp", "kdbench.architectures.texts",
    "kdbench.convolutions", "kdbench.method", "kdbench.networks", "kdbench.parts", "kdbench.train", "kdbench_methods",
    "kdbench.data.base", "kdbench.data.load", "kdbench.data.stream",
    "kdbench.robustness.measure",
    "kdbench.profile.in_use", "kdbench.profile.timing", "kdbench.profile.worker",
    "kdbench.finished.attack", "kdbench.finished.export", "kdbench.finished.reload",
    "kdbench.checks.contract", "kdbench.checks.preflight",
    "kdbench.compress.compress", "kdbench.compress.network", "kdbench.compress.prune",
    "kdbench.submissions.replayed",
)
LIBRARIES = ("torch", "torchvision", "timm", "safetensors.torch")

# What may import the modules of TORCH in functions.
LAZILY = ("kdbench.api", "kdbench.cli")

# What may name modules of other rooms in strings: for processes of their own, or to find the methods.
BY_NAME = ("kdbench.execution", "kdbench.plugins.registry")

MOST_MODULES = 12  # in a folder, besides __init__.py; a family is a list of methods that are all alike, however long


class Import(NamedTuple):
    importer: str  # the full name of a module
    imported: str  # the full name of a module of PACKAGES; from another package, of the object imported
    how: Literal["eager", "lazy", "types", "name"]
    where: str     # FILE:LINE

    def __str__(self) -> str:
        how = {"eager": "", "lazy": " in a function", "types": " for types", "name": " by a string"}
        return f"{self.where}: {self.importer} imports {self.imported}{how[self.how]}"


class Source(NamedTuple):
    modules: dict[str, Path]  # each module's file, relative to the checkout
    imports: list[Import]

    def between(self, level: Callable[[str], str]) -> Iterator[tuple[str, str, Import]]:
        """The import statements that lead from one room (`level=room`) or module (`level=str`) to another."""
        for one in self.imports:
            if one.imported in self.modules and one.how != "name" and level(one.importer) != level(one.imported):
                yield level(one.importer), level(one.imported), one


@cache
def read(checkout: Path) -> Source:
    """Every module of a checkout, and every import in them."""
    modules = {}
    for folder, package in PACKAGES.items():
        for file in sorted((checkout / folder).rglob("*.py")):
            parts = file.relative_to(checkout / folder).with_suffix("").parts
            modules[".".join((package, *parts)).removesuffix(".__init__")] = file.relative_to(checkout)
    imports = []
    for module, file in modules.items():
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        for node, how in nodes(ast.parse((checkout / file).read_text(encoding="utf-8")).body):
            by_name = isinstance(node, ast.Constant)
            for name in names(node, package):
                ours = enclosing(name, modules)
                if not by_name or ours not in (None, "kdbench"):
                    imports.append(Import(module, ours or name, "name" if by_name else how, f"{file}:{node.lineno}"))
    return Source(modules, list(dict.fromkeys(imports)))


def nodes(found: Iterable[ast.AST], how: str = "eager") -> Iterator[tuple[ast.AST, str]]:
    """All nodes of syntax trees, each with how an import at its place would run."""
    for node in found:
        yield node, how
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from nodes(node.body, "types")
            yield from nodes(node.orelse, how)
        else:
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from nodes(ast.iter_child_nodes(node), "lazy" if function and how == "eager" else how)


def names(node: ast.AST, package: str) -> list[str]:
    """The full names that a node imports; for a string, itself, as "package.module:function" may be imported later."""
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            source = resolve_name("." * node.level + (node.module or ""), package)
            return [f"{source}.{alias.name}" for alias in node.names]
        case ast.Constant(value=str(text)):
            return [text.replace(":", ".")]
    return []


def enclosing(name: str, modules: Iterable[str]) -> str | None:
    """The module that a full name is, or that holds what it names; None for a name of another package."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def room(module: str) -> str:
    package, *rest = module.split(".")
    return "methods" if package == "kdbench_methods" else rest[0] if rest else "kdbench"


def within(name: str, parents: Iterable[str]) -> bool:
    return any(f"{name}.".startswith(f"{parent}.") for parent in parents)


def circular(arrows: Iterable[tuple[str, str]]) -> list[tuple[str, ...]]:
    """The groups of nodes that can all be reached from each other along arrows (from, to)."""
    reached = defaultdict(set)
    for start, end in arrows:
        reached[start].add(end)
    for middle, beyond in reached.items():
        for ends in reached.values():
            if middle in ends:
                ends.update(beyond)
    return sorted({tuple(sorted(end for end in ends if node in reached.get(end, ())))
                   for node, ends in reached.items() if node in ends})


def counts(source: Source) -> str:
    """The rooms that import or are imported, the arrows between them, and the cycles of modules. The package's
    __init__.py is left out."""
    arrows = {(a, b) for a, b, _ in source.between(room) if "kdbench" not in (a, b)}
    groups = circular({(a, b) for a, b, _ in source.between(str)})
    rooms = {end for arrow in arrows for end in arrow}
    return "\n  ".join([f"{len(rooms)} rooms, {len(arrows)} arrows, {len(groups)} cycles", *map(", ".join, groups)])


# The rules. Each gives a message for every import that breaks it.

def layers(source: Source) -> Iterator[str]:
    for importer, imported, one in source.between(room):
        if LAYER.get(imported, 0) >= LAYER.get(importer, 0):
            yield (f"{one}: {importer} stands in layer {LAYER.get(importer)} and may import lower layers only, "
                   f"{imported} stands in layer {LAYER.get(imported)}")


def cycles(source: Source) -> Iterator[str]:
    for level in (room, str):
        for group in circular({(a, b) for a, b, _ in source.between(level)}):
            inside = {(a, b): str(one) for a, b, one in source.between(level) if a in group and b in group}
            yield "\n    ".join([f"cycle of {', '.join(group)}:", *inside.values()])  # an import for each arrow


def torch_walls(source: Source) -> Iterator[str]:
    """No module outside TORCH imports one inside eagerly, so it does not reach torch by way of others either."""
    rooms = sorted({room(module) for module in TORCH})
    for one in source.imports:
        if within(one.importer, TORCH) or one.how in ("types", "name"):
            continue
        library, reaches = within(one.imported, LIBRARIES), within(one.imported, TORCH)
        if one.how == "eager" and (library or reaches):
            yield f"{one}: outside a function only the modules in TORCH may import torch or one of them"
        elif library and room(one.importer) not in rooms:
            yield f"{one}: only these rooms may import torch: {', '.join(rooms)}"
        elif reaches and not within(one.importer, LAZILY):
            yield f"{one}, which imports torch: besides TORCH, only {', '.join(LAZILY)} may"


def methods(source: Source) -> Iterator[str]:
    for one in source.imports:
        if room(one.importer) == "methods" and one.imported in source.modules and room(one.imported) not in PUBLIC:
            yield f"{one}: a method may import {', '.join(PUBLIC)} of kdbench, and no other method"


def strings(source: Source) -> Iterator[str]:
    for one in source.imports:
        if one.how == "name" and room(one.importer) != room(one.imported) and not within(one.importer, BY_NAME):
            yield f"{one}: only {', '.join(BY_NAME)} may name modules of other rooms"


def sizes(source: Source) -> Iterator[str]:
    folders = Counter(file.parent for name, file in source.modules.items()
                      if file.name != "__init__.py" and room(name) != "methods")
    for folder, count in folders.items():
        if count > MOST_MODULES:
            yield f"{folder}/: {count} modules, a folder holds at most {MOST_MODULES}"


RULES = (layers, cycles, torch_walls, methods, strings, sizes)


# The repository keeps the rules.

@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_import_breaks(rule):
    broken = list(rule(read(ROOT)))
    assert not broken, "\n" + "\n".join(broken)


def test_every_room_stands_in_a_layer():
    assert LAYER.keys() == {room(module) for module in read(ROOT).modules}


def test_the_rules_name_modules_and_rooms_that_exist():
    modules = read(ROOT).modules
    assert [name for name in (*TORCH, *LAZILY, *BY_NAME) if name not in modules] == []
    assert [name for name in PUBLIC if name not in LAYER] == []


def test_the_modules_outside_torch_load_without_it():
    """The libraries that they import do not import torch either."""
    modules = [module for module in read(ROOT).modules if not within(module, TORCH)]
    code = f"import sys, {', '.join(modules)}; print([name for name in {LIBRARIES} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert loaded.stdout == "[]\n", loaded.stderr


# The map in CONTRIBUTING.md.

def test_the_map_has_every_room_with_its_layer_and_its_modules_that_import_torch():
    rows = re.findall(r"^\| (\d+) \| `(\S+?)(?:\.py|/)` \|.*\| (.*?) ?\|$", MAP.read_text(), re.MULTILINE)
    shown = [(name.replace("__init__", "kdbench"), int(layer), torch) for layer, name, torch in rows]
    assert shown == [(name, layer, torch_of(name)) for name, layer in LAYER.items()]


def torch_of(name: str) -> str:
    """A room's part of TORCH as the map writes it: "all", the modules, or nothing."""
    modules = [module for module in TORCH if room(module) == name]
    if set(modules) & {f"kdbench.{name}", f"kdbench_{name}"}:
        return "all"
    return ", ".join(f"`{module.removeprefix(f'kdbench.{name}.')}`" for module in modules)


def test_every_path_in_the_map_exists():
    paths = re.findall(r"`((?:kdbench|methods|tests|results)/[\w/.]*)`", MAP.read_text())
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


# The rules themselves, on small made-up checkouts.

def checkout(root: Path, files: dict[str, str]) -> Source:
    """A checkout with these files; names without methods/ lie in kdbench/."""
    for name, content in files.items():
        file = root / (name if name.startswith("methods/") else f"kdbench/{name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return read(root)


def test_imports_are_found_wherever_they_stand(tmp_path):
    code = """\
from typing import TYPE_CHECKING
import kdbench.disk, torch.nn as nn
from kdbench import spec
from kdbench.spec import RunSpec, Recipe
from ..data import base
from .base import Split as S
if TYPE_CHECKING:
    from kdbench.method import Method
    def never(): import timm
else:
    import numpy
if not TYPE_CHECKING:
    import scipy
class Images:
    import PIL
    async def take(self):
        try:
            import kdbench.seeds
        except ImportError:
            work = ["kdbench.disk:atomic_write", "kdbench", "kdbench disk", "see kdbench.disk"]
"""
    others = dict.fromkeys(("__init__.py", "disk.py", "spec.py", "method.py", "seeds.py", "data/base.py"), "")
    source = checkout(tmp_path, {"data/__init__.py": "from . import base", "data/load.py": code, **others})
    assert [(int(one.where.partition(":")[2]), one.imported, one.how) for one in source.imports] == [
        (1, "kdbench.data.base", "eager"),
        (1, "typing.TYPE_CHECKING", "eager"), (2, "kdbench.disk", "eager"), (2, "torch.nn", "eager"),
        (3, "kdbench.spec", "eager"), (4, "kdbench.spec", "eager"), (5, "kdbench.data.base", "eager"),
        (6, "kdbench.data.base", "eager"), (8, "kdbench.method", "types"), (9, "timm", "types"),
        (11, "numpy", "eager"), (13, "scipy", "eager"), (15, "PIL", "eager"), (18, "kdbench.seeds", "lazy"),
        (20, "kdbench.disk", "name"),
    ]


BROKEN = [  # rule, files, the beginning of the one message
    (layers, {"suites/plan.py": "from kdbench.train import worker", "train/worker.py": ""},
     "kdbench/suites/plan.py:1: kdbench.suites.plan imports kdbench.train.worker: suites stands in layer 4 and may "
     "import lower layers only, train stands in layer 6"),
    (layers, {"disk.py": "\ndef f():\n    from kdbench.results.store import Store", "results/store.py": ""},
     "kdbench/disk.py:3: kdbench.disk imports kdbench.results.store in a function: disk stands in layer 1"),
    (layers, {"disk.py": "if TYPE_CHECKING:\n    import kdbench.method", "method.py": ""},
     "kdbench/disk.py:2: kdbench.disk imports kdbench.method for types: disk stands in layer 1"),
    (layers, {"parts/losses.py": "import kdbench.suites.plan", "suites/plan.py": ""},
     "kdbench/parts/losses.py:1: kdbench.parts.losses imports kdbench.suites.plan: parts stands in layer 4"),
    (layers, {"attic/old.py": "import kdbench.disk", "disk.py": ""},
     "kdbench/attic/old.py:1: kdbench.attic.old imports kdbench.disk: attic stands in layer None"),
    (layers, {"disk.py": "from kdbench import __version__", "__init__.py": ""},
     "kdbench/disk.py:1: kdbench.disk imports kdbench: disk stands in layer 1"),
    (layers, {"cli/main.py": "import kdbench_methods.logit.kd", "methods/logit/kd.py": ""},
     "kdbench/cli/main.py:1: kdbench.cli.main imports kdbench_methods.logit.kd: cli stands in layer"),
    (cycles, {"data/files.py": "import kdbench.data.collect",
              "data/collect.py": "def f():\n    from kdbench.data.files import read"},
     "cycle of kdbench.data.collect, kdbench.data.files:\n"
     "    kdbench/data/collect.py:2: kdbench.data.collect imports kdbench.data.files in a function\n"
     "    kdbench/data/files.py:1: kdbench.data.files imports kdbench.data.collect"),
    (cycles, {"a/one.py": "import kdbench.b.one", "b/one.py": "", "b/two.py": "import kdbench.c.one",
              "c/one.py": "import kdbench.a.two", "a/two.py": "", "d.py": "import kdbench.a.one"},
     "cycle of a, b, c:\n    kdbench/a/one.py:1: kdbench.a.one imports kdbench.b.one\n"),
    (torch_walls, {"results/store.py": "from torch.nn import Module"},
     "kdbench/results/store.py:1: kdbench.results.store imports torch.nn.Module: outside a function only the modules"),
    (torch_walls, {"data/catalog.py": "import torchvision.datasets"},
     "kdbench/data/catalog.py:1: kdbench.data.catalog imports torchvision.datasets: outside a function only the"),
    (torch_walls, {"report/card.py": "from safetensors.torch import save"},
     "kdbench/report/card.py:1: kdbench.report.card imports safetensors.torch.save: outside a function only the"),
    (torch_walls, {"cli/main.py": "import kdbench.suites.plan", "suites/plan.py": "import kdbench.data.collect",
                   "data/collect.py": "import kdbench.data.load", "data/load.py": "import torch"},
     "kdbench/data/collect.py:1: kdbench.data.collect imports kdbench.data.load: outside a function only the modules"),
    (torch_walls, {"spec.py": "def f():\n    import torch"},
     "kdbench/spec.py:2: kdbench.spec imports torch in a function: only these rooms may import torch: architectures, "),
    (torch_walls, {"profile/job.py": "def f():\n    import kdbench.profile.worker", "profile/worker.py": ""},
     "kdbench/profile/job.py:2: kdbench.profile.job imports kdbench.profile.worker in a function, which imports torch: "
     "besides TORCH, only kdbench.api, kdbench.cli may"),
    (methods, {"methods/logit/dkd.py": "from kdbench_methods.logit.kd import KD", "methods/logit/kd.py": ""},
     "methods/logit/dkd.py:1: kdbench_methods.logit.dkd imports kdbench_methods.logit.kd: a method may import"),
    (methods, {"methods/logit/kd.py": "def f():\n    import kdbench.train.trainer", "train/trainer.py": ""},
     "methods/logit/kd.py:2: kdbench_methods.logit.kd imports kdbench.train.trainer in a function: a method may"),
    (strings, {"suites/plan.py": "import_module('kdbench.train.worker')", "train/worker.py": ""},
     "kdbench/suites/plan.py:1: kdbench.suites.plan imports kdbench.train.worker by a string: only kdbench.execution"),
    (strings, {"cli/run.py": "f'kdbench_methods.logit.{name}'", "methods/logit/__init__.py": ""},
     "kdbench/cli/run.py:1: kdbench.cli.run imports kdbench_methods.logit by a string: only kdbench.execution"),
    (sizes, {f"data/m{i}.py": "" for i in range(13)}, "kdbench/data/: 13 modules, a folder holds at most 12"),
]


@pytest.mark.parametrize(("rule", "files", "beginning"), BROKEN)
def test_a_rule_names_file_line_and_import_that_break_it(rule, files, beginning, tmp_path):
    (message,) = rule(checkout(tmp_path, files))
    assert message.startswith(beginning)


KEPT = {
    "lower layers and the own room": {
        "suites/plan.py": "import kdbench.spec, kdbench.suites.suite", "suites/suite.py": "", "spec.py": "import json"},
    "two ways to one module": {
        "data/a.py": "from kdbench.data import b, c", "data/b.py": "import kdbench.data.d",
        "data/c.py": "import kdbench.data.d", "data/d.py": "import numpy"},
    "torch in the modules of TORCH": {
        "data/load.py": "import torch, torchvision", "train/worker.py": "import timm, kdbench.data.load"},
    "torch in a function of a room that may": {"checks/doctor.py": "def f():\n    import torch"},
    "a module of TORCH in a function of the command line": {
        "cli/run.py": "def f():\n    import kdbench.checks.preflight", "checks/preflight.py": "import torch"},
    "a module of TORCH for types": {
        "plugins/registry.py": "if TYPE_CHECKING:\n    from kdbench.method import Method", "method.py": "import torch"},
    "the other modules of a room that imports torch": {
        "suites/plan.py": "import kdbench.data.catalog", "data/catalog.py": "import torchlike, safetensors.numpy"},
    "public rooms, in a method": {
        "methods/logit/kd.py": "import torch, kdbench.method, kdbench.networks, kdbench.parts.losses",
        **dict.fromkeys(("method.py", "networks.py", "parts/losses.py"), "")},
    "a string for a process to import": {
        "execution/pool.py": "preload(['kdbench.train.worker'])", "train/worker.py": ""},
    "a string for the own room's data": {"suites/suite.py": "files('kdbench.suites')", "suites/__init__.py": ""},
    "twelve modules in a folder": dict.fromkeys(("data/__init__.py", *(f"data/m{i}.py" for i in range(12))), ""),
}


@pytest.mark.parametrize("files", KEPT.values(), ids=KEPT.keys())
def test_the_rules_allow(files, tmp_path):
    source = checkout(tmp_path, files)
    assert [message for rule in RULES for message in rule(source)] == []


def test_each_room_arrow_and_cycle_counts_once(tmp_path):
    source = checkout(tmp_path, {
        "__init__.py": "from kdbench.version import __version__", "version.py": "",
        "data/a.py": "from kdbench.disk import x, y\ndef f():\n    import kdbench.data.b, kdbench.disk",
        "data/b.py": "import kdbench.data.a\nif TYPE_CHECKING:\n    import kdbench.spec",
        "disk.py": "", "spec.py": "", "methods/logit/kd.py": "import kdbench.spec",
    })
    assert counts(source) == "4 rooms, 3 arrows, 1 cycles\n  kdbench.data.a, kdbench.data.b"


if __name__ == "__main__":
    print(counts(read(Path(sys.argv[1]) if sys.argv[1:] else ROOT)))
