"""Makes int8 and pruned networks of finished students and measures each beside the float student, by onnxruntime."""

import copy
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.compress.network import (
    COMPARED,
    OnnxNetwork,
    Slopes,
    calibration_images,
    open_session,
    write_float,
    write_int8,
)
from kdbench.compress.prune import prune, recover
from kdbench.compress.record import (
    FLOAT_AGREEMENT,
    INT8,
    PRUNED,
    Compressed,
    CompressTask,
    Kind,
    Settings,
    compressed_id,
    read_compressed,
    write_compressed,
)
from kdbench.compress.use import measure_use
from kdbench.data.base import Dataset
from kdbench.data.stream import Normalise
from kdbench.disk import atomic_write, file_sha256
from kdbench.environment import now, version
from kdbench.errors import UserError, unknown
from kdbench.finished.export import LogitsOnly
from kdbench.finished.reload import dataset_of, reload, weights_store
from kdbench.folders import CacheFolder
from kdbench.method import is_text
from kdbench.metrics.catalog import score, vectors
from kdbench.metrics.groups import group_names
from kdbench.metrics.predictions import agreement
from kdbench.networks import count_parameters, freeze
from kdbench.plugins.source import MethodInfo
from kdbench.profile.bench import Bench
from kdbench.profile.energy import CpuTime, Meter, find_meter
from kdbench.results.predictions import Predictions
from kdbench.results.record import Record, Status
from kdbench.results.store import Store
from kdbench.robustness.measure import measure
from kdbench.train.process import make_deterministic
from kdbench.train.scoring import predictions_of
from kdbench.train.trainer import DivergedError

# The packages that compressing needs, by the module that each provides.
PACKAGES = {"onnx": "onnx", "onnxruntime": "onnxruntime", "onnxscript": "onnxscript", "torch_pruning": "torch-pruning"}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Done:
    """How many networks were made, how many existed already, and what could not be compressed, each with its reason."""

    made: int
    before: int
    problems: tuple[str, ...]


def need_packages() -> None:
    if any(importlib.util.find_spec(module) is None for module in PACKAGES):
        raise UserError("what compresses networks is not installed: pip install 'kdbench[compress]'")


def compress(folder: Path, runs: Collection[str], methods: Collection[str] | None, settings: Settings,
             registry: Mapping[str, MethodInfo], cache: CacheFolder, say: Say) -> Done:
    """Make, measure and record compressed networks of the finished students of a folder: of those that `runs` names (by
    the beginning of an id or METHOD:SEED), or else of those of `methods`, or else of all. Networks that exist already,
    made of the same weights with the same settings, are kept. `say` gets a line on each network. UserError, and nothing
    is made, for an unknown run or method, for a run that is not a finished student, and if no student is finished."""
    need_packages()
    store = Store(folder)
    if not store.files.records.is_dir():
        raise store.no_records()
    made, before = 0, 0
    problems: list[str] = []
    make_deterministic("cpu")
    with store.lock():
        for record in _chosen(store, list(runs), methods, problems):
            kinds = settings.kinds()
            if all(_is_there(store, record, settings, kind) for kind in kinds):
                before += len(kinds)
                continue
            try:
                with tempfile.TemporaryDirectory(prefix="kdbench-compress-") as temporary:
                    for one, path in _compressed(record, store, settings, registry[record.spec.method], cache,
                                                 Path(temporary)):
                        if one.status == "ok":
                            atomic_write(store.files.compressed_network(one.run_id), path.read_bytes())
                            made += 1
                        write_compressed(store, one)
                        say(told(one))
            except UserError as error:
                problems.append(f"run {record.run_id}: {error}")
    return Done(made, before, tuple(problems))


def _chosen(store: Store, runs: list[str], methods: Collection[str] | None, problems: list[str]) -> list[Record]:
    """The finished students to compress: those of `runs`, or else of `methods`, or else all. Damaged records are added
    to `problems`. UserError for an unknown run or method, for a run that is not a finished student, and if no student
    is finished."""
    if runs:
        return [_student(store.find(run)) for run in runs]
    records, damaged = store.read()
    problems += [f"{problem.path}: {problem.reason}" for problem in damaged]
    students = [record for record in records if record.role == "student"]
    known = {record.spec.method for record in students}
    for name in methods or ():
        if name not in known:
            raise unknown(f"method of {store.folder}", name, known)
    finished = [record for record in students if record.status == "ok" and (not methods or
                                                                            record.spec.method in methods)]
    if not finished:
        raise UserError(f"{store.folder}: no finished student here" + (f" of {', '.join(methods)}" if methods else ""))
    return finished


def _student(record: Record) -> Record:
    if record.role != "student" or record.status != "ok":
        what = f"is a {record.role}" if record.role != "student" else f"has the status {record.status!r}"
        raise UserError(f"run {record.run_id} {what}; only finished students can be compressed")
    return record


def _is_there(store: Store, record: Record, settings: Settings, kind: Kind) -> bool:
    """Whether this network was already made of the student's present weights and its file is intact, or was recorded as
    failed."""
    name = compressed_id(record.spec, settings.of(kind, record.spec))
    one = read_compressed(store, name)
    if not isinstance(one, Compressed) or one.source_sha256 != record.weights_sha256:
        return False
    path = store.files.compressed_network(name)
    return one.status != "ok" or (path.is_file() and file_sha256(path) == one.network_sha256)


# One student.

