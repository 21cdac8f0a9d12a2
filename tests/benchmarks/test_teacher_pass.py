"""What distillation costs beside plain training: with a teacher's kept answers, with a pass that ten runs share, with a
live teacher, and in the loop of public repositories (PIL images, DataLoader, live teacher).

    pytest --benchmark-only -s tests/benchmarks/test_teacher_pass.py

All loops train in turns, an epoch each, so that ratios hold while the machine's speed drifts; the table gives medians
over the epochs.
"""

import statistics

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support.pair import images, seconds, trainer_of
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdbench.folders import PassFolder
from kdbench.networks import build, freeze
from kdbench.spec import Recipe
from kdbench.suites.suite import built_in_pairs
from kdbench.train.teacher_pass import Keep

IMAGES, ROUNDS, SHARING = 640, 9, 10
PAIRS = {"resnet8x2-resnet8x05": (28, 64), "test_resnet-lcnet_035": (32, 128)}  # image size, batch size


class Pictures(Dataset):
    """Images as PIL pictures, transformed one at a time."""

    def __init__(self, size):
        pixels, labels = images(IMAGES, size)
        self.pictures, self.labels = [Image.fromarray(one[0].numpy()) for one in pixels], labels.tolist()
        self.transform = transforms.Compose([
            transforms.RandomCrop(size, padding=size // 8), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
            transforms.Normalize((0.5,), (0.25,))])

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return self.transform(self.pictures[index]), self.labels[index]


class PublicLoop:
    """The training loop of kd as public repositories write it."""

    def __init__(self, pair, size, batch):
        self.student, self.teacher = (build(a, 10, (1, size, size)).model.to(memory_format=torch.contiguous_format)
                                      for a in (pair.student, pair.teacher.architecture))
        freeze(self.teacher)
        self.loader = DataLoader(Pictures(size), batch, shuffle=True, drop_last=True)
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

    def epoch(self):
        self.student.train()
        for batch, labels in self.loader:
            logits = self.student(batch)
            with torch.no_grad():
                taught = self.teacher(batch)
            divergence = F.kl_div(F.log_softmax(logits / 4, 1), F.softmax(taught / 4, 1), reduction="batchmean")
            loss = 0.1 * F.cross_entropy(logits, labels) + 0.9 * 16 * divergence
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


@pytest.mark.parametrize("name", PAIRS)
def test_distillation_beside_plain_training(benchmark, name, tmp_path):
    pair, (size, batch) = built_in_pairs()[name], PAIRS[name]
    recipe = Recipe(epochs=1000, batch_size=batch, image_size=size, lr=0.05, augment=("crop", "flip"))

    def trainer(method, keeping=None):
        parts = {"writing": ("logits", "embedding", "stages"), "warm": ()}
        keep = Keep(PassFolder(tmp_path / method), parts[keeping], print) if keeping else None
        return trainer_of(method, recipe, IMAGES, pair, keep).train_epoch

    loops = {"public loop": PublicLoop(pair, size, batch).epoch, "ce": trainer("ce")}
    for method in ("kd", "dkd", "at"):
        loops |= {f"{method} live": trainer(method), f"{method} writing": trainer(method, "writing"),
                  f"{method} warm": trainer(method, "warm")}
    times = {loop: [] for loop in loops}

    def turn():
        for loop, epoch in loops.items():
            times[loop].append(seconds(epoch))

    turn()
    times = {loop: [] for loop in loops}
    benchmark.pedantic(turn, rounds=ROUNDS)
    medians = {loop: statistics.median(values) for loop, values in times.items()}
    for method in ("kd", "dkd", "at"):
        writing, warm = medians.pop(f"{method} writing"), medians[f"{method} warm"]
        medians[f"{method} cold, shared by {SHARING} runs"] = (writing + (SHARING - 1) * warm) / SHARING
    print(f"\n{name}, batch {batch}, {size} px, medians of {ROUNDS} epochs in turns")
    for loop, median in medians.items():
        images_a_second = IMAGES // batch * batch / median
        print(f"{loop:32}{images_a_second:8.0f} images/s{median / medians['ce']:8.2f} x ce"
              f"{medians['public loop'] / median:8.2f} x the public loop's speed")
        benchmark.extra_info[loop] = round(images_a_second)
