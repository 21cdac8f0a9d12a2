"""Checks a submission without running any code of it: structure, digests, suite, metrics, versions, witnesses."""

import hashlib
import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from packaging.utils import canonicalize_name
from scipy.stats import t as student_t

from kdbench.disk import file_sha256
from kdbench.errors import UserError, nearest, plain
from kdbench.finished.verify import environment_changes
from kdbench.metrics.answers import Answers, answers, read_answers
from kdbench.metrics.catalog import METRICS, score, vectors
from kdbench.plugins.registry import Registry
from kdbench.plugins.source import Hyperparameter, MethodInfo, read_source
from kdbench.profile.record import Profile
from kdbench.results.lock import disagreements, read_lock
from kdbench.results.predictions import Predictions
from kdbench.results.record import Planned, Problem, Record, read
from kdbench.results.repeated import differing
from kdbench.results.store import Store
from kdbench.results.submitted import Submitted, read_submitted
from kdbench.spec import RunSpec, TrainedTeacher, teacher_runs
from kdbench.submissions.package import (
    LICENCES,
    WITNESSES,
    Manifest,
    SubmittedMethod,
    SuiteText,
    distribution,
    environment_fault,
    expansion,
    public,
    read_manifest,
)
from kdbench.submissions.zipped import LOCK, MANIFEST, REQUIREMENT, Refusal, unpack
from kdbench.suites.plan import Plan
from kdbench.suites.suite import built_in_suites, load_suite

IMAGES = ("dataset_digest", "classes", "split_sizes")  # they identify a run's images; empty if it failed or is older
CLOSE = 1e-6      # relative or absolute difference allowed to a metric, as versions of NumPy differ
CONFIDENCE = .99  # of the interval within which results of another machine count as the same
REPACK = "pack it anew with `kdbench submit` from the folder that `kdbench run` wrote"


class Finding(NamedTuple):
    """A fault or a fact of a submission that a maintainer should know, and what its submitter can do about it."""

    refused: bool
    kind: str
    why: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{'refused' if self.refused else 'note':<7}  {self.kind}: {plain(self.why)}" + (
            f"; {self.remedy}" if self.remedy else "")


def refused(kind: str, why: str, remedy: str = REPACK) -> Finding:
    return Finding(True, kind, why, remedy)


@dataclass
class Checked:
    """A submission that was unpacked into a folder, with what was read from it and what was found."""

    file: Path
    folder: Path
    sha256: str
    findings: list[Finding] = field(default_factory=list)
    manifest: Manifest | None = None  # None if it cannot be read
    own: list[Record] = field(default_factory=list)        # the submitted runs that could be read
    others: list[Record] = field(default_factory=list)     # runs of witnesses and teachers
    profiles: list[Profile] = field(default_factory=list)  # of the submitted runs
    infos: dict[str, MethodInfo] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        return any(one.refused for one in self.findings)

    @property
    def store(self) -> Store:
        return Store(self.folder)


def check(file: Path, against: Path | None, folder: Path) -> Checked:
    """Unpack a submission into `folder`, which is empty, and check it; with the folder of reference results `against`,
    also against these. Faults of the submission are findings. Raises UserError if there is no such file, or if the
    reference has no records."""
    reference = {} if against is None else _reference(against)
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    done = Checked(file, folder, file_sha256(file))
    try:
        names = unpack(file, folder)
        done.manifest = read_manifest((folder / MANIFEST).read_bytes())
    except Refusal as refusal:
        done.findings.append(refused(refusal.kind, refusal.why, refusal.remedy))
        return done
    except ValueError as error:
        done.findings.append(refused("manifest", f"{MANIFEST}: {error}"))
        return done
    done.findings += _digests(folder, names, done.manifest)
    done.findings += _said(done.manifest)
    done.findings += _read_records(done)
    done.findings += _read_profiles(done)
    done.findings += _methods(done, reference, _submitted(against))
    done.findings += _facts(done)
    done.findings += _lock(done)
    plan = _plan(done)
    if plan is not None:
        done.findings += _runs(done, plan, reference if against else None)
    done.findings += _metrics(done, Store(against) if against else None)
    if plan is not None:
        done.findings += _witnesses(done, plan, reference if against else None)
    done.findings = list(dict.fromkeys(done.findings))
    return done