@dataclass
class _Made:
    """A network of a student, while it is made and measured."""

    task: CompressTask
    path: Path                          # of the ONNX file
    slopes: nn.Module | None = None     # float network of torch whose gradients attacks follow; None: not made
    status: Status = "ok"
    reason: str | None = None           # why it could not be made
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """Which of a student's networks it is."""
        return self.task.fields["kind"]


def _compressed(record: Record, store: Store, settings: Settings, info: MethodInfo, cache: CacheFolder,
                folder: Path) -> Iterator[tuple[Compressed, Path]]:
    """The records of all networks of a student, each with the path of its ONNX file in the temporary `folder`.
    UserError if the student or its dataset cannot be loaded, or if the dataset holds texts."""
    begin, started, load = time.perf_counter(), now(), os.getloadavg()[0]
    dataset = dataset_of(record, cache, "cpu")
    if is_text(dataset.image_shape):
        raise UserError(f"{record.spec.dataset} holds texts, and what is compressed are networks for images")
    network = LogitsOnly(reload(record, weights_store(record, store, cache), info, dataset))
    made = [_Made(CompressTask(record.spec, info, record.suite, settings.of(kind, record.spec)),
                  folder / f"{kind.replace(' ', '-')}.onnx") for kind in settings.kinds()]
    by_kind = {one.kind: one for one in made}
    images, predictions = calibration_images(dataset), dict[Kind, Predictions]()
    for kind, one in by_kind.items():
        try:
            one.slopes = _make(one, by_kind, network, images, dataset, record)
            predictions[kind] = _score(one, dataset, record, cache)
        except (UserError, DivergedError) as error:
            one.status = "inapplicable" if isinstance(error, UserError) else "diverged"
            one.reason, one.slopes = str(error), None  # so that nothing is made of it or compared with it
            continue
        one.fields["metrics"][FLOAT_AGREEMENT] = agreement(predictions[kind]["test_logits"],
                                                           predictions["float"]["test_logits"])
    bench = Bench(find_meter("cpu"))
    uses = measure_use({one.kind: open_session(one.path) for one in made if one.status == "ok"}, dataset.image_shape,
                       bench)
    for one in made:
        costs = {"use": uses[one.kind], "load_average": load, **_source(bench.meter)} if one.kind in uses else {}
        yield Compressed.of(
            one.task, one.status, one.reason, **one.task.fields, **one.fields, **costs, started=started,
            source_sha256=record.weights_sha256, seconds=time.perf_counter() - begin,
            packages={name: version(name) for name in PACKAGES.values()}), one.path


def _make(one: _Made, made: Mapping[Kind, _Made], network: LogitsOnly, images: Tensor, dataset: Dataset,
          record: Record) -> nn.Module:
    """Write the network's ONNX file, and return the float network of torch that it was written from or, if it is int8,
    that it was quantised from. UserError if it cannot be made, or if the network that it is made of or compared with
    could not."""
    source = made["pruned" if one.kind == "pruned int8" else "float"]
    if source.slopes is None and source is not one:
        raise UserError(source.reason or f"there is no {source.kind} network")
    if one.kind in INT8:
        assert source.slopes is not None
        write_int8(source.path, one.path, images)
        return source.slopes
    if one.kind in PRUNED:
        pruned = copy.deepcopy(network)
        prune(pruned, one.task.fields["prune"], images, len(dataset.classes))
        recover(pruned, network, dataset, record.spec.training, one.task.fields["recovery_epochs"], record.spec.seed)
        network = pruned
    write_float(network, one.path, images[:COMPARED])
    return freeze(network)


def _score(one: _Made, dataset: Dataset, record: Record, cache: CacheFolder) -> Predictions:
    """The predictions of the ONNX file. Its metrics are added to the fields of its record. DivergedError if logits are
    not finite."""
    assert one.slopes is not None
    network, transferred = OnnxNetwork(one.path), one.kind in INT8
    predictions = predictions_of(network, dataset, Normalise(dataset, torch.device("cpu")), record.spec.recipe)
    robustness = measure(network, dataset, cache.data, Slopes(one.slopes))
    one.fields |= {
        "metrics": {**score(predictions), **robustness.metrics},
        "vectors": {**vectors(predictions), **robustness.vectors},
        "groups": group_names(predictions), "parameters": count_parameters(one.slopes),
        "attack": "gradients of its float form" if transferred else "own gradients",
        "network_sha256": file_sha256(one.path), "file_bytes": one.path.stat().st_size,
    }
    return predictions


def _source(meter: Meter | None) -> dict[str, Any]:
    """The fields of a record that say how energy was measured; empty without a meter."""
    if meter is None:
        return {}
    return {"energy_source": meter.source, "watts_per_core": meter.watts_per_core if isinstance(meter, CpuTime)
            else None}


def told(one: Compressed) -> str:
    """One line for the user on a compressed network: its run and what was measured, or why there is none."""
    spec = one.spec
    name = f"{spec.id}  {spec.method}  {spec.pair}  {spec.dataset}  seed {spec.seed}  {one.label}"
    if one.use is None or one.file_bytes is None:
        return f"{name}: n/a: {one.reason}"
    return (f"{name}: test accuracy {one.metrics['test_accuracy']:.2%}, agreement {one.metrics[FLOAT_AGREEMENT]:.2%}, "
            f"{one.file_bytes / 1024:.0f} KiB, {1000 * one.use.latency_seconds.median:.3f} ms")
