"""Options that several commands share, and functions that parse their values."""

import tomllib
from collections.abc import Iterable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from kdbench.errors import UserError
from kdbench.results.sizes import read_size
from kdbench.spec import PORTABLE

Plugins = Annotated[list[Path] | None, typer.Option(
    "--plugin", metavar="FILE", help="a file with methods or networks of yours")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="the results of a suite")]
SuiteName = Annotated[str, typer.Argument(help="a suite's name, or the path of a TOML file of yours")]
Methods = Annotated[str | None, typer.Option(help="only these, comma-separated")]
Core = Annotated[bool, typer.Option("--core", help="only the suite's core methods, one or more per family")]
Pairs = Annotated[str | None, typer.Option(help="only these, comma-separated")]
Datasets = Annotated[str | None, typer.Option(help="these instead, comma-separated")]
Settings = Annotated[list[str] | None, typer.Option(
    "--set", metavar="METHOD.NAME=VALUE", help="a hyperparameter, or recipe.NAME=VALUE, or transfer.NAME=VALUE")]
Out = Annotated[Path | None, typer.Option(help="where results go; by default runs/SUITE")]
Workers = Annotated[int | None, typer.Option(
    min=1, help="runs at a time; by default the number of cores, in a cluster 256")]
RunTimeout = Annotated[float | None, typer.Option(min=1e-3, help="seconds after which a run is stopped")]
Retries = Annotated[int, typer.Option(min=0, help="further tries of a run whose process was killed")]
TeacherCache = Annotated[str | None, typer.Option(
    metavar="SIZE", help="of the cache's disk for the answers of teachers, such as 8GB; 0: runs do not share them; by "
    "default a tenth of the free disk")]
EstimatesFrom = Annotated[list[Path] | None, typer.Option(
    "--estimates-from", metavar="DIR", help="results that tell, besides those in --out, how long runs take")]
Executor = Annotated[str, typer.Option(
    metavar="NAME", help="local: processes on this machine; slurm, ray: jobs or tasks of a cluster that shares the "
    "folders with it")]
Slurm = Annotated[list[str] | None, typer.Option(
    "--slurm", metavar="KEY=VALUE", help="what each job asks for: partition, account, time, mem, gpus_per_node, ...; "
    "pack: runs in a job; at_once: of them, at a time; setup, python: what nodes need")]
Ray = Annotated[list[str] | None, typer.Option(
    "--ray", metavar="KEY=VALUE", help="address: of the cluster; num_cpus, num_gpus, memory, resources.NAME: what each "
    "run asks for; wait: seconds for a node that offers it")]
AsJson = Annotated[bool, typer.Option("--json", help="as JSON")]


class Device(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


class TrainingDevice(StrEnum):
    cpu = "cpu"
    cuda = "cuda"
    portable = PORTABLE


class Match(StrEnum):
    steps = "steps"
    compute = "compute"


OnDevice = Annotated[TrainingDevice, typer.Option(
    help="what to compute on; cpu-portable is made to give the same bits on all x86-64 processors with AVX2, and may "
         "be slower")]


def cache_size(text: str | None) -> int | None:
    """The size that --teacher-cache gives, in bytes; None if the option is not given. UserError if the text is not a
    size."""
    return None if text is None else read_size(text, "--teacher-cache")


def split_names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"expected comma-separated names, got {text!r}")
    return names


def read_seeds(text: str | None) -> int | list[int] | None:
    """The seeds that --seeds gives: how many as an int ("3"), or which as a list ("0,4,7"); None if the option is not
    given. UserError for any other text."""
    if text is None:
        return None
    with suppress(ValueError):
        numbers = [int(part) for part in text.split(",") if part.strip()]
        if "," in text and numbers and min(numbers) >= 0 and len(set(numbers)) == len(numbers):
            return numbers
        if "," not in text and numbers and numbers[0] >= 1:
            return numbers[0]
    raise UserError(f"--seeds {text}: expected how many (3), or which (0,4,7)")


def read_settings(texts: Iterable[str]) -> dict[str, Any]:
    """The values given with --set by their path, such as {"kd.temperature": 8} for "kd.temperature=8". A value is
    parsed as TOML, or taken as a string if it is not valid TOML. UserError if a text is not OWNER.NAME=VALUE."""
    settings: dict[str, Any] = {}
    for setting in texts:
        path, equals, text = setting.partition("=")
        owner, dot, name = path.strip().partition(".")
        if not (equals and dot and owner and name):
            raise UserError(f"--set {setting}: expected METHOD.HYPERPARAMETER=VALUE, recipe.NAME=VALUE or "
                            "transfer.NAME=VALUE")
        try:
            settings[path.strip()] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            settings[path.strip()] = text.strip()
    return settings


def read_keys(option: str, texts: Iterable[str] | None) -> dict[str, Any]:
    """The values given with an option such as "--slurm" by their key, such as {"partition": "gpu"} for "partition=gpu".
    Whole numbers of at most 18 digits become an int, "true" becomes True and "false" becomes None; a key that is given
    several times has a list of its values. UserError if a text is not KEY=VALUE."""
    found: dict[str, Any] = {}
    for text in texts or ():
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (equals and key and value):
            raise UserError(f"{option} {text}: expected KEY=VALUE")
        given: Any = {"true": True, "false": None}.get(value.lower(), value)
        if value.isdecimal() and len(value) <= 18:  # int() refuses thousands of digits
            given = int(value)
        before = found.get(key)
        found[key] = given if before is None else [*(before if isinstance(before, list) else [before]), given]
    return found