def _reference(folder: Path) -> dict[str, Record]:
    records, _ = Store(folder).read()
    if not records:
        raise Store(folder).no_records()
    return {record.run_id: record for record in records}


def _submitted(folder: Path | None) -> Collection[str]:
    """The ids of the reference's runs that somebody submitted; none without a reference."""
    note = read_submitted(Store(folder))[0] if folder is not None else None
    return note.marks() if isinstance(note, Submitted) else ()


# What stands in the file.

def _digests(folder: Path, names: Sequence[str], manifest: Manifest) -> Iterator[Finding]:
    for name in sorted({*names, *manifest.files} - {MANIFEST}):
        if name not in manifest.files:
            yield refused("unknown member", f"{name} is not listed in {MANIFEST}")
        elif name not in names:
            yield refused("missing member", f"{name} is listed in {MANIFEST} and not there")
        elif file_sha256(folder / name) != manifest.files[name]:
            what = "changed record" if name.startswith("records/") else "changed file"
            yield refused(what, f"{name}: its SHA-256 is not the one in {MANIFEST}")


def _said(manifest: Manifest) -> Iterator[Finding]:
    if manifest.licence not in LICENCES:
        yield refused("licence", f"{manifest.licence!r} is no SPDX identifier that is known here"
                      + nearest(manifest.licence, LICENCES), "give one with --license")
    if manifest.url is not None and not manifest.url.startswith(("https://", "http://")):
        yield refused("manifest", f"url: expected an address that begins with https:// or http://, got "
                                  f"{manifest.url!r}", "give another with --url")


def _read_records(done: Checked) -> Iterator[Finding]:
    """Read the records into `done`. Yields findings on records that cannot be used and on files without a record."""
    assert done.manifest is not None
    store, names, known = done.store, set(done.manifest.names), set[str]()
    for found in store.scan():
        known.add(found.path.stem if isinstance(found, Problem) else found.run_id)
        if isinstance(found, Problem):
            yield refused("changed record", f"records/{found.path.name}: {found.reason}")
            continue
        where = f"records/{found.run_id}.json"
        if found.role == "trial" or found.suite != done.manifest.suite.name:
            yield refused("other run", f"{where}: a {found.role} of the suite {found.suite}, expected students and "
                                       f"teachers of {done.manifest.suite.name}")
            continue
        if fault := environment_fault(found):
            yield refused("changed record", f"{where}: environment: {fault}")
            continue
        if public(found) != found:
            yield refused("private", f"{where}: it tells of the submitter's disk (a traceback, or a path)")
        mine = found.role == "student" and found.spec.method in names
        (done.own if mine else done.others).append(found)
    for name in done.manifest.files:
        kind, _, rest = name.partition("/")
        if kind in ("predictions", "students", "plan") and rest.partition(".")[0] not in known:
            yield refused("other run", f"{name}: no record tells of it")


def _read_profiles(done: Checked) -> Iterator[Finding]:
    """Read the profiles into `done`. Yields findings on profiles and on entries of the plan that cannot be used."""
    files, runs = done.store.files, {one.run_id: one for one in done.own}
    for path in sorted(files.plans.glob("*.json")):
        planned = read(Planned, str(path))[0]
        if isinstance(planned, Problem):
            yield refused("changed record", f"plan/{path.name}: {planned.reason}")
    for path in sorted(files.profiles.glob("*.json")):
        found = read(Profile, str(path))[0]
        if isinstance(found, Problem):
            yield refused("changed record", f"profile/{path.name}: {found.reason}")
            continue
        run = runs.get(found.run_id)
        if run is None or (found.suite, found.spec) != (run.suite, run.spec) or public(found) != found or \
                environment_fault(found):
            yield refused("other run", f"profile/{path.name}: no profile of a submitted run as kdbench writes it, or "
                                       "one that tells of the submitter's disk")
        else:
            done.profiles.append(found)


