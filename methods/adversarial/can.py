import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper, descend
from kdbench.parts.losses import discriminator_loss, fooling_loss


class CAN(Method):
    """A discriminator learns to tell the teacher's logits from the student's and to predict the class from either. The
    student learns to fool it, so the loss that transfers the teacher's knowledge is itself learned.

    discriminator: -log P(real | teacher) - log P(fake | student) + CE(class | teacher) + CE(class | student)
    student:       CE(student, labels) + alpha (|student - teacher|_1 - log P(real | student) + CE(class | student))

    The discriminator is a perceptron of three layers on the logits alone, as in the paper; the class makes it
    conditional, the L1 distance of the logits keeps the student near the teacher image by image. The authors gave no
    code: alpha 1, Adam's rate 1e-3 and the width 128 are ours. So is that the student descends the non-saturating
    -log P(real | student) where the paper writes log P(fake | student); both have the same fixed point.
    """

    name, family = "can", "adversarial"
    conditions = ("GAN",)
    paper = Paper(
        title="Training Shallow and Thin Networks for Acceleration via Knowledge Distillation with Conditional "
              "Adversarial Networks",
        authors=("Zheng Xu", "Yen-Chang Hsu", "Jiawei Huang"),
        year=2018, venue="ICLR Workshop", arxiv="1709.00513",
    )
    ranges = {"alpha": (0.0, 10.0), "discriminator_lr": (1e-5, 1e-1), "hidden": (16, 1024)}
    unlabelled = "beside"

    def __init__(self, ctx, *, alpha: float = 1.0, discriminator_lr: float = 1e-3, hidden: int = 128):
        super().__init__(ctx)
        self.alpha, self.discriminator_lr = alpha, discriminator_lr
        self.discriminator = nn.Sequential(
            nn.Linear(ctx.num_classes, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, 1 + ctx.num_classes),  # the logit of "real", then those of the classes
        )

    def optimizers(self, make):
        return {
            "main": make(self.student.parameters()),
            "discriminator": torch.optim.Adam(self.discriminator.parameters(), lr=self.discriminator_lr),
        }

    def step(self, batch, optimizers):
        student, teacher = self.study(batch).logits, self.teach(batch).logits
        discriminator_terms = self.discriminator_terms(student.detach(), teacher, batch.labels)
        descend(optimizers["discriminator"], sum(discriminator_terms.values()))
        terms = self.student_terms(student, teacher, batch.labels)
        descend(optimizers["main"], sum(terms.values()))
        return {**terms, **discriminator_terms}

    def discriminator_terms(self, student, teacher, labels):  # logits [B, K] twice, [B]
        of_teacher, of_student = self.discriminator(teacher), self.discriminator(student)
        return {
            "discriminate": discriminator_loss(of_teacher[:, 0], of_student[:, 0]),
            "classify": F.cross_entropy(of_teacher[:, 1:], labels) + F.cross_entropy(of_student[:, 1:], labels),
        }

    def student_terms(self, student, teacher, labels):  # logits [B, K] twice, [B]
        of_student = self.discriminator(student)
        return {
            "ce": F.cross_entropy(student, labels),
            "l1": self.alpha * (student - teacher).abs().sum(dim=1).mean(),
            "fool": self.alpha * fooling_loss(of_student[:, 0]),
            "class": self.alpha * F.cross_entropy(of_student[:, 1:], labels),
        }
