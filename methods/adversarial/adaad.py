import torch

from kdbench.method import Method, Paper
from kdbench.parts.attack import projected_gradient
from kdbench.parts.losses import soft_cross_entropy


class AdaAD(Method):
    """The attack looks for images on which student and teacher differ most, and the student learns the teacher's
    predictions for just these images. The teacher's answers change while the attack goes on, where other methods keep
    those for the clean image ("adaptive adversarial distillation"). No label is used.

    loss = alpha KL(teacher(x + d) || student(x + d)) + (1 - alpha) KL(teacher(x) || student(x)),
    where d raises KL(teacher(x + d) || student(x + d)) within |d|_inf <= radius, in multiples of the dataset's radius

    The attack's gradient goes through both networks. alpha 1 is the authors' default, with ten steps of 2/255 within
    8/255 (a quarter of the radius) from Gaussian noise of 0.001, the student in eval mode during the attack. Their code
    for CIFAR-10 divides the divergences by the number of classes too, that for CIFAR-100 does not; we average over the
    batch. The clean batch passes through the student in any case, for BatchNorm's running statistics, as there. The
    paper's teachers are adversarially trained; a suite's are where its `reference` is such a method.
    """

    name, family = "adaad", "adversarial"
    conditions = ("robust",)
    paper = Paper(
        title="Boosting Accuracy and Robustness of Student Models via Adaptive Adversarial Distillation",
        authors=("Bo Huang", "Mingyang Chen", "Yi Wang", "Junda Lu", "Minhao Cheng", "Wei Wang"),
        year=2023, venue="CVPR",
    )
    ranges = {"alpha": (0.0, 1.0), "radius": (0.0, 2.0), "step_size": (0.0, 1.0), "attack_steps": (1, 50)}
    needs_images = True

    def __init__(self, ctx, *, alpha: float = 1.0, radius: float = 1.0, step_size: float = 0.25,
                 attack_steps: int = 10):
        super().__init__(ctx)
        self.alpha, self.step_size, self.attack_steps = alpha, step_size, attack_steps
        self.epsilon = radius * ctx.attack_radius

    def study(self, batch):
        with torch.set_grad_enabled(self.alpha < 1):  # else clean images only enter BatchNorm's running statistics
            return self.student(batch.images)

    def attack(self, images):
        """The images [B, C, H, W], perturbed to raise the student's divergence from the teacher on them."""
        self.student.eval()
        attacked = projected_gradient(
            images, lambda x: soft_cross_entropy(self.student(x).logits, self.ctx.teacher(x).logits, 1.0),
            self.ctx.pixel_low, self.ctx.pixel_high, epsilon=self.epsilon, step_size=self.step_size * self.epsilon,
            steps=self.attack_steps, start=0.001 * torch.randn_like(images))
        self.student.train()
        return attacked

    def losses(self, batch, student, teacher):
        images = self.attack(batch.images)
        with torch.no_grad():
            answers = self.ctx.teacher(images).logits
        return {
            "robust": self.alpha * soft_cross_entropy(self.student(images).logits, answers, 1.0),
            "clean": (1 - self.alpha) * soft_cross_entropy(student.logits, teacher.logits, 1.0),
        }
