"""Reads out of kdbench's source what the reference pages show: comments of fields, docstrings and signatures, and turns
them into Markdown."""

import ast
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

# Markdown.


def escaped(text: str) -> str:
    """Plain text as Markdown; what stands in backticks stays code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") and part.endswith("`") and len(part) > 1 else _escaped(part)
                   for part in parts)


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_\[\]])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def cell(text: str) -> str:
    """Markdown as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that hold Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines) + "\n"


def code(value: str) -> str:
    return f"`{value}`" if value else ""


def block(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.rstrip()}\n```\n"


DEFINED = re.compile(r"^(\S.*?)(?: {3,}| {2,}(?=\S))(\S.*)$")


def prose(doc: str) -> str:
    """A docstring as Markdown: paragraphs; lines of "name   what it is" become a table; what is indented, code."""
    return "\n\n".join(_paragraph(text) for text in re.split(r"\n\s*\n", inspect.cleandoc(doc)) if text.strip()) + "\n"


def _paragraph(text: str) -> str:
    lines = text.split("\n")
    if all(line.startswith("    ") for line in lines):
        return block(textwrap.dedent(text))
    found = [DEFINED.match(line) for line in lines]
    if not found[0] or sum(map(bool, found)) < 2:
        return escaped(" ".join(text.split()))
    column, rows = found[0].start(2), []  # a table of definitions, whose lines may be continued
    for line, one in zip(lines, found, strict=True):
        if line.startswith(" "):
            rows[-1][1] += " " + line.strip()
        else:
            rows.append([one[1], one[2]] if one else [line[:column], line[column:]])
    return table(("name", "what it is"), [(code(name.strip()), escaped(what)) for name, what in rows]).rstrip()


def method_doc(doc: str) -> str:
    """The docstring of a method as Markdown: the idea, then the loss as it is written there, then remarks."""
    parts = re.split(r"\n\s*\n", inspect.cleandoc(doc))
    found = [escaped(" ".join(parts[0].split()))]
    for index, text in enumerate(parts[1:]):
        formula = index == 0 or any(line.startswith(" ") for line in text.split("\n"))
        found.append(block(text) if formula else escaped(" ".join(text.split())))
    return "\n\n".join(found) + "\n"


# Source.


def source_comments(source: str) -> dict[tuple[str, str], str]:
    """The comment of every annotated field of every class in a module, by class and field: what stands behind it, on
    its own line and on those that go on below, or else in the lines directly above."""
    comments = {token.start[0]: (token.start[1], token.string.removeprefix("#").strip())
                for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type == tokenize.COMMENT}
    lines, found = source.splitlines(), {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef):
            continue
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = _comment_of(field, comments, lines)
                if text:
                    found[node.name, field.target.id] = text
    return found


def _comment_of(field: ast.AnnAssign, comments: dict[int, tuple[int, str]], lines: list[str]) -> str:
    assert field.end_lineno is not None
    behind = [comments[line][1] for line in range(field.lineno, field.end_lineno + 1) if line in comments]
    if behind:
        below = field.end_lineno + 1
        while below in comments and GOES_ON.match(lines[below - 1]):
            behind.append(comments[below][1])
            below += 1
        return " ".join(behind)
    above: list[str] = []
    line = field.lineno - 1
    while line in comments and OWN_LINE.match(lines[line - 1]) and not GOES_ON.match(lines[line - 1]):
        above.insert(0, comments[line][1])
        line -= 1
    return " ".join(above)


OWN_LINE, GOES_ON = re.compile(r"\s*#"), re.compile(r"\s*#\s{4,}")  # of comments: the latter are of the line above


def module_source(module: Any) -> str:
    return Path(inspect.getsourcefile(module) or "").read_text(encoding="utf-8")


def functions(source: str) -> list[tuple[str, str, str]]:
    """The public functions and classes of a module, in order: signature, docstring and kind, without importing it."""
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            found.append((_signature(node), ast.get_docstring(node) or "",
                          "class" if isinstance(node, ast.ClassDef) else "function"))
    return found


def members(source: str, name: str) -> list[tuple[str, str]]:
    """The public methods of a class with their docstrings: signature and text."""
    node = next(one for one in ast.parse(source).body if isinstance(one, ast.ClassDef) and one.name == name)
    return [(_signature(one), ast.get_docstring(one) or "") for one in node.body
            if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")]


def annotated(source: str, name: str) -> list[tuple[str, str, str]]:
    """The annotated fields of a class: name, annotation and default as they are written."""
    node = next(one for one in ast.parse(source).body if isinstance(one, ast.ClassDef) and one.name == name)
    return [(one.target.id, ast.unparse(one.annotation), ast.unparse(one.value) if one.value else "")
            for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]


def class_doc(source: str, name: str) -> str:
    node = next(one for one in ast.parse(source).body if isinstance(one, ast.ClassDef) and one.name == name)
    return ast.get_docstring(node) or ""


def signature_of(source: str, name: str) -> str:
    """The signature of a module's function as it is written, one argument a line where that is long."""
    node = next(one for one in ast.parse(source).body if isinstance(one, ast.FunctionDef) and one.name == name)
    return _signature(node)


def _signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.ClassDef):
        init = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
        return f"class {node.name}" + (_call("", _arguments(init.args), "") if init else "")
    is_property = any(isinstance(one, ast.Name) and one.id == "property" for one in node.decorator_list)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}{returns}" if is_property else _call(node.name, _arguments(node.args), returns)


def _arguments(arguments: ast.arguments) -> list[str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    found = [_argument(*pair) for pair in zip(positional, defaults, strict=True) if pair[0].arg not in ("self", "cls")]
    found += [f"*{arguments.vararg.arg}"] if arguments.vararg else ["*"] if arguments.kwonlyargs else []
    return found + [_argument(*pair) for pair in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    equals = " = " if kind else "="
    return argument.arg + kind + (f"{equals}{ast.unparse(default)}" if default else "")


def _call(name: str, arguments: list[str], returns: str) -> str:
    one = f"{name}({', '.join(arguments)}){returns}"
    return one if len(one) <= WIDE else f"{name}(\n" + "".join(f"    {part},\n" for part in arguments) + f"){returns}"


WIDE = 90  # characters of a signature from which on it is broken into lines


# Types.


def type_text(annotation: Any) -> str:
    """A type in words: "int", "list of str", "table of str"."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Annotated, Literal):
        return type_text(inner[0] if origin is Annotated else type(inner[0]))
    if origin in (Union, UnionType):
        kinds = dict.fromkeys("none" if one is type(None) else type_text(one) for one in inner)
        return "any value" if {"bool", "int", "float", "str"} <= kinds.keys() else " or ".join(kinds)
    if origin in (tuple, list):
        return f"list of {type_text(inner[0])}"
    if origin in (dict, Mapping):
        return "table" if inner[1] is Any else f"table of {type_text(inner[1])}"
    return getattr(annotation, "__name__", str(annotation))


def literals(annotation: Any) -> list[Any]:
    """The values that a type spells out, wherever they stand in it."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [value for inner in get_args(annotation) for value in literals(inner)]


def limits(metadata: Iterable[Any]) -> str:
    """The bounds that pydantic checks, in words."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return ", ".join(f"{said} {getattr(one, name)}" for one in metadata for name, said in words.items()
                     if isinstance(getattr(one, name, None), int | float))
