"""Writes the reference pages of the documentation from what kdbench declares: nothing in them is written by hand."""

import ast
import json
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import typer
from declared import (
    annotated,
    block,
    class_doc,
    code,
    escaped,
    functions,
    limits,
    literals,
    members,
    method_doc,
    module_source,
    prose,
    signature_of,
    source_comments,
    table,
    type_text,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from words import FAMILY_IDEAS, PAIR_KEYS, RECIPE_KEYS, RECORD_FIELDS, SPEC_FIELDS, SUITE_KEYS

import kdbench
from kdbench import api, folders, spec
from kdbench.cli.main import app
from kdbench.compress import record as compressed
from kdbench.data import catalog as data
from kdbench.data import imagefolder
from kdbench.metrics.catalog import METRICS
from kdbench.metrics.cost import COST
from kdbench.metrics.groups import GROUP_METRICS
from kdbench.metrics.longtail import LONG_TAIL_METRICS
from kdbench.metrics.robustness import ROBUSTNESS
from kdbench.plugins.registry import Registry
from kdbench.plugins.source import FAMILIES, LEARNS_FROM, MethodInfo
from kdbench.profile import record as profiles
from kdbench.report import flat
from kdbench.report.columns import meaning
from kdbench.results import record as records
from kdbench.spec import Architecture, Recipe
from kdbench.suites import suite as suites
from kdbench.suites.suite import (
    PAIRS,
    Pair,
    SuiteFile,
    TeacherSide,
    TransferTable,
    built_in_pairs,
    built_in_suites,
    load_suite,
)
from kdbench.tune.space import rows as space_rows

PACKAGE = Path(kdbench.__file__).parent
UNLABELLED = {"beside": "beside labelled ones", "alone": "beside labelled ones and alone"}
GENERATED = "<!-- Written by docs/reference.py from kdbench's own declarations: change those. -->\n\n"

def pages() -> dict[str, str]:
    """The Markdown of every generated page, by its path below the pages."""
    return {name: GENERATED + text for name, text in {
        "reference/methods.md": methods_page(),
        **{f"reference/methods-{family}.md": family_page(family) for family in FAMILIES},
        "reference/metrics.md": metrics_page(),
        "reference/datasets.md": datasets_page(),
        "reference/suites.md": suites_page(),
        "reference/keys.md": keys_page(),
        "reference/files.md": files_page(),
        "reference/record.md": record_page(),
        "reference/columns.md": columns_page(),
        "reference/cli.md": cli_page(),
        "reference/python.md": python_page(),
        "reference/contract.md": contract_page(),
    }.items()}


def fragments() -> dict[str, str]:
    """Parts that hand-written pages include, by the word that stands for them there: {{ word }}."""
    return {"groups_csv": groups_csv(), "results_folder": prose(folders.ResultsFolder.__doc__ or "")}


# Methods.


def methods_page() -> str:
    registry, lines = Registry(), ["# Methods\n"]
    controls = sum(info.family == "baseline" for info in registry.values())
    lines.append(f"{len(registry) - controls} methods of {len(FAMILIES) - 1} families, and {controls} controls, which "
                 "learn from no teacher. `kdbench show METHOD` prints what stands here.\n")
    for family in FAMILIES:
        mine = [info for info in registry.values() if info.family == family]
        lines.append(f"## {family}\n\n{FAMILY_IDEAS[family]} [All of {family}](methods-{family}.md).\n")
        lines.append(table(("method", "idea", "published"), [
            (f"[{info.name}](methods-{family}.md#{info.name})", escaped(info.idea),
             info.paper.short if info.paper else "") for info in mine]))
    return "\n".join(lines)


def family_page(family: str) -> str:
    mine = [info for info in Registry().values() if info.family == family]
    return f"# {family}\n\n{FAMILY_IDEAS[family]}\n\n" + "\n".join(map(method_section, mine))


def method_section(info: MethodInfo) -> str:
    lines = [f"## {info.name}\n", method_doc(info.doc)]
    if info.paper:
        title = f"[{escaped(info.paper.title)}]({info.paper.url})" if info.paper.url else escaped(info.paper.title)
        lines.append(f"Paper: {escaped(', '.join(info.paper.authors))} ({info.paper.year}). {title}. "
                     f"{escaped(info.paper.venue)}.\n")
    facts = [f"learns from {LEARNS_FROM[info.learns_from]}"]
    facts += [] if info.needs_data else ["sees no training images"]
    facts += ["reads the groups of training images"] if info.needs_groups else []
    facts += [f"can learn from images without labels {UNLABELLED[info.unlabelled]}"] if info.unlabelled else []
    facts += [f"tables say beside it: {', '.join(info.conditions)}"] if info.conditions else []
    lines.append(f"It {'; '.join(facts)}.\n")
    tried = {row["tuned"]: row["space"] for row in space_rows(info)}
    if info.hyperparameters:
        lines.append(table(("hyperparameter", "type", "default", "allowed", "`kdbench tune` tries"), [
            (code(p.name), p.type, code(str(p.default)), p.allowed, tried.get(p.name, "its value only"))
            for p in info.hyperparameters.values()]))
    else:
        lines.append("No hyperparameters.\n")
    return "\n".join(lines)


# Metrics and data.


def metrics_page() -> str:
    parts = {"Of groups": GROUP_METRICS, "Of a long tail": LONG_TAIL_METRICS, "Of robustness": ROBUSTNESS,
             "Of cost, measured by `kdbench profile`": COST}
    placed = {metric.name for part in parts.values() for metric in part}
    rest = [metric for metric in METRICS.values() if metric.name not in placed]
    sections = {"Of predictions": [one for one in rest if one.of != "run"], **parts,
                "Of a run": [one for one in rest if one.of == "run"]}
    lines = ["# Metrics\n", "The names are those in records, in `leaderboard.json`, and in the columns NAME_mean, "
             "NAME_low and NAME_high of `leaderboard.csv` and the data frame. Shares are from 0 to 1 there, and in % "
             "in tables. `kdbench list metrics` prints this page.\n"]
    for title, some in sections.items():
        lines.append(f"## {title}\n")
        lines.append(table(("metric", "in tables", "unit", "better", "definition"), [
            (code(m.name), escaped(m.title), m.unit, m.better or "",
             escaped(m.definition) + (f" Reference: {_paper(m.reference)}." if m.reference else "")) for m in some]))
    return "\n".join(lines)


def datasets_page() -> str:
    lines = ["# Datasets\n", "`--datasets NAME` on the command line, `datasets` in a suite's file. `kdbench list "
             "datasets` prints this page.\n"]
    header = ("name", "images in train, validation, test", "classes", "image", "radii of attacks", "what it is",
              "source", "licence", "published")
    lines.append(table(header, [
        (code(info.name), ", ".join(map(str, info.sizes or ())), str(len(info.classes)) if info.classes else "",
         f"text, {info.words} words" if info.words else " x ".join(map(str, info.shape or ())),
         "" if info.words else f"{info.attack_radius:.4f}, {info.small_attack_radius:.4f}",
         escaped(info.description), escaped(info.source), escaped(info.licence), _paper(info.paper))
        for info in data.DATASETS.values()]))
    lines.append("Radii are those of the L-infinity attacks on images with pixels from 0 to 1: of PGD and AutoAttack, "
                 "and of PGD within the small radius.\n")
    lines.append("## Modifiers\n\nA modifier gives any dataset a known bias: `NAME+skew(0.95)`. Several may stand in a "
                 "row.\n")
    lines.append(table(("modifier", "value", "what it does", "published"), [
        (code(f"+{m.name}(VALUE)"), f"{m.low:g} to {m.high:g}", escaped(m.description), _paper(m.paper))
        for m in data.MODIFIERS.values()]))
    lines.append("## Images of your own\n\n" + prose(imagefolder.__doc__ or ""))
    lines.append("[groups.csv](groups.md) has a page of its own.\n")
    return "\n".join(lines)


def _paper(paper: Any) -> str:
    """A paper in short, with a link where it has an address."""
    if paper is None:
        return ""
    address = (paper.url or "").replace("<", "%3C").replace(">", "%3E")
    return f"[{escaped(paper.short)}]({address})" if address else escaped(paper.short)


def groups_csv() -> str:
    """The rules of groups.csv, out of the docstrings of the functions that read it."""
    return prose(imagefolder._read_groups.__doc__ or "") + "\n" + prose(imagefolder._read_table.__doc__ or "")


# Suites.


def suites_page() -> str:
    lines = ["# Suites and pairs\n", "`kdbench run NAME` runs a suite; `kdbench list suites` and `kdbench list pairs` "
             "print what stands here.\n"]
    for name, file in built_in_suites().items():
        content = load_suite(name).content
        lines.append(f"## {name}\n\n{escaped(content.description)}.\n")
        if content.resolution:
            lines.append(f"What it can tell apart: {escaped(' '.join(content.resolution.split()))}.\n")
        recipe = content.recipe
        lines.append("".join(f"- {what}: {text}\n" for what, text in (
            ("pairs", ", ".join(map(code, content.pairs))), ("datasets", ", ".join(map(code, content.datasets))),
            ("methods", "all" if content.methods == "all" else ", ".join(map(code, content.methods))),
            *([("`--core`", ", ".join(map(code, content.core)))] if content.core else []),
            ("seeds", str(content.seeds)),
            ("recipe", ", ".join(code(f"{key} = {as_toml(getattr(recipe, key))}")
                                 for key in Recipe.model_fields if key in recipe.model_fields_set)))))
        lines.append(f'??? note "{name}.toml"\n\n' + _indented(block(file.read_text(encoding="utf-8"), "toml")))
    lines.append("## Pairs\n")
    lines.append(table(("pair", "what it is", "images", "teacher", "its weights", "student"), [
        (code(name), escaped(pair.description), f"{pair.image_size} pixels", code(_architecture(pair.teacher)),
         code(pair.teacher.weights), code(_architecture(pair.student))) for name, pair in built_in_pairs().items()]))
    lines.append(f'??? note "{PAIRS}"\n\n' + _indented(block((PACKAGE / "suites" / PAIRS).read_text(), "toml")))
    return "\n".join(lines)


def _architecture(one: Architecture) -> str:
    return one.model + (f"({', '.join(f'{k}={v}' for k, v in one.kwargs.items())})" if one.kwargs else "")


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" if line else "\n" for line in text.splitlines())


def keys_page() -> str:
    comments = source_comments(module_source(suites)) | source_comments(module_source(spec))
    lines = ["# Keys of suites and recipes\n",
             "A suite is a TOML file; [Suites of your own](../guide/suites.md) shows one. An unknown key is refused "
             "with the nearest known one. On the command line, `--set recipe.KEY=VALUE` changes a key of the recipe, "
             "and `--set transfer.KEY=VALUE` one of images without labels.\n"]
    for title, model, described in (("Keys of a suite", SuiteFile, SUITE_KEYS),
                                    ("Keys of [recipe]", Recipe, RECIPE_KEYS),
                                    ("Keys of [transfer]", TransferTable, {}),
                                    ("Keys of [pair.NAME]", Pair, PAIR_KEYS),
                                    ("Keys of a pair's teacher", TeacherSide, RECIPE_KEYS)):
        lines.append(f"## {title}\n\n{prose(model.__doc__ or '')}")
        lines.append(table(("key", "type", "default", "allowed", "what it is"), [
            _key(name, field, field.description or comments.get((model.__name__, name)) or described.get(name, ""))
            for name, field in model.model_fields.items()]))
    lines.append("## Arguments of an architecture\n\n`kwargs` may hold these arguments of timm's constructors, which "
                 "shape a network; nothing that names a file, an address or weights is among them: "
                 + ", ".join(map(code, sorted(spec.ARGUMENTS))) + ".\n")
    return "\n".join(lines)


def _key(name: str, field: FieldInfo, description: str) -> tuple[str, ...]:
    allowed = ", ".join(map(code, map(str, literals(field.annotation)))) or limits(field.metadata)
    return code(name), type_text(field.annotation), _default(field), allowed, escaped(description)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None:
        return "none"
    return "empty" if value in ("", (), {}) else code(as_toml(value).strip('"'))


def as_toml(value: Any) -> str:
    """A value as a suite's file has it."""
    return json.dumps(value, ensure_ascii=False)


# Files.


def files_page() -> str:
    lines = ["# Files\n", prose((folders.__doc__ or "").split("\n\n")[0])]
    for kind in (folders.ResultsFolder, folders.StudyFolder, folders.CacheFolder, folders.DataFolder,
                 folders.RunFolder, folders.PassFolder, folders.MirrorFolder):
        lines.append(f"## {kind.__name__}\n\n{prose(kind.__doc__ or '')}")
    where = folders.CacheFolder.of_user.__doc__ or ""
    lines.append(f"Where the cache lies: {prose(where)}")
    return "\n".join(lines)


def record_page() -> str:
    lines = ["# Format of records\n", escaped(" ".join((records.__doc__ or "").split())) + "\n",
             f"A record is a JSON file of schema version {records.SCHEMA_VERSION}. "
             + prose(records.Entry.to_json.__doc__ or "")]
    for title, kinds, module in (
            ("Record", (records.Entry, records.Outcome, records.Record), records),
            ("Planned", (records.Entry, records.Planned), records), ("Profile", (profiles.Profile,), profiles),
            ("Training", (profiles.Training,), profiles), ("Deployments", (profiles.Deployments,), profiles),
            ("Deployment", (profiles.Deployment,), profiles), ("Quartiles", (profiles.Quartiles,), profiles),
            ("Compressed", (compressed.Compressed,), compressed), ("Use", (compressed.Use,), compressed)):
        lines.append(f"## {title}\n\n{prose(kinds[-1].__doc__ or '')}")
        lines.append(_fields(module, kinds, RECORD_FIELDS))
        if title in ("Profile", "Compressed"):
            lines.append("Beside these it has the fields of a record from `suite` to `finished`.\n")
    lines.append(f"## RunSpec\n\n{prose(spec.__doc__ or '')}")
    lines.append(_fields(spec, [spec.RunSpec], SPEC_FIELDS))
    for model in (spec.OwnRecipe, spec.TrainedTeacher, spec.HubTeacher, spec.FileTeacher):
        lines.append(f"## {model.__name__}\n\n{prose(model.__doc__ or '')}")
        lines.append(_fields(spec, [model], SPEC_FIELDS))
    lines.append("`recipe` has the [keys of a recipe](keys.md); `student` and a teacher's `architecture` have the keys "
                 "`model` and `kwargs`.\n")
    return "\n".join(lines)


def _fields(module: ModuleType, kinds: Iterable[type], described: dict[str, str]) -> str:
    source = module_source(module)
    comments = source_comments(source)
    rows = []
    for kind in kinds:
        types = get_type_hints(kind, include_extras=True)
        for field, _, default in annotated(source, kind.__name__):
            what = comments.get((kind.__name__, field)) or described.get(field, "")
            some = ", ".join(code(str(value)) for value in literals(types[field]))
            rows.append((code(field), type_text(types[field]), code(_short(default, module)),
                         escaped(what) + (f" One of {some}." if "," in some else "")))
    return table(("field", "type", "default", "what it is"), rows)


def _short(default: str, module: ModuleType) -> str:
    """A default as it is written: a constant as its value, and only the value of a call that declares one."""
    if default.startswith("field(default_factory="):
        return "{}" if "dict" in default else "[]"
    if default.startswith("Field("):
        return default.removeprefix("Field(").partition(",")[0] if "," in default and "=" not in default.partition(
            ",")[0] else ""
    return str(getattr(module, default, default)) if default.isupper() else default


def columns_page() -> str:
    lines = ["# Columns of the data frame and of leaderboard.csv\n", prose(flat.to_frame.__doc__ or "")]
    known = {name for metric in METRICS for name in (f"{metric}_mean", f"{metric}_low", f"{metric}_high")}
    told = meaning()
    lines.append(table(("column", "type in pandas", "what it holds"), [
        (code(name), kind, escaped(told[name])) for name, kind in flat.COLUMNS.items()
        if name not in known or name.startswith("test_acc")]))
    lines.append("And NAME_mean, NAME_low and NAME_high, float64, of each of the [metrics](metrics.md): "
                 + ", ".join(map(code, METRICS)) + ".\n")
    return "\n".join(lines)


# Commands and functions.


def cli_page() -> str:
    lines = ["# Command line\n", "What `kdbench COMMAND --help` prints. Mistakes of the user are told in one line, "
             "with exit code 2.\n"]
    texts = {name: help_text(name.split()) for name in commands()}
    lines.append(table(("command", "what it does"), [
        (f"[kdbench {name}](#kdbench-{name.replace(' ', '-')})", escaped(_purpose(text)))
        for name, text in texts.items()]))
    lines += [f"## kdbench {name}\n\n{block(text)}" for name, text in texts.items()]
    return "\n".join(lines)


def _purpose(text: str) -> str:
    """What a command's help says below its usage."""
    return " ".join(text.split("\n\n")[1].split())


def commands() -> list[str]:
    """The names of all commands; those of a group with the group's name."""
    found = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        found.append(name)
        found += [f"{name} {inner}" for inner in getattr(command, "commands", {})]
    return found


def help_text(command: list[str]) -> str:
    """What --help prints, 100 columns wide."""
    from typer.testing import CliRunner

    return CliRunner().invoke(app, [*command, "--help"], prog_name="kdbench", terminal_width=100).output.strip("\n")


def python_page() -> str:
    names = list(dict.fromkeys([*(name for name in kdbench.__all__ if name != "__version__"), "tune"]))
    source = module_source(api)
    lines = ["# Python\n", prose(kdbench.__doc__ or ""), prose(api.__doc__ or "")]
    for name in names:
        where = "kdbench" if name in kdbench.__all__ else "kdbench.api"
        lines.append(f"## {where}.{name}\n\n" + block(signature_of(source, name), "python") + "\n"
                     + prose(getattr(api, name).__doc__ or ""))
    return "\n".join(lines)


def contract_page() -> str:
    source = (PACKAGE / "method.py").read_text(encoding="utf-8")
    comments = source_comments(source)
    lines = ["# The plugin contract\n", prose(ast.get_docstring(ast.parse(source)) or "")]
    for name in ("Method", "Context", "Batch", "Outputs", "Shapes"):
        lines.append(f"## {name}\n\n{prose(class_doc(source, name))}")
        if fields := annotated(source, name):
            lines.append(table(("attribute", "type", "what it is"), [
                (code(field), code(kind), escaped(comments.get((name, field), ""))) for field, kind, _ in fields]))
        for said, doc in members(source, name):
            member = said.partition("(")[0].partition(" ")[0]
            lines.append(f"### {name}.{member}\n\n{block(said, 'python')}\n{prose(doc)}")
    for said, doc, kind in functions(source):
        if kind == "function" and said.startswith("descend"):
            lines.append(f"## descend\n\n{block(said, 'python')}\n{prose(doc)}")
    lines.append("## Parts\n\nPublic building blocks of methods, in `kdbench.parts`.\n")
    for file in sorted((PACKAGE / "parts").glob("*.py")):
        inside = file.read_text(encoding="utf-8")
        if not (found := functions(inside)):
            continue
        lines.append(f"### kdbench.parts.{file.stem}\n\n{prose(ast.get_docstring(ast.parse(inside)) or '')}")
        lines += [f"{block(said, 'python')}\n{prose(doc)}" for said, doc, _ in found]
    return "\n".join(lines)


def described_twice() -> list[str]:
    """Fields whose description stands here although their declaration has one."""
    comments = source_comments(module_source(suites)) | source_comments(module_source(spec))
    comments |= source_comments(module_source(records)) | source_comments(module_source(profiles))
    keys = [f"{model.__name__}.{name}"
            for model, described in ((SuiteFile, SUITE_KEYS), (Recipe, RECIPE_KEYS), (Pair, PAIR_KEYS))
            for name, field in model.model_fields.items()
            if name in described and (field.description or (model.__name__, name) in comments)]
    fields = [f"{kind.__name__}.{name}" for kinds, described in (
                  ((records.Entry, records.Outcome, records.Record, profiles.Deployment), RECORD_FIELDS),
                  ((spec.RunSpec,), SPEC_FIELDS))
              for kind in kinds for name in described if (kind.__name__, name) in comments]
    return keys + fields


def undescribed() -> list[str]:
    """Keys of suites and fields of records of which nothing is said."""
    return [line for page in (keys_page(), record_page()) for line in page.splitlines()
            if line.startswith("| `") and line.endswith(("|  |", "| |"))]
