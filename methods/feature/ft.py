from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper, descend
from kdbench.parts.stages import match_resolution


def factor_loss(student, teacher):  # both [B, F, H, W]
    """Mean absolute difference of the factors, each of L2 norm 1 per image."""
    student, teacher = match_resolution(student, teacher)
    return (F.normalize(student.flatten(1)) - F.normalize(teacher.flatten(1))).abs().mean()


class FactorTransfer(Method):
    """An autoencoder (the paraphraser), trained without labels, compresses the teacher's last stage into factors of
    fewer channels. The student, through a translator, learns these factors rather than the stage itself.

    first paraphraser_share of the steps: loss = mean |decoder(encoder(t)) - t|, and the student is not touched
    the rest: loss = CE(student, labels) + alpha mean | f_S / ||f_S|| - f_T / ||f_T|| |,
    f_T = encoder(t), f_S = translator(s)

    `rate` is the factor's share of the teacher's channels. Both absolute, where the paper writes a square for the
    autoencoder, and alpha 500 and no BatchNorm, as in the authors' code. That gives the paraphraser 6 of 170 epochs,
    some 2,300 steps of SGD at rate 0.1. On short runs a tenth are a few hundred steps, in which the recipe's SGD leaves
    it as it was drawn: its gradients are a ten-thousandth of its weights. So Adam trains it here, at the constant rate
    `paraphraser_lr`. RepDistiller compares squared-mean maps instead of factors.

    Factors of norm 1 with N = C H W elements differ by about sqrt(1 / N) in each, and so does the gradient go: 500
    belongs to the authors' 32 x 8 x 8. For others take alpha = 500 sqrt(N / 2048), H and W of the smaller last stage.
    """

    name, family = "ft", "feature"
    paper = Paper(
        title="Paraphrasing Complex Network: Network Compression via Factor Transfer",
        authors=("Jangho Kim", "SeongUk Park", "Nojun Kwak"), year=2018, venue="NeurIPS", arxiv="1802.04977",
    )
    ranges = {"alpha": (10.0, 5000.0), "rate": (0.125, 4.0), "paraphraser_share": (0.0, 0.5),
              "paraphraser_lr": (1e-4, 1e-2, "log")}
    unlabelled = "beside"

    def __init__(self, ctx, *, alpha: float = 500.0, rate: float = 0.5, paraphraser_share: float = 0.1,
                 paraphraser_lr: float = 1e-3):
        super().__init__(ctx)
        self.alpha, self.first_part, self.paraphraser_lr = alpha, paraphraser_share, paraphraser_lr
        student, teacher = ctx.student_shapes.stages[-1][0], ctx.teacher_shapes.stages[-1][0]
        factor = max(1, round(rate * teacher))
        self.encoder = layers(nn.Conv2d, teacher, teacher, factor, factor)
        self.decoder = layers(nn.ConvTranspose2d, factor, factor, teacher, teacher)
        self.translator = layers(nn.Conv2d, student, student, factor, factor)

    def optimizers(self, make):
        return {
            "main": make([*self.student.parameters(), *self.translator.parameters()]),
            "paraphraser": torch.optim.Adam([*self.encoder.parameters(), *self.decoder.parameters()],
                                            lr=self.paraphraser_lr),
        }

    def step(self, batch, optimizers):
        if not self.in_first_part:
            return super().step(batch, optimizers)
        stage = self.teach(batch).stages[-1]
        reconstruction = F.l1_loss(self.decoder(self.encoder(stage)), stage)
        descend(optimizers["paraphraser"], reconstruction)
        return {"reconstruction": reconstruction}

    def losses(self, batch, student, teacher):
        with torch.no_grad():
            teacher_factor = self.encoder(teacher.stages[-1])
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "factor": self.alpha * factor_loss(self.translator(student.stages[-1]), teacher_factor),
        }


def layers(convolution, *channels):
    """3x3 convolutions that keep the resolution, from channels[0] to channels[-1]."""
    made = []
    for i, o in pairwise(channels):
        made += [convolution(i, o, 3, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*made)
