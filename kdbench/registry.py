"""Finds, checks and lists the methods: built-in ones, installed plugins (entry points) and `--plugin FILE`.

The facts of a method (name, family, paper, hyperparameters) are read from its source without running it, so that
`kdbench list` answers without importing torch. They must therefore be literals in the class body and a signature of
the class's own; `load` imports the class and refuses one whose real facts differ from the written ones.
"""

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import math
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.errors import UserError, unknown
from kdbench.paper import Paper

if TYPE_CHECKING:
    from kdbench.method import Method

FAMILIES = ("baseline", "logit", "feature", "attention", "relation", "self", "online", "adversarial", "data_free")
ENTRY_POINTS = "kdbench.methods"
TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}

Value = bool | int | float | str


@dataclass(frozen=True)
class Hyperparameter:
    """One keyword-only argument of a method."""

    name: str
    type: str                                # a key of TYPES
    default: Value
    range: tuple[Value, ...] | None = None   # (low, high) for numbers, else the choices

    def check(self, value: Any, path: str) -> Any:
        """`value` in this hyperparameter's type; a UserError naming `path` if it is mistyped or out of range."""
        wanted = TYPES[self.type]
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise UserError(f"{path}: expected {self.type}, got {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{path}: expected a finite number, got {value!r}")
        if self.range is not None and not self._in_range(value):
            allowed = f"{self.range[0]} to {self.range[1]}" if self._numeric else ", ".join(map(repr, self.range))
            raise UserError(f"{path}: {value!r} is out of range, allowed: {allowed}")
        return value

    @property
    def _numeric(self) -> bool:
        return self.type in ("int", "float")

    def _in_range(self, value: Any) -> bool:
        assert self.range is not None
        if self._numeric:
            return self.range[0] <= value <= self.range[1]
        return value in self.range


@dataclass(frozen=True)
class MethodInfo:
    """What a method's source says of it."""

    name: str
    family: str
    paper: Paper | None
    doc: str
    hyperparameters: Mapping[str, Hyperparameter]
    learns_from: str | None
    needs_data: bool
    class_name: str
    module: str | None      # import path; None for a file given by --plugin
    file: Path
    digest: str = field(repr=False)  # SHA-256 of the source file

    @property
    def idea(self) -> str:
        """The first paragraph of the docstring, on one line."""
        return " ".join(self.doc.split("\n\n")[0].split())

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """Every hyperparameter with its value: the given one, checked, or the default."""
        for name in given:
            if name not in self.hyperparameters:
                raise unknown(f"hyperparameter of {self.name}", name, self.hyperparameters)
        return {
            name: parameter.check(given[name], f"{self.name}.{name}") if name in given else parameter.default
            for name, parameter in self.hyperparameters.items()
        }


class Registry(Mapping[str, MethodInfo]):
    """All methods of this process by name, in the order of families, then names."""

    def __init__(self, plugins: Iterable[Path] = ()):
        found = [*_builtin(), *_installed(), *(info for file in plugins for info in _plugin(file))]
        found.sort(key=lambda info: (FAMILIES.index(info.family), info.name != "ce", info.name))
        self._methods: dict[str, MethodInfo] = {}
        for info in found:
            if info.name in self._methods:
                raise UserError(f"two methods are named {info.name!r}: {self._methods[info.name].file} and {info.file}")
            self._methods[info.name] = info

    def __getitem__(self, name: str) -> MethodInfo:
        if name not in self._methods:
            raise unknown("method", name, self._methods)
        return self._methods[name]

    def __contains__(self, name: object) -> bool:  # Mapping's own would expect a KeyError
        return name in self._methods

    def __iter__(self):
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)


def load(info: MethodInfo) -> "type[Method]":
    """Import the method's class. UserError if that fails, or if the class is not what its source seemed to say."""
    try:
        module = importlib.import_module(info.module) if info.module else _import_file(info.file)
        cls = getattr(module, info.class_name)
    except Exception as error:
        raise UserError(f"{info.file}: the plugin fails to import: {type(error).__name__}: {error}") from error
    _verify(info, cls)
    return cls


