from typing import NamedTuple

import torch
import torch.nn.functional as F

from kdbench.method import Method, Outputs, Paper
from kdbench.parts.losses import soft_cross_entropy


def mean_discrepancy(first, second):
    """The squared distance of the mean vectors of two sets of vectors, [B, D] each (MMD with a linear kernel)."""
    return (first.mean(dim=0) - second.mean(dim=0)).square().sum()


class Views(NamedTuple):
    """The student's outputs on two augmentations of the same images."""

    first: Outputs
    second: Outputs


class DDGSD(Method):
    """Each image is seen in two augmentations at once. The student's predictions for the two teach each other, and the
    features of the two batches shall have the same mean ("data-distortion guided self-distillation").

    loss = 1/2 [CE(p_a, labels) + CE(p_b, labels) + alpha temperature^2 (KL(p_b || p_a) + KL(p_a || p_b))
                + discrepancy |mean f_a - mean f_b|^2]

    f are the embeddings; the discrepancy (MMD) is of the batch's means. The paper has no half: with it, the loss is as
    large as plain training's, and so is the rate. The authors gave no code. alpha 1, temperature 3 and discrepancy
    0.0005 are what a public implementation gives as the paper's settings (youngerous/ddgsd-pytorch, which compares
    logits in place of features). That no gradient flows into the prediction that teaches is as in mutual learning. Both
    augmentations are of the recipe's kind; each passes through the student by itself: twice the images of other methods
    for the same number of updates. Where the recipe has no augmentation both are the image itself, and what remains is
    plain training.
    """

    name, family = "ddgsd", "self"
    paper = Paper(
        title="Data-Distortion Guided Self-Distillation for Deep Neural Networks",
        authors=("Ting-Bing Xu", "Cheng-Lin Liu"), year=2019, venue="AAAI",
        doi="10.1609/aaai.v33i01.33015565",
    )
    ranges = {"alpha": (0.0, 4.0), "temperature": (1.0, 10.0), "discrepancy": (0.0, 1.0)}
    learns_from = None

    def __init__(self, ctx, *, alpha: float = 1.0, temperature: float = 3.0, discrepancy: float = 0.0005):
        super().__init__(ctx)
        self.alpha, self.temperature, self.discrepancy = alpha, temperature, discrepancy

    def study(self, batch):
        """The student's outputs on the batch and on another augmentation of its images."""
        return Views(self.student(batch.images), self.student(self.ctx.sample(batch.positions).images))

    def losses(self, batch, student, teacher):
        first, second = student.first.logits, student.second.logits
        mutual = (soft_cross_entropy(first, second.detach(), self.temperature)
                  + soft_cross_entropy(second, first.detach(), self.temperature))
        return {
            "ce": F.cross_entropy(torch.cat([first, second]), batch.labels.repeat(2)),
            "kd": self.alpha / 2 * mutual,
            "mmd": self.discrepancy / 2 * mean_discrepancy(student.first.embedding, student.second.embedding),
        }
