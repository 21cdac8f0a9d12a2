"""What the benchmarks train: the CPU-sized pair on random images, without a suite around it."""

import time

import torch

from kdbench.data.base import Dataset, MemoryImages, Split
from kdbench.networks import build, freeze
from kdbench.plugins.registry import Registry, load
from kdbench.spec import Recipe, tutor
from kdbench.suites.suite import built_in_pairs
from kdbench.train.teacher_pass import Keep
from kdbench.train.trainer import Trainer, prepare

PAIR = built_in_pairs()["resnet8x2-resnet8x05"]
REGISTRY = Registry()


def images(count, size):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 1, size, size), generator=generator, dtype=torch.uint8)
    return pixels, torch.randint(0, 10, (count,), generator=generator)


def trainer_of(method, recipe: Recipe, count, pair=PAIR, keep: Keep | None = None):
    """A trainer of `method` on `count` random images, with a frozen, untrained teacher: the same at every call."""
    pixels, labels = images(count, recipe.image_size)
    split = Split(MemoryImages(pixels), labels)
    shape = (1, recipe.image_size, recipe.image_size)
    half = torch.full((1,), 0.5)
    dataset = Dataset("synthetic", tuple("0123456789"), split, split, split, shape, half, half / 2, "")
    info = REGISTRY[method]
    architecture = tutor(info.learns_from, teacher=pair.teacher.architecture, self_teacher=pair.student)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = freeze(build(architecture, 10, shape)) if architecture else None
    prepared, stream = prepare(load(info), info.resolve({}), pair.student, teacher, dataset, recipe, 0,
                               torch.device("cpu"), keep=keep)
    return Trainer(prepared, stream, recipe)


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
