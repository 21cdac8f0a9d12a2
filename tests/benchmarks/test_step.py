"""What the engine costs over a loop written by hand: same networks, images, augmentation, threads, no kdbench in it.

    pytest --benchmark-only tests/benchmarks/test_step.py

The last line of each pair is `extra_info.ratio`, the median of epochs timed in turns: it holds when the machine's
speed drifts, which the separate timings do not.
"""

import statistics
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdbench.data.base import Dataset, MemoryImages, Split
from kdbench.models import build, freeze
from kdbench.registry import Registry, load
from kdbench.spec import Architecture, Recipe
from kdbench.train import Trainer, prepare

SIZE, BATCH, IMAGES, TEMPERATURE, ALPHA = 28, 64, 1280, 4.0, 0.9
RECIPE = Recipe(epochs=1000, batch_size=BATCH, image_size=SIZE, lr=0.1, augment=("crop",))
STUDENT = Architecture(model="resnet_cifar", kwargs={"blocks": 1, "stem": 8, "channels": [8, 16, 32], "stride": 2})
TEACHER = Architecture(model="resnet_cifar", kwargs={"blocks": 1, "stem": 32, "channels": [32, 64, 128], "stride": 2})


def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 1, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 10, (IMAGES,), generator=generator)


class ByHand:
    """The loop that a careful practitioner writes."""

    def __init__(self, student: nn.Module, teacher: nn.Module | None):
        self.images, self.labels = data()
        self.student, self.teacher = student.train(), teacher
        self.optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 1000 * IMAGES // BATCH)

    def epoch(self):
        order = torch.randperm(IMAGES)
        total = 0.0
        for start in range(0, IMAGES - BATCH + 1, BATCH):
            index = order[start:start + BATCH]
            padded = F.pad(self.images[index], (4, 4, 4, 4))
            top, left = torch.randint(9, (2, BATCH))
            windows = padded.unfold(2, SIZE, 1).unfold(3, SIZE, 1)
            images = windows[torch.arange(BATCH), :, top, left].to(torch.float32, memory_format=torch.channels_last)
            images = images.sub_(127.5).mul_(1 / 64)
            labels = self.labels[index]
            logits = self.student(images)
            loss = F.cross_entropy(logits, labels)
            if self.teacher is not None:
                with torch.no_grad():
                    taught = self.teacher(images)
                divergence = F.kl_div(F.log_softmax(logits / TEMPERATURE, 1), F.log_softmax(taught / TEMPERATURE, 1),
                                      reduction="batchmean", log_target=True)
                loss = (1 - ALPHA) * loss + ALPHA * TEMPERATURE**2 * divergence
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            total += loss.item()
        return total


def by_hand(method):
    student, teacher = (build(a, 10, (1, SIZE, SIZE)).model for a in (STUDENT, TEACHER))
    return ByHand(student, freeze(teacher) if method == "kd" else None).epoch


def by_kdbench(method):
    images, labels = data()
    split = Split(MemoryImages(images), labels)
    half = torch.full((1,), 0.5)
    dataset = Dataset("random", tuple("0123456789"), split, split, split, (1, SIZE, SIZE), half, half / 2, "")
    info = Registry()[method]
    teacher = freeze(build(TEACHER, 10, (1, SIZE, SIZE))) if info.learns_from else None
    prepared, stream = prepare(load(info), info.resolve({}), STUDENT, teacher, dataset, RECIPE, 0, torch.device("cpu"))
    return Trainer(prepared, stream, RECIPE).train_epoch


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@pytest.mark.parametrize("loop", [by_hand, by_kdbench], ids=["by_hand", "kdbench"])
@pytest.mark.parametrize("method", ["ce", "kd"])
def test_epoch(benchmark, method, loop):
    benchmark.group = method
    benchmark.pedantic(loop(method), rounds=15, warmup_rounds=2)


@pytest.mark.parametrize("method", ["ce", "kd"])
def test_overhead_of_the_engine_in_turns(benchmark, method):
    benchmark.group = f"{method}, in turns"
    ours, theirs = by_kdbench(method), by_hand(method)
    ours(), theirs()
    ratios = []
    benchmark.pedantic(lambda: ratios.append(seconds(ours) / seconds(theirs)), rounds=31)
    benchmark.extra_info["ratio"] = round(statistics.median(ratios), 4)
    print(f"\n{method}: kdbench / by hand, median of {len(ratios)} epochs in turns: {statistics.median(ratios):.4f}")