def _methods(done: Checked, reference: Mapping[str, Record], submitted: Collection[str]) -> Iterator[Finding]:
    """Read the methods' sources into `done`, without running them. Yields findings on sources that are faulty or
    changed, and on names that other methods have. `submitted` are the ids of the reference's runs that somebody
    submitted."""
    assert done.manifest is not None
    builtin = Registry()
    plugins = {one.plugin for one in done.manifest.methods if one.plugin}
    for name in done.manifest.files:
        if name.startswith("plugin/") and name.removeprefix("plugin/") not in plugins:
            yield refused("other file", f"{name}: no submitted method is said to be in it")
    for method in done.manifest.methods:
        info = _info(done, method, builtin)
        if isinstance(info, str):
            yield refused("plugin", info)
            continue
        done.infos[method.name] = info
        other = builtin.get(method.name)
        if other is not None and (other.digest != method.digest or distribution(other) is None):
            yield refused("taken name", f"a method that comes with kdbench, or is installed here, is named "
                          f"{method.name!r}", "give it another name and run it again")
        theirs = {one.method_digest for one in reference.values() if one.spec.method == method.name}
        if theirs - {method.digest}:
            yield refused("taken name", f"the reference has other runs of a method {method.name!r} (source "
                          f"{min(theirs - {method.digest})[:12]}, submitted {method.digest[:12]})",
                          "give it another name and run it again")
        ours = {one.run_id for one in done.own if one.spec.method == method.name} & reference.keys()
        if ours - set(submitted):
            yield refused("taken name", f"the reference has runs of {method.name!r} that nobody submitted, such as "
                          f"{min(ours - set(submitted))}", "submit a method of your own")
        if method.plugin is not None and done.infos[method.name].digest != method.digest:
            yield refused("changed file", f"plugin/{method.plugin}: its SHA-256 is not the one in {MANIFEST}")
        stale = [one.run_id for one in (*done.own, *done.profiles)
                 if one.spec.method == method.name and one.method_digest != method.digest]
        if stale:
            yield refused("other source", f"{len(stale)} runs or profiles of {method.name} were made by another "
                          f"version of its source, such as {stale[0]}", "train them again: kdbench run --retry stale")


def _facts(done: Checked) -> Iterator[Finding]:
    """Findings on records and profiles that contradict the method's source, if kdbench or the submission has that
    source."""
    infos = Registry() | done.infos
    for one in (*done.own, *done.others, *done.profiles):
        info = infos.get(one.spec.method)
        if info is not None and info.digest == one.method_digest and (
                one.family not in (None, info.family) or one.facts not in (None, info.facts)):
            yield refused("other source", f"run {one.run_id}: it says else of {one.spec.method} than the method's "
                                          "source does")


def _info(done: Checked, method: SubmittedMethod, builtin: Mapping[str, MethodInfo]) -> MethodInfo | str:
    """The facts of a submitted method, or the reason why nothing is known of it."""
    assert done.manifest is not None
    if method.plugin:
        found = _source(done.folder / "plugin" / method.plugin, method.name)
        return f"plugin/{method.plugin}: {found}" if isinstance(found, str) else found
    if done.manifest.requirement is None:
        return f"neither a plugin file nor a package that brings {method.name}"
    installed = builtin.get(method.name)
    if installed is not None and installed.digest == method.digest:
        return installed
    return _told(done.own, method.name) or f"no record tells what {method.name} is"


