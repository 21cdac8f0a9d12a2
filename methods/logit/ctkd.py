import math

import torch
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.losses import labelled_cross_entropy, soft_cross_entropy


def reversed_gradient(value, strength):
    """The value itself, whose gradient is multiplied by -strength."""
    return value.detach() + strength * (value.detach() - value)


class CTKD(Method):
    """KD at a temperature that is learned against the student: the student descends the divergence, the temperature
    ascends it. A curriculum makes the task harder: at first the temperature is left alone, then its reversed gradient
    grows to full size.

    loss = (1 - alpha) CE(student, labels) + alpha T^2 KL(teacher || student; T),  T = low + span sigmoid(x)
    gradient of x: - strength d loss / dx,  strength = (1 - cos(pi min(1, progress / curriculum))) / 2

    One temperature for all samples, the paper's global variant; its other variant predicts one for each sample by a
    small network. x starts at 1, so T at 15.6, and is trained by the student's optimizer; T lies between 1 and 21. This
    and alpha 0.9 are the authors' code's, as is the curriculum, 10 of 240 epochs; there its strength changes by epochs,
    here by steps.
    """

    name, family = "ctkd", "logit"
    paper = Paper(
        title="Curriculum Temperature for Knowledge Distillation",
        authors=("Zheng Li", "Xiang Li", "Lingfeng Yang", "Borui Zhao", "Renjie Song", "Lei Luo", "Jun Li",
                 "Jian Yang"),
        year=2023, venue="AAAI", arxiv="2211.16231",
    )
    ranges = {"alpha": (0.0, 1.0), "low": (0.5, 10.0), "span": (0.0, 40.0), "curriculum": (0.0, 1.0)}
    unlabelled = "alone"

    def __init__(self, ctx, *, alpha: float = 0.9, low: float = 1.0, span: float = 20.0, curriculum: float = 0.0417):
        super().__init__(ctx)
        self.alpha, self.low, self.span, self.curriculum = alpha, low, span, curriculum
        self.position = nn.Parameter(torch.ones(()))  # x, where the temperature stands in its span

    @property
    def strength(self):
        """The factor of the temperature's reversed gradient in this step, from 0 to 1."""
        done = min(1.0, self.progress / self.curriculum) if self.curriculum else 1.0
        return (1 - math.cos(math.pi * done)) / 2

    def temperature(self):
        return self.low + self.span * reversed_gradient(self.position, self.strength).sigmoid()

    def losses(self, batch, student, teacher):
        return {
            "ce": (1 - self.alpha) * labelled_cross_entropy(student.logits, batch.labels),
            "kd": self.alpha * soft_cross_entropy(student.logits, teacher.logits, self.temperature()),
        }
