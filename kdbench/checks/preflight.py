"""Checks of a plan before anything is written or trained: its plugins, networks and datasets, and whether methods fit
their pairs."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from kdbench.data.load import DataShape, shape_of
from kdbench.errors import UserError
from kdbench.execution.passes import AnswerSize
from kdbench.folders import CacheFolder
from kdbench.method import Method, Shapes
from kdbench.networks import build
from kdbench.parts.groups import attribute_of
from kdbench.plugins import registry
from kdbench.plugins.source import ATTRIBUTE, MethodInfo
from kdbench.spec import PORTABLE, Architecture, FileTeacher, RunSpec, tutor
from kdbench.suites.suite import Pair
from kdbench.suites.validation import at
from kdbench.train.initial import start_from
from kdbench.train.portable import need_portable


def preflight(specs: Iterable[RunSpec], methods: Mapping[str, MethodInfo], cache: CacheFolder,
              here: bool = True) -> tuple[dict[str, str], dict[str, AnswerSize]]:
    """Try the parts of every spec: load methods, build networks, look at datasets. Returns, by run id, why a method
    cannot train its pair and, for other runs of methods that learn from a network, the size of that network's answers.
    UserError for what cannot work at all. Without `here`, the runs take place on other machines, and no GPU is looked
    for on this one."""
    specs = list(specs)
    classes = {name: registry.load(methods[name]) for name in sorted({spec.method for spec in specs})}
    if here:
        need_device({spec.device for spec in specs})
    sizes = {key: shape_of(spec.dataset, spec.recipe, cache.data, spec.transfer)
             for key, spec in {_data_key(spec): spec for spec in specs}.items()}
    known: dict[str, Shapes] = {}
    for spec in {(*_data_key(spec), str(spec.init)): spec for spec in specs if spec.init is not None}.values():
        _start(spec, sizes[_data_key(spec)])

    def shapes(architecture: Architecture, spec: RunSpec) -> Shapes:
        num_classes, image_shape, *_ = sizes[_data_key(spec)]
        key = f"{architecture.model_dump_json()} {num_classes} {image_shape}"
        if key not in known:
            with torch.random.fork_rng(devices=[]), at(f"pair {spec.pair}"):
                known[key] = build(architecture, num_classes, image_shape).shapes
        return known[key]

    reasons, answers = {}, {}
    for spec in specs:
        student = shapes(spec.student, spec)
        teacher = shapes(spec.teacher.architecture, spec) if spec.teacher is not None else None
        own = shapes(spec.self_teacher.architecture, spec) if spec.self_teacher is not None else None
        method, data = methods[spec.method], sizes[_data_key(spec)]
        source = tutor(method.learns_from, teacher=teacher, self_teacher=own)
        reason = _why_not(classes[spec.method], student, source, data.image_shape) or _without_labels(spec, method) \
            or _without_groups(spec, method, data)
        if reason is not None:
            reasons[spec.id] = reason
        elif source is not None:
            answers[spec.id] = _answer_size(spec, source, sizes[_data_key(spec)])
    return reasons, answers


def _start(spec: RunSpec, data: DataShape) -> None:
    """Raise UserError unless the weights file that the run starts from, if any, fits its network. Published weights are
    not checked, as they are downloaded only later."""
    if isinstance(spec.init, FileTeacher):
        with torch.random.fork_rng(devices=[]), at(f"pair {spec.pair}"):
            start_from(build(spec.student, data.num_classes, data.image_shape), spec.init)


def _why_not(method: type[Method], student: Shapes, source: Shapes | None, input_shape: Sequence[int]) -> str | None:
    """Why the method cannot train such a student from such a source network on inputs of that shape; None if it can."""
    if method.learns_from == "assistant" and source is None:
        return "it learns from an assistant, and the pair names none"
    return method.unfit(student, source, input_shape)


def _without_labels(spec: RunSpec, method: MethodInfo) -> str | None:
    """Why the method cannot train if no batch of the run has a labelled image; None if it can or if some have one."""
    if spec.transfer is None or spec.transfer.share < 1 or method.unlabelled != "beside":
        return None
    return "without labels nothing in its loss tells classes apart, and no batch has a labelled image"


def _without_groups(spec: RunSpec, method: MethodInfo, data: DataShape) -> str | None:
    """Why a method that needs groups cannot train on the dataset; None if it can, or if the method needs none.
    UserError if its hyperparameter names an attribute that the dataset does not have."""
    if not method.needs_groups:
        return None
    if not data.attributes:
        return f"it needs the groups of training images, and those of {spec.dataset} have no attributes"
    with at(f"{spec.method}.{ATTRIBUTE} ({spec.dataset})"):
        attribute_of(data.attributes, str(spec.hyperparameters[ATTRIBUTE]))
    return None


def _answer_size(spec: RunSpec, teacher: Shapes, data: DataShape) -> AnswerSize:
    """The size in bytes of the teacher's float32 outputs for all batches of a run."""
    batch = min(spec.recipe.batch_size, data.num_train)
    images = spec.updates * spec.training.epochs * (data.num_train // batch) * batch
    return AnswerSize(*(4 * images * values for values in (
        data.num_classes, teacher.embedding, sum(map(math.prod, teacher.stages)))))


def why_inapplicable(methods: Iterable[MethodInfo], pair: Pair, num_classes: int = 10) -> dict[str, str | None]:
    """Why each of the methods cannot train the pair, by the method's name; None for a method that can."""
    size = pair.image_size
    image_shape = (size, pair.words) if pair.words else (3, size, size)
    teacher = build(pair.teacher.architecture, num_classes, image_shape).shapes
    student = build(pair.student, num_classes, image_shape).shapes
    assistant = build(pair.assistant, num_classes, image_shape).shapes if pair.assistant is not None else None
    return {info.name: _why_not(registry.load(info), student, tutor(
        info.learns_from, teacher=teacher, self_teacher=assistant if info.learns_from == "assistant" else student),
        image_shape) for info in methods}


def need_device(devices: set[str]) -> None:
    """Raise UserError if one of the devices is not available on this machine."""
    if "cuda" in devices and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here, allowed: cpu")
    if PORTABLE in devices:
        need_portable()


def _data_key(spec: RunSpec) -> tuple[str, str]:
    return spec.dataset, f"{spec.recipe.model_dump_json()} {spec.transfer}"
