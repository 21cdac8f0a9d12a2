"""How the methods of a cell were compared, as text by name: networks, images, recipe, robustness and command."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from kdbench.analysis.board import REFERENCES, Cell, Leaderboard
from kdbench.analysis.costs import pair_of
from kdbench.analysis.shares import CORRUPTION, GROUP, class_names
from kdbench.data import catalog
from kdbench.errors import UserError
from kdbench.metrics.robustness import STEPS, SUBSET
from kdbench.profile.record import Deployment
from kdbench.robustness.corruptions import CORRUPTIONS

MOST_NAMED = 20  # classes that are listed by name


def setup(cell: Cell, leaderboard: Leaderboard) -> dict[str, str]:
    """The facts about a cell as text by name, such as "student" or "recipe", in the order in which they are shown."""
    return {**_networks(cell), **dict(_images(cell)), **dict(_recipes(cell)), **dict(_robustness(cell)),
            "command": command(cell, leaderboard)}


def command(cell: Cell, leaderboard: Leaderboard) -> str:
    """The `kdbench run` command that repeats the cell's runs, as far as records tell. Settings of single rows that
    differ from the suite's are not in it; the rows' labels show them."""
    seeds = sorted({seed for row in cell.rows for seed in (*row.runs, *(failure.seed for failure in row.failures))})
    methods = sorted({row.method for row in cell.rows}, key=lambda name: (name not in REFERENCES, name))
    told = str(len(seeds)) if seeds == list(range(len(seeds))) else ",".join(map(str, seeds)) + "," * (len(seeds) == 1)
    return shlex.join(["kdbench", "run", leaderboard.suites[0], "--pairs", cell.pair, "--datasets", cell.dataset,
                       "--methods", ",".join(methods), "--seeds", told,
                       *(["--device", cell.spec["device"]] if cell.spec["device"] != "cpu" else []),
                       *_transfer_options(cell, leaderboard), *(["--match", "compute"] if cell.equal_compute else [])])


def _transfer_options(cell: Cell, leaderboard: Leaderboard) -> Iterator[str]:
    """The options of `kdbench run` that set the cell's images without labels.

    For a cell without such images, the option says that there are none if other cells of the leaderboard have some;
    otherwise there are no options.
    """
    found = cell.spec.get("transfer")
    if found is not None or any(one.transfer for one in leaderboard.cells):
        asked = {"images": "none"} if found is None else found
        for name in ("images", "share", "size"):
            if asked.get(name) is not None:
                yield from ("--set", f"transfer.{name}={asked[name]}")


def _networks(cell: Cell) -> dict[str, str]:
    pair = pair_of(cell.costs)
    used = pair.deployment if pair else None
    teacher = cell.spec.get("teacher") or {}
    architecture = teacher.get("run", {}).get("student") or teacher.get("architecture") or {}
    start = {"hub": ", from published weights", "file": ", from weights of a file"}.get(
        (teacher.get("run", {}).get("init") or {}).get("kind", ""), "")
    origin = {"run": f"trained by kdbench on the same dataset{start}", "hub": "published weights",
              "file": "weights from a file"}.get(teacher.get("kind", ""), "")
    return {
        "student": _network(cell.spec.get("student", {}), used.student if used else None, ""),
        "teacher": _network(architecture, used.teacher if used else None, origin) if architecture else "none",
    }


def _network(architecture: Mapping[str, Any], used: Deployment | None, origin: str) -> str:
    arguments = ", ".join(f"{name}={json.dumps(value)}" for name, value in architecture.get("kwargs", {}).items())
    size = f"{used.parameters:,} parameters, {used.flops / 1e6:,.1f} MFLOPs an image" if used else \
        "size not measured: kdbench profile does"
    return "; ".join(filter(None, [f"{architecture.get('model', 'unknown')}({arguments})", size, origin]))


def _images(cell: Cell) -> Iterator[tuple[str, str]]:
    try:
        parsed = catalog.parse(cell.dataset)
        yield "dataset", f"{cell.dataset}: {parsed.info.description}"
        for name, value in parsed.modifiers:
            yield f"variant {name}({value:g})", catalog.MODIFIERS[name].description
        yield "source and licence", f"{parsed.info.source}; {parsed.info.licence}"
        sizes = dict(zip(("train", "validation", "test"), parsed.info.sizes or (), strict=False))
    except UserError:
        yield "dataset", f"{cell.dataset}, which this kdbench does not know"
        sizes = {}
    if used := cell.split_sizes or sizes:
        note = "" if cell.split_sizes else " (as published; the records do not tell how many were used)"
        yield "images", ", ".join(f"{count:,} {split}" for split, count in used.items()) + note
    if transfer := cell.spec.get("transfer"):
        rest = transfer["images"] == "rest"
        yield "unlabelled images", (
            f"{'what train_size leaves over of the training split' if rest else transfer['images']}; "
            f"{transfer['share']:.0%} of the images of a batch, for methods that can learn from them; no method is "
            "told their labels")
    names = class_names(cell.dataset, cell.classes)
    if names:
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        yield "classes", f"{len(names)}: {', '.join(names[:MOST_NAMED])}{more}"
    for kind in dict.fromkeys(kind for row in cell.rows for kind in row.shares if kind.startswith(GROUP)):
        parts = next(row.shares[kind] for row in cell.rows if kind in row.shares)
        yield f"groups by {kind.removeprefix(GROUP)}", ", ".join(parts)


def _recipes(cell: Cell) -> Iterator[tuple[str, str]]:
    recipe = cell.spec.get("recipe", {})
    yield "recipe", _written({name: value for name, value in recipe.items() if value not in (None, [])})
    teachers = (cell.spec.get("teacher") or {}).get("run", {}).get("recipe")
    if teachers is not None:  # None if kdbench did not train the teacher
        own = {name: value for name, value in teachers.items() if value != recipe.get(name)}
        yield "recipe of the teacher", f"{_written(own)}, else the student's" if own else "the student's"


def _written(recipe: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in recipe.items())


def _value(value: Any) -> str:
    if value is None:  # only train_size can be None
        return "all"
    return " and ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _robustness(cell: Cell) -> Iterator[tuple[str, str]]:
    measured = {name for row in cell.rows for name in row.metrics}
    subset = f"on {SUBSET} fixed test images, or all if there are fewer"
    if "pgd_accuracy" in measured:
        try:
            info = catalog.parse(cell.dataset).info
            radii = f"{info.small_attack_radius:.4f} (small) and {info.attack_radius:.4f}"
        except UserError:
            radii = "unknown radii"
        yield "attacks", (f"PGD of {STEPS} steps of a quarter of the radius, from a random start, L-infinity, within "
                          f"{radii} for pixels in 0..1, {subset}")
    if any(CORRUPTION in row.shares and "missing words" in row.shares[CORRUPTION] for row in cell.rows):
        yield "corruptions", f"missing words and misspelt words, 10, 30 and 50 % of all, {subset}"
    elif "corruption_accuracy" in measured:
        size = cell.spec.get("recipe", {}).get("image_size", 0)
        yield "corruptions", "; ".join(
            f"{name.replace('_', ' ')} {', '.join(f'{value:g}' for value in one.strengths(size))}"
            for name, one in CORRUPTIONS.items()) + f" (severities 1, 3, 5), {subset}"
