from kdbench.method import Method, Paper
from kdbench.parts.attack import diverging
from kdbench.parts.losses import soft_cross_entropy


class RSLAD(Method):
    """The student learns the teacher's probabilities for clean images, on these and on attacked ones. They replace the
    labels everywhere, in the attack as in both terms of the loss ("robust soft labels"): no label is used.

    loss = alpha KL(teacher(x) || student(x + d)) + (1 - alpha) KL(teacher(x) || student(x)),
    where d raises KL(teacher(x) || student(x + d)) within |d|_inf <= radius, in multiples of the dataset's radius

    Defaults are the authors' for CIFAR-10: alpha 5/6, ten steps of 2/255 within 8/255 (a quarter of the radius) from
    Gaussian noise of 0.001, the student in eval mode during the attack. Their code divides the divergence by the number
    of classes too; we average over the batch, as the equation does. The paper's teachers are adversarially trained; a
    suite's are where its `reference` is such a method.
    """

    name, family = "rslad", "adversarial"
    conditions = ("robust",)
    paper = Paper(
        title="Revisiting Adversarial Robustness Distillation: Robust Soft Labels Make Student Better",
        authors=("Bojia Zi", "Shihao Zhao", "Xingjun Ma", "Yu-Gang Jiang"),
        year=2021, venue="ICCV", arxiv="2108.07969",
    )
    needs_images = True
    ranges = {"alpha": (0.0, 1.0), "radius": (0.0, 2.0), "step_size": (0.0, 1.0), "attack_steps": (1, 50)}
    unlabelled = "alone"

    def __init__(self, ctx, *, alpha: float = 0.8333, radius: float = 1.0, step_size: float = 0.25,
                 attack_steps: int = 10):
        super().__init__(ctx)
        self.alpha, self.step_size, self.attack_steps = alpha, step_size, attack_steps
        self.epsilon = radius * ctx.attack_radius

    def attack(self, images, teacher_logits):
        """The images [B, C, H, W], perturbed to raise the student's divergence from the teacher's logits [B, K]."""
        return diverging(self.student, images, teacher_logits, self.ctx.pixel_low, self.ctx.pixel_high,
                         epsilon=self.epsilon, step_size=self.step_size * self.epsilon, steps=self.attack_steps)

    def losses(self, batch, student, teacher):
        attacked = self.student(self.attack(batch.images, teacher.logits)).logits
        return {
            "robust": self.alpha * soft_cross_entropy(attacked, teacher.logits, 1.0),
            "clean": (1 - self.alpha) * soft_cross_entropy(student.logits, teacher.logits, 1.0),
        }
