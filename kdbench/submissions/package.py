"""The content of a submission: its manifest, and the members that are packed from a folder of results."""

import hashlib
import importlib.metadata
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from kdbench.analysis.board import REFERENCES
from kdbench.data import catalog
from kdbench.disk import file_sha256
from kdbench.errors import UserError, plain, unknown, without_paths
from kdbench.plugins.registry import ENTRY_POINTS, Registry
from kdbench.plugins.source import MethodInfo
from kdbench.profile.record import Profile, read_profile
from kdbench.results.lock import lock
from kdbench.results.record import Outcome, Planned, Record
from kdbench.results.store import Store
from kdbench.results.submitted import FileName
from kdbench.spec import Device, teacher_runs
from kdbench.submissions.zipped import LOCK, MANIFEST, REQUIREMENT
from kdbench.suites.plan import Plan, Selection, expand
from kdbench.suites.suite import Suite, built_in_suites, load_suite
from kdbench.version import __version__

WITNESSES = REFERENCES  # their runs in the submitted cells show how far a machine reproduces the reference's
LICENCES = frozenset("""
    0BSD AGPL-3.0-only AGPL-3.0-or-later Apache-2.0 BSD-2-Clause BSD-3-Clause BSL-1.0 CC-BY-4.0 CC-BY-SA-4.0 CC0-1.0
    ECL-2.0 EPL-2.0 EUPL-1.2 GPL-2.0-only GPL-2.0-or-later GPL-3.0-only GPL-3.0-or-later ISC LGPL-2.1-only
    LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later MIT MIT-0 MPL-2.0 NCSA ODC-By-1.0 ODbL-1.0 PDDL-1.0 Unlicense
    UPL-1.0 Zlib
""".split())  # noqa: SIM905  SPDX identifiers of licences under which others may keep, show and change the results
Text = Annotated[str, Meta(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]*$")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
RunId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$")]


class SubmittedMethod(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A submitted method, and where its source is."""

    name: Text
    family: Text
    digest: Sha256           # of the source file
    plugin: FileName | None  # its file in plugin/; None: the required package brings it


class SuiteText(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The suite of the runs, as it was when they were packed."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]
    sha256: Sha256
    text: str


class Manifest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The content of submission.json."""

    format_version: Literal[1] = 1
    kdbench: Text
    methods: Annotated[list[SubmittedMethod], Meta(min_length=1, max_length=100)]
    requirement: Text | None = None  # NAME==VERSION of the package with the methods that have no plugin file
    suite: SuiteText
    cells: list[RunId]               # of the submitted runs: hashes of pair, dataset and recipe
    seeds: list[int]
    licence: Text                    # SPDX identifier, of results and plugin files
    author: Text
    paper: Text | None = None
    url: Text | None = None
    files: dict[str, Sha256]         # SHA-256 of every other member

    @property
    def names(self) -> list[str]:
        return [method.name for method in self.methods]


Words = Annotated[str, Meta(max_length=300, pattern=r"^[^\x00-\x1f\x7f]*$")]
# No "_": readers take a value whose name ends in "_bytes" for a number.
Package = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.-]{1,100}$")]
Count = Annotated[int, Meta(ge=0, le=2**62)]


class Environment(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The form of an outcome's environment that readers of records rely on, as `kdbench.environment.environment` makes
    it. Records keep it as plain data, of which nothing is checked when they are read."""

    python: Words
    versions: dict[Package, Words | None]
    platform: Words
    cpu: Words
    cores: Count | None
    memory_bytes: Count
    device: Words
    gpu: Words | None
    threads: Count
    git_commit: Words | None


@dataclass(frozen=True)
class About:
    """What the submitter states about the results."""

    licence: str
    author: str
    paper: str | None = None
    url: str | None = None


def members(folder: Path, methods: Sequence[str], plugins: Iterable[Path], suite_name: str | None, about: About,
            with_students: bool = False) -> dict[str, bytes | Path]:
    """The members of a submission by name, as contents or files: the runs of `methods` in a folder of results, the
    witnesses' runs and the teachers that belong to them, profiles, plugin files, versions and the manifest.
    `with_students` adds the students' weights. Raises UserError if a method has no runs, if a file is missing or
    damaged, or if the runs' suite is unknown or cannot be submitted."""
    registry, store = Registry(plugins), Store(folder)
    infos = [registry[name] for name in methods]
    records = _records(store)
    suite = load_suite(_suite_of(folder, records, methods, suite_name))
    own = [one for one in records if one.role == "student" and one.spec.method in methods and one.suite == suite.name]
    for name in methods:
        if not any(one.spec.method == name for one in own):
            there = {one.spec.method for one in records if one.role == "student"} - set(WITNESSES)
            raise unknown(f"method with runs of {suite.name} in {folder}", name, there)
    plan = expansion(suite, registry, methods, {one.spec.device for one in own})
    cells = {one.spec.cell for one in own}
    wanted = {spec.id for spec in plan.students if spec.method in WITNESSES and spec.cell in cells}
    wanted |= {run.id for one in own for run in teacher_runs(one.spec)}
    chosen = [*own, *(one for one in records if one.run_id in wanted and one not in own)]
    found: dict[str, bytes | Path] = {}
    for record in chosen:
        found |= dict(_files_of(store, record, suite.name, with_students))
    found |= dict(_profiles(store, own))
    entries = []
    for info in infos:
        plugin = _plugin_name(info)
        found |= {f"plugin/{plugin}": info.file} if plugin else {}
        entries.append(SubmittedMethod(name=info.name, family=info.family, digest=info.digest, plugin=plugin))
    requirement = _requirement([info for info in infos if _plugin_name(info) is None])
    found |= {REQUIREMENT: f"{requirement}\n".encode()} if requirement else {}
    found[LOCK] = lock([requirement.partition("==")[0]] if requirement else ()).encode()
    text = Path(suite.source).read_bytes()
    manifest = Manifest(
        kdbench=__version__, methods=entries, requirement=requirement,
        suite=SuiteText(name=suite.name, sha256=hashlib.sha256(text).hexdigest(), text=text.decode()),
        cells=sorted(cells), seeds=sorted({one.spec.seed for one in own}),
        licence=about.licence, author=plain(about.author), paper=about.paper, url=about.url,
        files={name: _sha256(content) for name, content in sorted(found.items())})
    found[MANIFEST] = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    return found


def expansion(suite: Suite, registry: Registry, methods: Iterable[str], devices: Collection[Device]) -> Plan:
    """The plan of a suite for these methods and the witnesses, with default hyperparameters. Raises UserError for runs
    on several devices, for a suite with files of somebody's own disk, which nobody else can repeat, and for a suite
    with images without labels."""
    for name in suite.content.datasets:
        if catalog.parse(name).path is not None:
            raise UserError(f"dataset {name}: a folder of somebody's own disk, which nobody else can repeat; published "
                            "datasets can be submitted")
    if suite.content.transfer is not None:
        raise UserError(f"suite {suite.name}: its students learn from images without labels, which runs are not "
                        "repeated with; suites without [transfer] can be submitted")
    for name in suite.content.pairs:
        if name in suite.pairs and suite.pairs[name].teacher.weights.startswith("file:"):
            raise UserError(f"pair {name}: its teacher is a file of somebody's own disk, which nobody else can repeat")
    if len(devices) > 1:
        raise UserError(f"runs on {' and '.join(sorted(devices))}: submit those of one device")
    device = next(iter(devices), Selection.device)
    return expand(suite, registry, Selection([*dict.fromkeys([*methods, *WITNESSES])], device=device))


def public(outcome: Outcome) -> Outcome:
    """The outcome without what reveals the submitter's disk: its traceback, and the folders in paths."""
    changes: dict[str, object] = {"traceback": None, "reason": outcome.reason and without_paths(outcome.reason)}
    if isinstance(outcome, Record):
        changes["notes"] = [without_paths(note) for note in outcome.notes]
    return msgspec.structs.replace(outcome, **changes)


def environment_fault(outcome: Outcome) -> str:
    """Why an outcome's environment is not one that kdbench records; "" if it is."""
    try:
        msgspec.convert(outcome.environment, Environment)
    except msgspec.ValidationError as error:
        return str(error)
    return ""


def _records(store: Store) -> list[Record]:
    records, problems = store.read()
    if problems:
        raise UserError(f"{problems[0].path}: {problems[0].reason}; `kdbench fsck` tells what is damaged, and the same "
                        "`kdbench run` makes it again")
    if not records:
        raise store.no_records()
    return records


def _suite_of(folder: Path, records: Iterable[Record], methods: Collection[str], given: str | None) -> str:
    """The suite of the methods' runs: `given`, or else the name of a built-in suite. Raises UserError if none is given
    and the runs are of several suites or of one that does not come with kdbench."""
    if given is not None:
        return given
    suites = sorted({one.suite for one in records if one.spec.method in methods and one.role == "student"})
    if len(suites) > 1:
        raise UserError(f"{folder}: these runs are of several suites: {', '.join(suites)}; name one with --suite")
    if suites and suites[0] not in built_in_suites():
        raise UserError(f"{folder}: its suite {suites[0]!r} does not come with kdbench: name its file with --suite")
    return suites[0] if suites else next(iter(records)).suite


def _files_of(store: Store, record: Record, suite: str, with_students: bool) -> Iterator[tuple[str, bytes | Path]]:
    """The members of a run by name: its record, its entry in the plan and, if it finished, its predictions and, as
    asked for, a student's weights. They name `suite`, since a teacher or a witness may have been trained for another.
    Raises UserError if a file is missing or damaged."""
    run, shown = record.run_id, msgspec.structs.replace(public(record), suite=suite)
    yield f"records/{run}.json", record.to_json() if shown == record else shown.to_json()
    yield f"plan/{run}.json", Planned(suite=suite, role=record.role, spec=record.spec).to_json()
    if record.status != "ok":
        return
    files = [("predictions", store.files.predictions(run), record.predictions_sha256)]
    if with_students and record.role == "student":
        files.append(("students", store.files.student(run), record.weights_sha256))
    for kind, path, sha256 in files:
        if not path.is_file() or file_sha256(path) != sha256:
            raise UserError(f"{path}: {'damaged' if path.exists() else 'missing'}; the same `kdbench run` makes it "
                            "again")
        yield f"{kind}/{path.name}", path


def _profiles(store: Store, own: Iterable[Record]) -> Iterator[tuple[str, bytes]]:
    """The members with the profiles of these runs, by name, as far as there are any."""
    for record in own:
        found = read_profile(store, record.run_id)
        if isinstance(found, Profile):
            shown = msgspec.structs.replace(public(found), suite=record.suite)
            yield f"profile/{record.run_id}.json", shown.to_json()


def _plugin_name(info: MethodInfo) -> str | None:
    """The name that a method's plugin file has in a submission; None for a method of an installed package."""
    if info.module is not None:
        return None
    return info.file.name if re.fullmatch(r"[A-Za-z0-9_]{1,100}\.py", info.file.name) else f"{info.name}.py"


def _requirement(infos: Sequence[MethodInfo]) -> str | None:
    """The installed package with the methods, as NAME==VERSION; None without methods. Raises UserError if they come
    from several packages, or with kdbench."""
    found: dict[str, str] = {}
    for info in infos:
        package = distribution(info)
        if package is None:
            raise UserError(f"{info.name} comes with kdbench: only a method of your own can be submitted")
        found[info.name] = f"{package.name}=={package.version}"
    if len(set(found.values())) > 1:
        raise UserError(f"methods of several packages ({', '.join(sorted(set(found.values())))}): submit those of one")
    return next(iter(found.values()), None)


def distribution(info: MethodInfo) -> importlib.metadata.Distribution | None:
    """The installed package with the method; None if it comes with kdbench or from a plugin file."""
    return next((one.dist for one in importlib.metadata.entry_points(group=ENTRY_POINTS)
                 if (one.module, one.attr) == (info.module, info.class_name)), None)


def _sha256(content: bytes | Path) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_sha256(content)


def read_manifest(content: bytes) -> Manifest:
    """The manifest in the content of submission.json. Raises ValueError, with a message of one line, if it is not of
    this format."""
    try:
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from error

