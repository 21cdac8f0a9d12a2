"""Validates the content of TOML files by pydantic models. The message about a mistake names its place, what was found
there, and what is allowed."""

import re
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from kdbench.errors import UserError, nearest

MAX_ERRORS = 5  # most errors that a message names
Model = TypeVar("Model", bound=BaseModel)
_SHORT = reprlib.Repr()  # what was found, cut in length and depth to fit a line
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100

_EXPECTED = {  # what is allowed, by the type of pydantic's error; {...} is a value of its context
    "string_type": "a string", "bool_type": "true or false", "bool_parsing": "true or false",
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "int_parsing_size": "a smaller number", "float_type": "a number", "float_parsing": "a number",
    "finite_number": "a finite number", "tuple_type": "a list", "list_type": "a list", "dict_type": "a table",
    "model_type": "a table", "greater_than": "more than {gt}", "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}", "less_than_equal": "at most {le}", "literal_error": "{expected}",
    "string_pattern_mismatch": "a name of letters, digits, '_', '.' and '-'",
}


@contextmanager
def at(place: str) -> Iterator[None]:
    """Prefix `place`, such as "mine.toml: datasets", to the message of every UserError that is raised within the
    context."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def dotted(*keys: str) -> str:
    """The path to a value of a TOML file, with quotes around each key that needs them in TOML."""
    return ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"' for key in keys)


def validate(model: type[Model], content: Any, where: str, table: str = "") -> Model:
    """Validate `content` by a pydantic model and return the model's instance. The message of the UserError for invalid
    content begins with `where`, usually the file, and names the wrong keys (at most MAX_ERRORS) by their paths from the
    top of the file; `table` is the path of the table whose content this is."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        found = _explain(model, error, table)
        more = f"; and {len(found) - MAX_ERRORS} more" if len(found) > MAX_ERRORS else ""
        raise UserError(f"{where}: {'; '.join(found[:MAX_ERRORS])}{more}") from error


def _explain(model: type[BaseModel], error: ValidationError, table: str) -> list[str]:
    """The errors as messages "path.of.key: what is wrong". Missing keys are last, because they are often due to
    misspelt keys, which are reported as unknown. A value of a union type gets a single message, about the types that
    fit it best, which are those with the deepest errors: a list with a wrong element counts as a list."""
    by_value: dict[tuple[Any, ...], list[tuple[tuple[Any, ...], Any, Any]]] = {}
    errors = sorted(error.errors(include_url=False), key=lambda one: one["type"] == "missing")
    for one in errors:
        value, path, kind = _follow(model, one["loc"])
        by_value.setdefault(value, []).append((path, kind, one))
    said = []
    for kinds in by_value.values():
        deepest = max(len(path) for path, _, _ in kinds)
        path, kind, first = next(one for one in kinds if len(one[0]) == deepest)
        alike = [one for path, _, one in kinds if len(path) == deepest]
        place = ".".join([table] * bool(table) + [dotted(*(str(part)[:100] for part in path))])
        said.append(f"{place}: {_problem(kind, first, alike)}".removeprefix(": "))
    return said


def _follow(model: type[BaseModel], loc: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...], Any]:
    """Follow the location `loc` of a pydantic error through the types of a model.

    Returns the keys to the value at fault, which the errors of all members of a union share; the keys to what is wrong
    in it, which may lie deeper; and the type that is declared there, or the model that does not know the last key.
    """
    kind: Any = model
    path: list[Any] = []
    for position, part in enumerate(loc):
        if get_origin(kind) in (Union, UnionType):
            if type(None) not in get_args(kind):  # part names a type of the union
                return tuple(path), (*path, *loc[position + 1:]), kind
            kind = get_args(kind)[0]  # the type of an optional value
        path.append(part)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if part not in kind.model_fields:
                break
            kind = kind.model_fields[part].annotation
        else:
            arguments = get_args(kind)
            kind = arguments[-1 if get_origin(kind) is dict else 0] if arguments else Any
    return tuple(path), tuple(path), kind


def _problem(kind: Any, error: Any, alike: list[Any]) -> str:
    """What is wrong with a value of the type `kind`. `alike` holds the errors of all types that it may be meant to
    have, with `error` as the first."""
    found = error["input"]
    if error["type"] == "extra_forbidden":
        return f"unknown key{nearest(str(error['loc'][-1])[:100], kind.model_fields)}"
    if error["type"] == "missing":
        is_table = isinstance(kind, type) and issubclass(kind, BaseModel)
        needed = [name for name, field in kind.model_fields.items() if field.is_required()] if is_table else []
        return "missing" + (f", expected a table with {', '.join(needed)}" if needed else "")
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])  # one about a whole table already says what was found
        return message if isinstance(found, dict) else f"{message}, got {_SHORT.repr(found)}"
    if error["type"] == "literal_error" and isinstance(found, str) and len(alike) == 1:
        return f"got {_SHORT.repr(found)}{nearest(found[:100], map(str, get_args(kind)))}"
    expected = [_EXPECTED[one["type"]].format(**one.get("ctx", {})) if one["type"] in _EXPECTED else one["msg"]
                for one in alike]
    if "a number" in expected and "a whole number" in expected:
        expected.remove("a whole number")
    return f"expected {' or '.join(dict.fromkeys(expected))}, got {_SHORT.repr(found)}"
