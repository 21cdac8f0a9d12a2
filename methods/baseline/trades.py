import torch
import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.attack import diverging
from kdbench.parts.losses import soft_cross_entropy


class TRADES(Method):
    """Training on the labels of clean images, and for predictions that an attack does not change, without a teacher.
    The control for methods that distil robustness: the student's own predictions for clean images are the soft labels.

    loss = CE(student(x), labels) + beta KL(student(x) || student(x + d)),
    where d raises the divergence within |d|_inf <= radius, in multiples of the dataset's radius

    The gradient goes through both sides of the divergence. Defaults are the authors' for CIFAR-10: beta 6 (the paper's
    1 / lambda), ten steps of 0.007 within 0.031 (0.2258 of the radius) from Gaussian noise of 0.001, the student in
    eval mode during the attack. On MNIST they take 40 steps of 0.01 within 0.3.
    """

    name, family = "trades", "baseline"
    conditions = ("robust",)
    paper = Paper(
        title="Theoretically Principled Trade-off between Robustness and Accuracy",
        authors=("Hongyang Zhang", "Yaodong Yu", "Jiantao Jiao", "Eric P. Xing", "Laurent El Ghaoui",
                 "Michael I. Jordan"),
        year=2019, venue="ICML", arxiv="1901.08573",
    )
    needs_images = True
    ranges = {"beta": (0.0, 20.0), "radius": (0.0, 2.0), "step_size": (0.0, 1.0), "attack_steps": (1, 50)}
    learns_from = None

    def __init__(self, ctx, *, beta: float = 6.0, radius: float = 1.0, step_size: float = 0.2258,
                 attack_steps: int = 10):
        super().__init__(ctx)
        self.beta, self.step_size, self.attack_steps = beta, step_size, attack_steps
        self.epsilon = radius * ctx.attack_radius

    def attack(self, images):
        """The images [B, C, H, W], perturbed to change what the student in eval mode predicts of them."""
        self.student.eval()
        with torch.no_grad():
            clean = self.student(images).logits
        return diverging(self.student, images, clean, self.ctx.pixel_low, self.ctx.pixel_high,
                         epsilon=self.epsilon, step_size=self.step_size * self.epsilon, steps=self.attack_steps)

    def losses(self, batch, student, teacher):
        attacked = self.student(self.attack(batch.images)).logits
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "robust": self.beta * soft_cross_entropy(attacked, student.logits, 1.0),
        }
