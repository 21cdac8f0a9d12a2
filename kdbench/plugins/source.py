"""The facts of a method, read from its source file with `ast`: none of its code is run and nothing is imported."""

import ast
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from msgspec import Struct

from kdbench.errors import UserError, unknown
from kdbench.paper import Paper

FAMILIES = ("baseline", "logit", "feature", "attention", "relation", "self", "online", "adversarial", "data_free")
LEARNS_FROM: dict[str | None, str] = {  # what each value of `learns_from` means, in words
    "teacher": "the pair's teacher", "student": "a trained copy of the student",
    "assistant": "the pair's assistant, which its teacher trained", None: "no trained network",
}
TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}  # of hyperparameters, by annotation

ATTRIBUTE = "attribute"  # hyperparameter that names the attribute whose groups a method uses; "" is the first

SCALES = ("linear", "log")
LOG_FROM = 10  # a range whose high is at least this many times its low has a log scale, if it names none

Value = bool | int | float | str


def family_order(family: str) -> tuple[int, str]:
    """The sort key of a family: those of `FAMILIES` come first, in their order, then others (from records) by name."""
    return FAMILIES.index(family) if family in FAMILIES else len(FAMILIES), family


@dataclass(frozen=True)
class Hyperparameter:
    """A hyperparameter of a method, which is a keyword-only argument of its `__init__`."""

    name: str
    type: str                                # a key of TYPES
    default: Value
    range: tuple[Value, ...] | None = None   # (low, high) for int and float, else the choices; None: any value
    declared_scale: str | None = None        # the scale that the range names, one of SCALES; None if it names none

    @property
    def allowed(self) -> str:
        """The range as text: "0.0 to 1.0", "soft, hard" or "any"."""
        if self.range is None:
            return "any"
        return f"{self.range[0]} to {self.range[1]}" if self._numeric else ", ".join(map(str, self.range))

    @property
    def choices(self) -> tuple[Value, ...]:
        """The allowed values of a boolean, or of a string with a range; empty for numbers and for other strings."""
        if self._numeric:
            return ()
        return self.range or ((False, True) if self.type == "bool" else ())

    @property
    def scale(self) -> str | None:
        """The scale on which tuning searches the range, one of SCALES; None for choices and without a range."""
        if self.range is None or not self._numeric:
            return None
        return self.declared_scale or usual_scale(*self.range)

    def check(self, value: Any, path: str) -> Any:
        """Return `value`, converted to float if it is an int and the hyperparameter is a float. UserError, which names
        `path`, if it has another type, is not finite or is out of range."""
        wanted = TYPES[self.type]
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise UserError(f"{path}: expected {self.type}, got {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{path}: expected a finite number, got {value!r}")
        if not self._in_range(value):
            raise UserError(f"{path}: {value!r} is out of range, allowed: {self.allowed}")
        return value

    @property
    def _numeric(self) -> bool:
        return self.type in ("int", "float")

    def _in_range(self, value: Any) -> bool:
        if self.range is None:
            return True
        if self._numeric:
            return self.range[0] <= value <= self.range[1]
        return value in self.range


def usual_scale(low: Any, high: Any) -> str:
    """The scale of a range that names none: "log" if `low` is positive and `high` is at least `LOG_FROM` times as
    large, else "linear"."""
    return "log" if low > 0 and high >= LOG_FROM * low else "linear"


class Facts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The facts of a method that tables, pages and citations show. Each record and profile holds a copy, so that they
    show the same where the method is not installed or has changed since."""

    idea: str
    paper: Paper | None
    conditions: tuple[str, ...]
    defaults: dict[str, Value]   # of its hyperparameters, by name


@dataclass(frozen=True)
class NetworkInfo:
    """A network of a plugin file, as the file's source declares it."""

    name: str    # MODULE:FUNCTION: the file's name without its suffix, and the function or class that builds it
    file: Path
    digest: str  # SHA-256 of the file