def _source(file: Path, name: str) -> MethodInfo | str:
    """The facts of a method from its source file, which is not run, or the reason why they cannot be read."""
    try:
        found = [info for info in read_source(file, None) if info.name == name]
        return found[0] if len(found) == 1 else f"it has {len(found)} methods named {name!r}, expected one"
    except UserError as error:
        return str(error).replace(str(file), file.name)
    except (OSError, ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        return f"it cannot be read: {type(error).__name__}"


def _told(own: Iterable[Record], name: str) -> MethodInfo | None:
    """The facts of a method whose source is not here, from the first record that has them; None if no record has."""
    record = next((one for one in own if one.spec.method == name and one.facts is not None), None)
    if record is None or record.facts is None:
        return None
    trained = record.spec.self_teacher  # an assistant has a teacher, a copy of the student has none
    learns = "teacher" if trained is None else "assistant" if trained.run.teacher is not None else "student"
    return MethodInfo(
        name=name, family=record.family or "", paper=record.facts.paper, doc=record.facts.idea, learns_from=learns,
        needs_data=True, conditions=record.facts.conditions,
        hyperparameters={key: Hyperparameter(key, type(value).__name__, value)
                         for key, value in record.facts.defaults.items()},
        class_name="", module=None, file=Path(), digest=record.method_digest)


def _lock(done: Checked) -> Iterator[Finding]:
    """Findings if the required package is not the one in the manifest, or if the locked versions are not those in the
    records."""
    assert done.manifest is not None
    wanted, file = done.manifest.requirement, done.folder / REQUIREMENT
    if (file.read_bytes() if file.is_file() else None) != (f"{wanted}\n".encode() if wanted else None):
        yield refused("wrong requirement", f"{REQUIREMENT} is not the line of {MANIFEST}, {wanted!r}")
    try:
        versions = read_lock((done.folder / LOCK).read_text(encoding="utf-8"))
    except ValueError as error:
        yield refused("wrong lock", f"{LOCK}: {error}")
        return
    if wanted:
        name, _, number = wanted.partition("==")
        if versions.get(canonicalize_name(name)) != number:
            yield refused("wrong lock", f"{LOCK} does not have {wanted}")
    for told in sorted({"; ".join(disagreements(versions, record.environment["versions"])) for record in done.own}
                       - {""}):
        yield refused("wrong lock", f"{LOCK} has other versions than records were made with (recorded, locked): "
                      f"{told}", "pack it in the environment that made the runs, or run all of them again in this one")


# The suite and its runs.

def _plan(done: Checked) -> Plan | None:
    """The plan of the suite's text for the submitted methods and the witnesses. None, with a finding in `done`, if the
    text was changed or cannot be expanded to a plan: what runs of another text lack would only repeat that."""
    assert done.manifest is not None
    said, registry = done.manifest.suite, Registry()
    changed = list(_other_text(said))
    done.findings += changed
    for info in done.infos.values():
        registry[info.name] = info
    file = done.folder / "suite" / f"{said.name}.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(said.text, encoding="utf-8")
    try:
        plan = expansion(load_suite(str(file)), registry, list(done.infos), {one.spec.device for one in done.own})
    except UserError as error:
        why = str(error).replace(str(file), f"{said.name}.toml")
        done.findings.append(refused("other suite", f"the suite's runs cannot be told from its text: {why}"))
    return None if changed else plan


def _other_text(said: SuiteText) -> Iterator[Finding]:
    """A finding if a suite's text is not the one with its SHA-256, or not that of the suite of that name here."""
    own = built_in_suites().get(said.name)
    if hashlib.sha256(said.text.encode()).hexdigest() != said.sha256:
        yield refused("other suite", f"the text of {said.name} is not the one with its SHA-256")
    elif own is not None and said.text.encode() != own.read_bytes():
        yield refused(
            "other suite", f"the text of {said.name} is another one than that of kdbench here (SHA-256 "
            f"{said.sha256[:12]}, here {file_sha256(own)[:12]})",
            "run the suite as it comes with the reference's kdbench")


def _runs(done: Checked, plan: Plan, reference: Mapping[str, Record] | None) -> Iterator[Finding]:
    """Findings if the submitted runs are not those of the suite, or if the suite is not the reference's."""
    assert done.manifest is not None
    asked = {(spec.cell, spec.method): spec for spec in reversed(plan.students)}  # of several settings the usual one
    seeds = {spec.seed for spec in plan.students}
    rows: dict[tuple[str, str, str], list[RunSpec]] = defaultdict(list)
    for record in done.own:
        spec, where = record.spec, f"records/{record.run_id}.json"
        wanted = asked.get((spec.cell, spec.method))
        if wanted is None:
            yield refused("other suite", f"{where}: {spec.pair} on {spec.dataset} with that recipe is no cell of "
                          f"the suite {done.manifest.suite.name}", "run the suite as it is")
            continue
        # The pair's name is a label, which is no part of the cell.
        if (spec.pair, spec.updates, spec.self_teacher) != (wanted.pair, wanted.updates, wanted.self_teacher):
            yield refused("other suite", f"{where}: another name of the pair, another budget of updates, or another "
                          "copy of the student to learn from, than the suite gives the method",
                          "run the suite as it is")
        if spec.seed not in seeds:
            yield refused("extra seeds", f"{where}: seed {spec.seed} is none of the suite's "
                          f"({', '.join(map(str, sorted(seeds)))})", "submit the suite's seeds alone")
        changed = {name: value for name, value in spec.hyperparameters.items()
                   if wanted.hyperparameters.get(name) != value}
        own = {f"recipe.{name}": value for name, value in spec.own_recipe.given().items()} if spec.own_recipe else {}
        settings = ", ".join(f"{name}={value}" for name, value in sorted((changed | own).items()))
        try:
            done.infos[spec.method].resolve(spec.hyperparameters)
        except UserError as error:
            yield refused("hyperparameters", f"{where}: {error}", "run it with values that the method allows")
        rows[spec.cell, spec.method, settings].append(spec)
    for (_, method, settings), specs in sorted(rows.items()):
        place = f"{method} on {specs[0].pair}, {specs[0].dataset}{f' ({settings})' if settings else ''}"
        if missing := sorted(seeds - {spec.seed for spec in specs}):
            yield refused("missing seeds", f"{place}: seed{'s' * (len(missing) > 1)} "
                          f"{', '.join(map(str, missing))} of the suite's {len(seeds)}", "run all seeds of the suite; "
                          "runs that fail are submitted too")
        if settings:
            yield Finding(False, "settings", f"{place}: not at the suite's values")
    for name in done.infos:
        failed = [one for one in done.own if one.spec.method == name and one.status != "ok"]
        if failed:
            yield Finding(False, "failed runs", f"{len(failed)} runs of {name} without a result, such as "
                          f"{failed[0].run_id}: {failed[0].reason}")
    if not done.own:
        yield refused("missing records", "no usable record of a submitted method")
    if reference is not None:
        yield from _same_suite(done, plan, reference)


def _same_suite(done: Checked, plan: Plan, reference: Mapping[str, Record]) -> Iterator[Finding]:
    """Findings unless the reference has exactly the witnesses' runs that the suite's text asks for in the submitted
    cells, on the same images. Ids of runs are hashes of all that can change a result."""
    cells = {one.spec.cell for one in done.own}
    asked = {spec.id: spec for spec in plan.students if spec.method in WITNESSES and spec.cell in cells}
    there = {run for run, one in reference.items() if one.role == "student" and one.spec.method in WITNESSES
             and one.spec.cell in cells}
    known = {(spec.cell, spec.method) for spec in asked.values() if spec.id in there}
    for spec in asked.values():
        if spec.id not in there:
            yield refused("other suite", f"the reference has no run of {spec.method}, seed {spec.seed}, on "
                          f"{spec.pair}, {spec.dataset} by this suite's text (run {spec.id})",
                          "run the suite that the reference was made by")
    for run in sorted(there - asked.keys()):
        spec = reference[run].spec
        defaults = next((one.hyperparameters for one in asked.values()
                         if (one.cell, one.method) == (spec.cell, spec.method)), {})
        if (spec.cell, spec.method) in known and spec.hyperparameters == defaults and spec.own_recipe is None:
            yield refused("other suite", f"the reference has {spec.method} with seed {spec.seed} on {spec.pair}, "
                          f"{spec.dataset}, which this suite's text does not ask for",
                          "run the suite that the reference was made by")
    witnesses = [one for run, one in sorted(reference.items()) if run in asked]
    if names := {one.suite for one in witnesses} - {plan.suite}:
        yield refused("other suite", f"the reference's suite is called {min(names)!r}, not {plan.suite!r}",
                      "run the suite that the reference was made by")
    seen = {(one.spec.cell, name): getattr(one, name) for one in witnesses for name in IMAGES if getattr(one, name)}
    for record in done.own:
        other = [name for name in IMAGES if (found := getattr(record, name))
                 and found != seen.get((record.spec.cell, name), found)]
        if other:
            yield refused("other images", f"records/{record.run_id}.json: {' and '.join(other)} are not the "
                          "reference's", "let kdbench fetch the published dataset")


# Metrics.

def _metrics(done: Checked, reference: Store | None) -> Iterator[Finding]:
    """Findings on metrics that do not follow from the saved predictions, and on labels that are not those of the
    reference."""
    store, labels = done.store, dict[str, tuple[str, list[np.ndarray]]]()  # by cell: source of the labels, labels
    digests = {one.run_id: one.predictions_sha256 for one in done.others}
    for record in (*done.others, *done.own):
        if record.status != "ok":
            continue
        where, spec = f"records/{record.run_id}.json", record.spec
        if record.predictions_sha256 is None or record.weights_sha256 is None:
            yield refused("missing predictions", f"{where}: it names no predictions or no weights")
            continue
        try:
            found = store.read_predictions(record.run_id, record.predictions_sha256)
            teacher, wanted = None, spec.teacher
            if isinstance(wanted, TrainedTeacher):
                teacher = store.read_predictions(wanted.run.id, digests.get(wanted.run.id))
            computed = score(found, teacher)
        except UserError as error:
            yield refused("missing predictions", f"{where}: {str(error).replace(f'{done.folder}/', '')}")
            continue
        wrong = [f"{name} {record.metrics[name]:.6g}, by its predictions {value:.6g}"
                 for name, value in computed.items()
                 if name in record.metrics and not _alike([record.metrics[name]], [value])]
        wrong += [f"{name} is not there" for name in ("test_accuracy",) if name not in record.metrics]
        wrong += [f"{name} {record.metrics[name]:.6g}, which no predictions give" for name in sorted(record.metrics)
                  if teacher is not None and name in METRICS and METRICS[name].compute and name not in computed]
        wrong += [f"{name}, by its predictions others" for name, values in vectors(found).items()
                  if name in record.vectors and not _alike(record.vectors[name], values)]
        if record.answers is not None and _as_read(record.answers) != _as_read(answers(found)):
            wrong.append("answers, by its predictions others")
        if wrong:
            yield refused("forged metric", f"{where} ({spec.method}, seed {spec.seed}): {'; '.join(wrong)}",
                          "only metrics that follow from the saved predictions can be submitted: kdbench evaluate "
                          "computes them")
        if record.role == "student":
            if spec.cell not in labels:
                theirs = _of_reference(reference, done, spec.cell)
                labels[spec.cell] = ("the reference", _labels(theirs)) if theirs else (where, _labels(found))
            whose, expected = labels[spec.cell]
            if not all(map(np.array_equal, expected, _labels(found))):
                yield refused("other images", f"{where}: the labels of its images are others than those of {whose}",
                              "let kdbench fetch the published dataset")


def _of_reference(reference: Store | None, done: Checked, cell: str) -> Predictions | None:
    """The predictions of a witness of the cell in the reference's folder, whose labels are those of the images; None if
    it has none."""
    if reference is None:
        return None
    for record in done.others:
        if record.spec.cell == cell and record.role == "student":
            own = reference.get(record.run_id)
            if isinstance(own, Record) and reference.files.predictions(record.run_id).is_file():
                return reference.read_predictions(record.run_id, own.predictions_sha256)
    return None


def _as_read(found: Answers) -> list[list[Any]] | None:
    """The content of answers as lists, apart from its compression, in which versions of zlib differ; None if it is
    damaged."""
    try:
        return [part.tolist() for part in vars(read_answers(found)).values()]
    except ValueError:
        return None


def _labels(found: Predictions) -> list[np.ndarray]:
    return [found["test_labels"], found["validation_labels"]]


def _alike(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(
        one == other or (None not in (one, other) and math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE))
        for one, other in zip(first, second, strict=True))


# Witnesses.

def _witnesses(done: Checked, plan: Plan, reference: Mapping[str, Record] | None) -> Iterator[Finding]:
    """Findings on how the submitter's machine reproduces the reference's results: it must give the same bits or, on
    another machine or with other versions, accuracies that other seeds might give too. Also on missing witnesses and
    teachers."""
    there = {one.run_id: one for one in done.others}
    cells = {one.spec.cell for one in done.own}
    asked = [spec for spec in plan.students if spec.method in WITNESSES and spec.cell in cells]
    needed = {run.id for spec in (*asked, *(one.spec for one in done.own)) for run in teacher_runs(spec)}
    for run in sorted({spec.id for spec in asked} | needed):
        if run not in there or there[run].status != "ok":
            spec = next((one for one in asked if one.id == run), None)
            what = f"{spec.method}, seed {spec.seed}, on {spec.pair}, {spec.dataset}" if spec else "a teacher"
            yield refused("missing witness", f"no finished run {run} ({what}), which shows how far this machine "
                          "gives the reference's results",
                          f"run {' and '.join(WITNESSES)} of the suite into the same folder")
    for run in sorted(there.keys() - {spec.id for spec in asked} - needed):
        yield refused("other run", f"records/{run}.json: a run of no submitted method and of no witness")
    if reference is None:
        return
    elsewhere: dict[tuple[str, str], list[tuple[Record, Record]]] = defaultdict(list)
    equal = 0
    for spec in asked:
        ours, theirs = reference.get(spec.id), there.get(spec.id)
        if ours is None or theirs is None or ours.status != "ok" or theirs.status != "ok":
            continue
        if any("test_accuracy" not in one.metrics for one in (ours, theirs)):  # `_metrics` refuses it
            continue
        elsewhere[spec.cell, spec.method].append((ours, theirs))
        if not (parts := differing(ours, theirs)):
            equal += 1
        elif not environment_changes(ours, theirs):
            yield refused("witness", f"run {spec.id} ({spec.method}, seed {spec.seed}): {', '.join(parts)} are not "
                                     "the reference's, though machine and versions are the same",
                          "run it again: something changed it")
    if equal and equal == sum(map(len, elsewhere.values())):
        yield Finding(False, "witnesses", f"{equal} runs of {' and '.join(WITNESSES)} are bit-equal to the reference's")
        return
    for (cell, method), pairs in elsewhere.items():
        if any(differing(*pair) for pair in pairs):
            sides = [[one.metrics["test_accuracy"] for one in side]
                     for (own, _), some in elsewhere.items() if own == cell for side in zip(*some, strict=True)]
            yield _made_elsewhere(method, pairs, sides)


def _made_elsewhere(method: str, pairs: Sequence[tuple[Record, Record]], sides: list[list[float]]) -> Finding:
    """The finding on a witness's mean test accuracy over seeds, by the t interval of its difference from the
    reference's.

    `pairs` are the reference's and the submitted records, seed by seed. The spread between seeds is that of all
    witnesses of the cell: `sides` holds the accuracies over seeds, one list for each witness of the reference and one
    for each submitted. A difference of one image is always allowed.
    """
    ours, theirs = ([one.metrics["test_accuracy"] for one in side] for side in zip(*pairs, strict=True))
    change, count, spec = statistics.fmean(theirs) - statistics.fmean(ours), len(pairs), pairs[0][0].spec
    why = ", ".join(dict.fromkeys(one for pair in pairs for one in environment_changes(*pair))) or "nothing known"
    told = (f"{method} on {spec.pair}, {spec.dataset} has other bits than the reference's (other: {why}); test "
            f"accuracy {statistics.fmean(theirs):.2%}, the reference's {statistics.fmean(ours):.2%}")
    if count < 2:
        return Finding(False, "made elsewhere", f"{told}: one seed says nothing of noise")
    degrees = sum(len(side) - 1 for side in sides)
    spread = math.sqrt(sum(statistics.variance(side) * (len(side) - 1) for side in sides if len(side) > 1) / degrees)
    images = pairs[0][0].split_sizes.get("test", 0)
    width = float(student_t.ppf((1 + CONFIDENCE) / 2, degrees)) * spread * math.sqrt(2 / count) + (
        1 / images if images else 0.0)
    if abs(change) <= width:
        return Finding(False, "made elsewhere", f"{told}: within what {count} other seeds might give, ± {width:.2%}")
    return refused("made elsewhere", f"{told}: beyond what {count} other seeds might give, ± {width:.2%}",
                   "install the versions of the reference and run the suite again")
