"""What can be found wrong before anything is written or trained: plugins, networks, datasets, pairs that do not fit."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from kdbench import folders
from kdbench.data.load import load_dataset
from kdbench.errors import UserError
from kdbench.method import Shapes
from kdbench.networks import build
from kdbench.plugins import registry
from kdbench.plugins.source import MethodInfo
from kdbench.spec import Architecture, RunSpec
from kdbench.suites.suite import Pair


def preflight(specs: Iterable[RunSpec], methods: Mapping[str, MethodInfo], cache: Path) -> dict[str, str]:
    """Try the parts of every spec. UserError for what cannot work at all; the result says by run id why a method
    cannot train a pair."""
    specs = list(specs)
    classes = {name: registry.load(methods[name]) for name in sorted({spec.method for spec in specs})}
    _need_device({spec.device for spec in specs})
    sizes = {key: _size(spec, cache) for key, spec in {_data_key(spec): spec for spec in specs}.items()}
    known: dict[str, Shapes] = {}

    def shapes(architecture: Architecture, spec: RunSpec) -> Shapes:
        num_classes, image_shape = sizes[_data_key(spec)]
        key = f"{architecture.model_dump_json()} {num_classes} {image_shape}"
        if key not in known:
            with torch.random.fork_rng(devices=[]):
                known[key] = build(architecture, num_classes, image_shape).shapes
        return known[key]

    reasons = {}
    for spec in specs:
        student, teacher = shapes(spec.student, spec), None
        if spec.teacher is not None:
            teacher = shapes(spec.teacher.architecture, spec)
        reason = classes[spec.method].inapplicable(student, _tutor(methods[spec.method], student, teacher))
        if reason is not None:
            reasons[spec.id] = reason
    return reasons


def why_inapplicable(methods: Iterable[MethodInfo], pair: Pair, num_classes: int = 10) -> dict[str, str | None]:
    """For each method by name, why it cannot train the pair; None if it can."""
    image_shape = (3, pair.image_size, pair.image_size)
    teacher = build(pair.teacher.architecture, num_classes, image_shape).shapes
    student = build(pair.student, num_classes, image_shape).shapes
    return {info.name: registry.load(info).inapplicable(student, _tutor(info, student, teacher)) for info in methods}


def _tutor(info: MethodInfo, student: Shapes, teacher: Shapes | None) -> Shapes | None:
    """The shapes of the network that the method learns from."""
    return {"teacher": teacher, "student": student, None: None}[info.learns_from]


def _need_device(devices: set[str]) -> None:
    if "cuda" in devices and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here, allowed: cpu")


def _data_key(spec: RunSpec) -> tuple[str, str]:
    return spec.dataset, spec.recipe.model_dump_json()


def _size(spec: RunSpec, cache: Path) -> tuple[int, tuple[int, int, int]]:
    dataset = load_dataset(spec.dataset, spec.recipe, folders.data_folder(cache), torch.device("cpu"))
    return len(dataset.classes), dataset.image_shape