@dataclass(frozen=True)
class MethodInfo:
    """The facts of a method, as its source states them."""

    name: str
    family: str
    paper: Paper | None
    doc: str                         # the class's docstring
    hyperparameters: Mapping[str, Hyperparameter]
    learns_from: str | None          # a key of LEARNS_FROM
    needs_data: bool                 # False: it trains without the training images
    conditions: tuple[str, ...]      # short words that tables show beside its name
    class_name: str
    module: str | None               # import path; None for a file given by --plugin
    file: Path
    digest: str = field(repr=False)  # SHA-256 of the source file
    needs_groups: bool = False       # True: it uses the groups of the training images, and is n/a without them
    unlabelled: str | None = None    # images without labels teach it "beside" labelled ones, or also "alone"
    networks: tuple[NetworkInfo, ...] = field(default=(), repr=False)  # of --plugin files, for its runs to build

    @property
    def idea(self) -> str:
        """The first paragraph of the class's docstring, on one line."""
        return " ".join(self.doc.split("\n\n")[0].split())

    @property
    def facts(self) -> Facts:
        """The facts that records and profiles keep of the method."""
        return Facts(idea=self.idea, paper=self.paper, conditions=self.conditions,
                     defaults={name: parameter.default for name, parameter in self.hyperparameters.items()})

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """The values of all hyperparameters by name: those of `given`, checked, and the defaults of the others.
        UserError for an unknown name, or for a value that `Hyperparameter.check` refuses."""
        for name in given:
            if name not in self.hyperparameters:
                raise unknown(f"hyperparameter of {self.name}", name, self.hyperparameters)
        return {
            name: parameter.check(given[name], f"{self.name}.{name}") if name in given else parameter.default
            for name, parameter in self.hyperparameters.items()
        }


# Reading a source file.

BUILDS = ("num_classes", "input_shape")  # the first two arguments of a function or class that builds a network


def read_networks(file: Path) -> list[NetworkInfo]:
    """The networks that a Python file defines: its top-level functions and classes whose first two arguments are
    `num_classes` and `input_shape` and whose names do not begin with an underscore. UserError for a syntax error."""
    tree, digest = _parsed(file, file.read_bytes())
    return [NetworkInfo(f"{file.stem}:{node.name}", file, digest) for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            and _first_arguments(node) == BUILDS]


def _first_arguments(node: ast.FunctionDef | ast.ClassDef) -> tuple[str, ...]:
    """The names of the first two arguments of a function, or of a class's own `__init__` after self."""
    function, skipped = node, 0
    if isinstance(node, ast.ClassDef):
        inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        if not inits:
            return ()
        function, skipped = inits[0], 1
    assert isinstance(function, ast.FunctionDef)
    arguments = [*function.args.posonlyargs, *function.args.args][skipped:]
    return tuple(argument.arg for argument in arguments[:2])


def _parsed(file: Path, source: bytes) -> tuple[ast.Module, str]:
    """The syntax tree of a file and the SHA-256 of its content, which is `source`. UserError for a syntax error."""
    try:
        tree = ast.parse(source, filename=str(file))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise UserError(f"{file}{f':{line}' if line else ''}: the plugin fails to import: {error}") from error
    return tree, hashlib.sha256(source).hexdigest()


def read_source(file: Path, module: str | None) -> list[MethodInfo]:
    """The methods that a Python file defines: its top-level classes that assign `name` and `family`.

    `module` is the import path of the file, or None for a file given by --plugin. UserError, which names the file and
    where possible the line, for a syntax error and for a fact that is not a literal or not allowed.
    """
    return list(_methods(file, module, file.read_bytes()))


