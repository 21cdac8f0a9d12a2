import torch
import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.attack import projected_gradient
from kdbench.parts.statistics import batch_statistics


class PGDAdversarialTraining(Method):
    """Plain training on attacked images and their labels, without a teacher (adversarial training).
    The control for methods that distil robustness, and what trains a robust teacher.

    loss = CE(student(x + d), labels),
    where d raises that loss within |d|_inf <= radius, in multiples of the dataset's radius

    Defaults are those of the authors' code for CIFAR-10: ten steps (the paper: seven) of 2/255 within 8/255, a quarter
    of the radius, from a random start, the student in train mode. In the code BatchNorm's running statistics also
    record each of the attack's passes; here they record the attacked batch alone, once.
    """

    name, family = "pgd_at", "baseline"
    conditions = ("robust",)
    paper = Paper(
        title="Towards Deep Learning Models Resistant to Adversarial Attacks",
        authors=("Aleksander Madry", "Aleksandar Makelov", "Ludwig Schmidt", "Dimitris Tsipras", "Adrian Vladu"),
        year=2018, venue="ICLR", arxiv="1706.06083",
    )
    needs_images = True
    ranges = {"radius": (0.0, 2.0), "step_size": (0.0, 1.0), "attack_steps": (1, 50)}
    learns_from = None

    def __init__(self, ctx, *, radius: float = 1.0, step_size: float = 0.25, attack_steps: int = 10):
        super().__init__(ctx)
        self.epsilon, self.step_size, self.attack_steps = radius * ctx.attack_radius, step_size, attack_steps

    def study(self, batch):
        """The student's outputs on the batch's images, perturbed to raise its cross-entropy."""
        with batch_statistics(self.student):
            attacked = projected_gradient(
                batch.images, lambda images: F.cross_entropy(self.student(images).logits, batch.labels),
                self.ctx.pixel_low, self.ctx.pixel_high, epsilon=self.epsilon, step_size=self.step_size * self.epsilon,
                steps=self.attack_steps, start=self.epsilon * (2 * torch.rand_like(batch.images) - 1),
            )
        return self.student(attacked)

    def losses(self, batch, student, teacher):
        return {"ce": F.cross_entropy(student.logits, batch.labels)}
