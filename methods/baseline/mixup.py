from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Beta

from kdbench.method import Method, Paper
from kdbench.parts.losses import mixed_cross_entropy


class Mixed(NamedTuple):
    """What the student says of mixed images: logits [B, K], the labels [B] of those mixed in, the share of the rest."""

    logits: Tensor
    others: Tensor
    share: float


class Mixup(Method):
    """Plain training on convex combinations of two images each, and of their labels, without a teacher.
    A control for self-distillation: it shows what soft targets of the data alone are worth, made of other images.

    loss = share CE(student(m), labels) + (1 - share) CE(student(m), labels of x'),  m = share x + (1 - share) x',
    share ~ Beta(alpha, alpha)

    x' are the batch's images in another order. As in the authors' code one share is drawn for the whole batch, and no
    image is seen as it is. alpha 1, a uniform share, is the paper's for CIFAR; it takes 0.2 to 0.4 on ImageNet. Mixing
    normalised pixels is mixing pixels: the shares sum to 1.
    """

    name, family = "mixup", "baseline"
    conditions = ("mixed images",)
    paper = Paper(
        title="mixup: Beyond Empirical Risk Minimization",
        authors=("Hongyi Zhang", "Moustapha Cisse", "Yann N. Dauphin", "David Lopez-Paz"),
        year=2018, venue="ICLR", arxiv="1710.09412",
    )
    ranges = {"alpha": (0.05, 4.0)}
    learns_from = None
    needs_images = True

    def __init__(self, ctx, *, alpha: float = 1.0):
        super().__init__(ctx)
        self.alpha = alpha

    def study(self, batch):
        """What the student says of the batch's images, each mixed with another of them."""
        share = Beta(self.alpha, self.alpha).sample().item()
        order = torch.randperm(len(batch.images)).to(batch.images.device)
        mixed = batch.images.lerp(batch.images[order], 1 - share)
        return Mixed(self.student(mixed).logits, batch.labels[order], share)

    def losses(self, batch, student, teacher):
        return {"ce": mixed_cross_entropy(student.logits, batch.labels, student.others, student.share)}
