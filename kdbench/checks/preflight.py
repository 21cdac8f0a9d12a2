"""Checks of a plan before anything is written or trained: plugins, networks, datasets, pairs that do not fit."""

import math
from collections.abc import Iterable, Mapping

import torch

from kdbench.data.load import DataShape, shape_of
from kdbench.errors import UserError
from kdbench.execution.passes import AnswerSize
from kdbench.folders import CacheFolder
from kdbench.method import Shapes
from kdbench.networks import build
from kdbench.plugins import registry
from kdbench.plugins.source import MethodInfo
from kdbench.spec import Architecture, RunSpec, tutor
from kdbench.suites.suite import Pair
from kdbench.suites.validation import at


def preflight(specs: Iterable[RunSpec], methods: Mapping[str, MethodInfo], cache: CacheFolder,
              here: bool = True) -> tuple[dict[str, str], dict[str, AnswerSize]]:
    """Try the parts of every spec. UserError for what cannot work at all. The result says by run id why a method cannot
    train a pair, and of the others how much their teacher answers in a run. Where specs are not run `here`, their GPU
    is not looked for."""
    specs = list(specs)
    classes = {name: registry.load(methods[name]) for name in sorted({spec.method for spec in specs})}
    if here:
        need_device({spec.device for spec in specs})
    sizes = {key: shape_of(spec.dataset, spec.recipe, cache.data)
             for key, spec in {_data_key(spec): spec for spec in specs}.items()}
    known: dict[str, Shapes] = {}

    def shapes(architecture: Architecture, spec: RunSpec) -> Shapes:
        num_classes, image_shape, _ = sizes[_data_key(spec)]
        key = f"{architecture.model_dump_json()} {num_classes} {image_shape}"
        if key not in known:
            with torch.random.fork_rng(devices=[]), at(f"pair {spec.pair}"):
                known[key] = build(architecture, num_classes, image_shape).shapes
        return known[key]

    reasons, answers = {}, {}
    for spec in specs:
        student = shapes(spec.student, spec)
        teacher = shapes(spec.teacher.architecture, spec) if spec.teacher is not None else None
        source = tutor(methods[spec.method].learns_from, teacher=teacher, self_teacher=student)
        reason = classes[spec.method].unfit(student, source, sizes[_data_key(spec)].image_shape)
        if reason is not None:
            reasons[spec.id] = reason
        elif source is not None:
            answers[spec.id] = _answer_size(spec, source, sizes[_data_key(spec)])
    return reasons, answers


def _answer_size(spec: RunSpec, teacher: Shapes, data: DataShape) -> AnswerSize:
    """What the teacher answers to the batches of a run, in bytes."""
    batch = min(spec.recipe.batch_size, data.num_train)
    images = spec.updates * spec.training.epochs * (data.num_train // batch) * batch
    return AnswerSize(*(4 * images * values for values in (
        data.num_classes, teacher.embedding, sum(map(math.prod, teacher.stages)))))


def why_inapplicable(methods: Iterable[MethodInfo], pair: Pair, num_classes: int = 10) -> dict[str, str | None]:
    """For each method by name, why it cannot train the pair; None if it can."""
    size = pair.image_size
    image_shape = (size, pair.words) if pair.words else (3, size, size)
    teacher = build(pair.teacher.architecture, num_classes, image_shape).shapes
    student = build(pair.student, num_classes, image_shape).shapes
    return {info.name: registry.load(info).unfit(
        student, tutor(info.learns_from, teacher=teacher, self_teacher=student), image_shape) for info in methods}


def need_device(devices: set[str]) -> None:
    """UserError for a device that torch does not find here."""
    if "cuda" in devices and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here, allowed: cpu")


def _data_key(spec: RunSpec) -> tuple[str, str]:
    return spec.dataset, spec.recipe.model_dump_json()
