import torch
import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.attack import projected_gradient
from kdbench.parts.losses import soft_cross_entropy
from kdbench.parts.statistics import batch_statistics


class ARD(Method):
    """The student is attacked on every image, and its prediction for the attacked image is matched to the teacher's for
    the clean one: it learns the teacher's class probabilities and robustness to small perturbations at once.

    loss = (1 - alpha) CE(student(x), labels) + alpha temperature^2 KL(teacher(x) || student(x + d)),
    where d raises CE(student(x + d), labels) within |d|_inf <= radius, in multiples of the dataset's radius

    Defaults are those of the authors' code for CIFAR-10: alpha 1, temperature 30, and in the attack ten steps of 2/255
    within 8/255 (a quarter of the radius) from a random start, the student in train mode. The code divides the
    divergence by the number of classes too (PyTorch's "mean"); we average over the batch, as the equation does. In the
    code BatchNorm's running statistics also record each of the attack's passes; here they record the clean and the
    attacked batch once. The paper's teachers are adversarially trained; a suite's are where its `reference` is such a
    method.
    """

    name, family = "ard", "adversarial"
    conditions = ("robust",)
    paper = Paper(
        title="Adversarially Robust Distillation",
        authors=("Micah Goldblum", "Liam Fowl", "Soheil Feizi", "Tom Goldstein"),
        year=2020, venue="AAAI", arxiv="1905.09747",
    )
    needs_images = True
    ranges = {"alpha": (0.0, 1.0), "temperature": (1.0, 50.0), "radius": (0.0, 2.0), "step_size": (0.0, 1.0),
              "attack_steps": (1, 50)}

    def __init__(self, ctx, *, alpha: float = 1.0, temperature: float = 30.0, radius: float = 1.0,
                 step_size: float = 0.25, attack_steps: int = 10):
        super().__init__(ctx)
        self.alpha, self.temperature = alpha, temperature
        self.epsilon, self.step_size, self.attack_steps = radius * ctx.attack_radius, step_size, attack_steps

    def study(self, batch):
        with torch.set_grad_enabled(self.alpha < 1):  # else clean images only enter BatchNorm's running statistics
            return self.student(batch.images)

    def attack(self, batch):
        """The batch's images [B, C, H, W], perturbed to raise the student's cross-entropy."""
        with batch_statistics(self.student):
            return projected_gradient(
                batch.images, lambda images: F.cross_entropy(self.student(images).logits, batch.labels),
                self.ctx.pixel_low, self.ctx.pixel_high, epsilon=self.epsilon, step_size=self.step_size * self.epsilon,
                steps=self.attack_steps, start=self.epsilon * (2 * torch.rand_like(batch.images) - 1),
            )

    def losses(self, batch, student, teacher):
        attacked = self.student(self.attack(batch)).logits
        return {
            "ce": (1 - self.alpha) * F.cross_entropy(student.logits, batch.labels),
            "ard": self.alpha * soft_cross_entropy(attacked, teacher.logits, self.temperature),
        }
