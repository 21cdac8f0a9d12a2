"""What the engine costs over a loop written by hand: same networks, images, augmentation, threads, no kdbench in it.

    pytest --benchmark-only tests/benchmarks/test_step.py

The last line of each pair is `extra_info.ratio`, the median of epochs timed in turns: it holds when the machine's
speed drifts, which the separate timings do not.
"""

import statistics

import pytest
import torch
import torch.nn.functional as F
from support.pair import PAIR, images, seconds, trainer_of
from torch import nn

from kdbench.networks import build, freeze
from kdbench.spec import Recipe

SIZE, BATCH, IMAGES, TEMPERATURE, ALPHA = 28, 64, 1280, 4.0, 0.9
RECIPE = Recipe(epochs=1000, batch_size=BATCH, image_size=SIZE, lr=0.1, augment=("crop",))


class ByHand:
    """The loop that a careful practitioner writes."""

    def __init__(self, student: nn.Module, teacher: nn.Module | None):
        self.images, self.labels = images(IMAGES, SIZE)
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
            batch = windows[torch.arange(BATCH), :, top, left].to(torch.float32, memory_format=torch.channels_last)
            batch = batch.sub_(127.5).mul_(1 / 64)
            labels = self.labels[index]
            logits = self.student(batch)
            loss = F.cross_entropy(logits, labels)
            if self.teacher is not None:
                with torch.no_grad():
                    taught = self.teacher(batch)
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
    student, teacher = (build(a, 10, (1, SIZE, SIZE)).model for a in (PAIR.student, PAIR.teacher.architecture))
    return ByHand(student, freeze(teacher) if method == "kd" else None).epoch


def by_kdbench(method):
    return trainer_of(method, RECIPE, IMAGES).train_epoch


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