@cache  # a process that makes many registries, such as a notebook, reads each content once
def _methods(file: Path, module: str | None, source: bytes) -> tuple[MethodInfo, ...]:
    """The methods that a file with the content `source` defines."""
    tree, digest = _parsed(file, source)
    return tuple(
        _read_class(node, file, module, digest)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and {"name", "family"} <= _assigned(node).keys()
    )


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
    if learns_from not in LEARNS_FROM:
        raise UserError(f"{where}.learns_from: got {learns_from!r}, allowed: {', '.join(map(repr, LEARNS_FROM))}")
    unlabelled = literal("unlabelled", None)
    if unlabelled not in (None, "beside", "alone"):
        raise UserError(f"{where}.unlabelled: got {unlabelled!r}, allowed: None, 'beside', 'alone'")
    if unlabelled and (learns_from is None or not literal("needs_data", True)):
        raise UserError(f"{where}.unlabelled: images without labels teach by a trained network, but the method "
                        f"{'learns from none' if learns_from is None else 'sees no images'}")
    conditions = literal("conditions", ())
    if not (isinstance(conditions, tuple) and all(isinstance(one, str) and one.isprintable() for one in conditions)):
        raise UserError(f"{where}.conditions: expected a tuple of words, such as ('with kd',), got {conditions!r}")
    ranges = literal("ranges", {})
    hyperparameters = {p.name: p for p in _signature(node, ranges, where)}
    needs_groups = bool(literal("needs_groups", False))
    attribute = hyperparameters.get(ATTRIBUTE)
    if needs_groups and (attribute is None or attribute.type != "str" or attribute.range is not None):
        raise UserError(f"{where}.needs_groups: its groups are those of an attribute, which a hyperparameter has to "
                        f'name: def __init__(self, ctx, *, {ATTRIBUTE}: str = "")')
    if needs_groups and not literal("needs_data", True):
        raise UserError(f"{where}.needs_groups: a method without needs_data sees no training images, nor their groups")
    for key in ranges:
        if key not in hyperparameters:
            raise unknown(f"hyperparameter in {node.name}.ranges ({file})", key, hyperparameters)
    return MethodInfo(
        name=name, family=family, paper=_paper(facts.get("paper"), where), doc=ast.get_docstring(node) or "",
        hyperparameters=hyperparameters, learns_from=learns_from, needs_data=bool(literal("needs_data", True)),
        conditions=conditions, class_name=node.name, module=module, file=file, digest=digest,
        needs_groups=needs_groups, unlabelled=unlabelled,
    )


def _assigned(node: ast.ClassDef) -> dict[str, ast.expr]:
    """The values that the class body assigns, by name: `a = 1`, `a = b = 1`, `a, b = 1, 2` and `a: int = 1`."""
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
    """The hyperparameters: the keyword-only arguments of the class's own `__init__`. UserError for any other argument
    after `ctx`, and for a hyperparameter without a known type or a literal default within its range."""
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is None:
        return
    given = [*init.args.posonlyargs, *init.args.args][2:]  # after self and ctx
    if init.args.vararg or init.args.kwarg or given:
        odd = given[0].arg if given else f"*{init.args.vararg.arg}" if init.args.vararg else f"**{init.args.kwarg.arg}"  # type: ignore[union-attr]
        raise UserError(f"{where}.__init__({odd}): hyperparameters stand by name after a `*`: "
                        "def __init__(self, ctx, *, alpha: float = 1.0)")
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
        limits, scale = _range(ranges.get(argument.arg), annotation, f"{where}.ranges[{argument.arg!r}]")
        parameter = Hyperparameter(argument.arg, annotation, value, limits, scale)
        yield replace(parameter, default=parameter.check(value, f"{path} default"))


def _range(written: Any, annotation: str, path: str) -> tuple[tuple[Value, ...] | None, str | None]:
    """The range of a hyperparameter and the scale that it names, each None if there is none, from (low, high), (low,
    high, "log") or choices. UserError for anything else."""
    if written is None:
        return None, None
    if not isinstance(written, tuple) or not written:
        raise UserError(f"{path}: expected a tuple, got {written!r}")
    if annotation not in ("int", "float"):
        return written, None
    limits, scale = (written[:2], written[2]) if len(written) == 3 else (written, None)
    if len(limits) != 2 or not all(type(one) in (int, float) and math.isfinite(one) for one in limits) \
            or (scale is not None and scale not in SCALES):
        raise UserError(f"{path}: expected (low, high), or (low, high, 'log') or 'linear', got {written!r}")
    if limits[0] > limits[1]:
        raise UserError(f"{path}: an empty range, {limits[0]} to {limits[1]}")
    if scale == "log" and limits[0] <= 0:
        raise UserError(f"{path}: a logarithmic scale begins above zero, got {limits[0]}")
    return limits, scale


def _paper(node: ast.expr | None, where: str) -> Paper | None:
    """The Paper that an expression `Paper(title=..., ...)` of literals builds; None without an expression. UserError
    for any other expression."""
    if node is None:
        return None
    try:
        assert isinstance(node, ast.Call) and not node.args
        return Paper(**{keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg})
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(f"{where}.paper: write Paper(title=..., authors=(...), year=..., venue=...) with literals") \
            from error
