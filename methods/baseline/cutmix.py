from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Beta

from kdbench.method import Method, Paper
from kdbench.parts.losses import mixed_cross_entropy


def box(size, centre, share):
    """The rows and the columns, as (first, behind the last), of a box that covers 1 - `share` of an image of `size`
    (height, width), less what lies outside of the image if it is put around `centre` (row, column)."""
    halves = [int(length * (1 - share) ** 0.5) // 2 for length in size]
    return [(max(0, middle - half), min(length, middle + half))
            for length, middle, half in zip(size, centre, halves, strict=True)]


class Mixed(NamedTuple):
    """What the student says of mixed images: logits [B, K], the labels [B] of those mixed in, the share of the rest."""

    logits: Tensor
    others: Tensor
    share: float


class CutMix(Method):
    """Plain training on images of which a box is replaced by the same box of another image, and on labels mixed in
    proportion to the areas, without a teacher. A control for self-distillation, as is mixup: its soft targets are those
    of the data.

    loss = share CE(student(m), labels) + (1 - share) CE(student(m), labels of x'),  m = x outside the box, x' in it

    x' are the batch's images in another order, the box is the same for all. Its sides are sqrt(1 - s) of the image's,
    s ~ Beta(alpha, alpha), around a uniformly drawn centre; of a box across the edge the part inside is taken, and
    share is the area left of x. As in the authors' code for CIFAR, alpha is 1 and a batch is cut with `probability` 0.5
    (on ImageNet always), else taken as it is.
    """

    name, family = "cutmix", "baseline"
    conditions = ("mixed images",)
    paper = Paper(
        title="CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
        authors=("Sangdoo Yun", "Dongyoon Han", "Seong Joon Oh", "Sanghyuk Chun", "Junsuk Choe", "Youngjoon Yoo"),
        year=2019, venue="ICCV", arxiv="1905.04899",
    )
    ranges = {"alpha": (0.05, 4.0), "probability": (0.0, 1.0)}
    learns_from = None
    needs_images = True

    def __init__(self, ctx, *, alpha: float = 1.0, probability: float = 0.5):
        super().__init__(ctx)
        self.alpha, self.probability = alpha, probability

    def study(self, batch):
        """What the student says of the batch's images, with a box of another of them in each."""
        images, others, share = batch.images, batch.labels, 1.0
        if torch.rand(()).item() < self.probability:
            order = torch.randperm(len(images)).to(images.device)
            height, width = images.shape[2:]
            centre = [torch.randint(length, ()).item() for length in (height, width)]
            (top, bottom), (left, right) = box((height, width), centre, Beta(self.alpha, self.alpha).sample().item())
            images, others = images.clone(), others[order]
            images[:, :, top:bottom, left:right] = batch.images[order, :, top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / (height * width)
        return Mixed(self.student(images).logits, others, share)

    def losses(self, batch, student, teacher):
        return {"ce": mixed_cross_entropy(student.logits, batch.labels, student.others, student.share)}