def _verify(info: MethodInfo, cls: "type[Method]") -> None:
    """Hold the imported class to what was read from its source."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    written = {name: parameter.default for name, parameter in info.hyperparameters.items()}
    if defaults != written:
        raise UserError(
            f"{info.file}: {info.class_name}.__init__ really takes {defaults or 'no hyperparameters'}, its source says "
            f"{written or 'none'}: write every hyperparameter with a literal default in the class's own __init__"
        )
    for fact in ("name", "family", "learns_from", "needs_data"):
        if getattr(cls, fact) != getattr(info, fact):
            raise UserError(f"{info.file}: {info.class_name}.{fact} must be a literal in the class body")


def _import_file(file: Path) -> types.ModuleType:
    name = f"kdbench_plugin_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before execution, as dataclasses and pickling need it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# Where methods are found.

def _builtin() -> Iterable[MethodInfo]:
    spec = importlib.util.find_spec("kdbench_methods")
    if spec is None or not spec.submodule_search_locations:
        return
    root = Path(next(iter(spec.submodule_search_locations)))
    for file in sorted(root.glob("*/*.py")):
        if not file.name.startswith("_"):
            yield from read_source(file, f"kdbench_methods.{file.parent.name}.{file.stem}")


def _installed() -> Iterable[MethodInfo]:
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        where = f"entry point {entry.name!r} ({entry.value})"
        try:
            spec = importlib.util.find_spec(entry.module)
        except Exception as error:
            raise UserError(f"{where}: the plugin fails to import: {type(error).__name__}: {error}") from error
        if spec is None or spec.origin is None:
            raise UserError(f"{where}: no module {entry.module!r}; reinstall or uninstall the package")
        methods = {info.class_name: info for info in read_source(Path(spec.origin), entry.module)}
        if entry.attr not in methods:
            raise UserError(f"{where}: {spec.origin} defines no method class {entry.attr!r}, it has: "
                            f"{', '.join(methods) or 'none'}")
        yield methods[entry.attr]


def _plugin(file: Path) -> Iterable[MethodInfo]:
    if not file.is_file():
        raise UserError(f"--plugin {file}: no such file")
    methods = list(read_source(file, None))
    if not methods:
        raise UserError(f"--plugin {file}: no class in it has a literal `name` and `family`, as a method must")
    yield from methods


# What a source file says.

def read_source(file: Path, module: str | None) -> list[MethodInfo]:
    """The methods that a Python file defines: its classes with literal `name` and `family`. Nothing is run."""
    source = file.read_bytes()
    try:
        tree = ast.parse(source, filename=str(file))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise UserError(f"{file}{f':{line}' if line else ''}: the plugin fails to import: {error}") from error
    digest = hashlib.sha256(source).hexdigest()
    return [
        _read_class(node, file, module, digest)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and {"name", "family"} <= _assigned(node).keys()
    ]


def _read_class(node: ast.ClassDef, file: Path, module: str | None, digest: str) -> MethodInfo:
    facts = _assigned(node)
    where = f"{file}:{node.lineno}: {node.name}"

    def literal(fact: str, default: Any) -> Any:
        if fact not in facts:
            return default
        try:
            return ast.literal_eval(facts[fact])
        except ValueError as error:
            raise UserError(f"{where}.{fact}: must be a literal, found {ast.unparse(facts[fact])}") from error

    name, family = literal("name", ""), literal("family", "")
    if not isinstance(name, str) or not name.isidentifier():
        raise UserError(f"{where}.name: expected an identifier such as 'my_method', got {name!r}")
    if family not in FAMILIES:
        raise unknown(f"family of method {name} ({file})", str(family), FAMILIES)
    learns_from = literal("learns_from", "teacher")
    if learns_from not in ("teacher", "student", None):
        raise UserError(f"{where}.learns_from: got {learns_from!r}, allowed: 'teacher', 'student', None")
    ranges = literal("ranges", {})
    hyperparameters = {p.name: p for p in _signature(node, ranges, where)}
    for key in ranges:
        if key not in hyperparameters:
            raise unknown(f"hyperparameter in {node.name}.ranges ({file})", key, hyperparameters)
    return MethodInfo(
        name=name, family=family, paper=_paper(facts.get("paper"), where), doc=ast.get_docstring(node) or "",
        hyperparameters=hyperparameters, learns_from=learns_from, needs_data=bool(literal("needs_data", True)),
        class_name=node.name, module=module, file=file, digest=digest,
    )


def _assigned(node: ast.ClassDef) -> dict[str, ast.expr]:
    """The class body's plain assignments; `name = family = ...` and annotated ones included."""
    found: dict[str, ast.expr] = {}
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    found[target.id] = statement.value
                elif isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):  # name, family = ...
                    for item, value in zip(target.elts, statement.value.elts, strict=False):
                        if isinstance(item, ast.Name):
                            found[item.id] = value
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            found[statement.target.id] = statement.value
    return found


def _signature(node: ast.ClassDef, ranges: dict[str, tuple], where: str) -> Iterable[Hyperparameter]:
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is None:
        return
    for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        path = f"{where}.__init__({argument.arg})"
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        if annotation not in TYPES:
            raise UserError(f"{path}: a hyperparameter is annotated with one of {', '.join(TYPES)}, got {annotation!r}")
        try:
            value = ast.literal_eval(default) if default else None
        except ValueError:
            value = None
        if value is None:
            raise UserError(f"{path}: a hyperparameter needs a literal default")
        parameter = Hyperparameter(argument.arg, annotation, value, ranges.get(argument.arg))
        parameter.check(value, f"{path} default")
        yield parameter


def _paper(node: ast.expr | None, where: str) -> Paper | None:
    if node is None:
        return None
    try:
        assert isinstance(node, ast.Call) and not node.args
        return Paper(**{keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg})
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(f"{where}.paper: write Paper(title=..., authors=(...), year=..., venue=...) with literals") \
            from error
