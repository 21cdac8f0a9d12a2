"""Writes the plugin file of `kdbench new-method`: a method that works unchanged, for the user to edit."""

import keyword
from importlib import resources
from pathlib import Path
from string import Template

from kdbench.errors import UserError, unknown
from kdbench.plugins.registry import Registry
from kdbench.plugins.source import FAMILIES

TEMPLATES = resources.files("kdbench.plugins") / "templates"  # one file FAMILY.txt for each family


def write_method(name: str, family: str, folder: Path) -> Path:
    """Write a new method to NAME.py in `folder` and return the file's path. UserError if the name is not allowed or
    taken, if there is no such family, or if the file exists or cannot be written."""
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise UserError(f"method name {name!r}: expected a lower-case Python identifier such as 'my_method'")
    if (taken := Registry().get(name)) is not None:
        raise UserError(f"method name {name!r}: taken by {taken.file}")
    if family not in FAMILIES:
        raise unknown("family", family, FAMILIES)
    file = folder / f"{name}.py"
    text = Template((TEMPLATES / f"{family}.txt").read_text(encoding="utf-8")).substitute(
        name=name, family=family, class_name="".join(part.capitalize() for part in name.split("_")) or "Mine"
    )
    try:
        with file.open("x", encoding="utf-8") as opened:  # an existing file is never overwritten
            opened.write(text)
    except FileExistsError as error:
        raise UserError(f"{file}: exists already; remove it or choose another name") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror}") from error
    return file
