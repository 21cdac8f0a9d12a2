import torch
import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.attack import projected_gradient
from kdbench.parts.statistics import batch_statistics


def divergences(student_logits, teacher_logits, temperature):
    """temperature^2 x KL(teacher || student) of each sample [B], at `temperature`. Both logits are [B, K]."""
    student, teacher = (F.log_softmax(logits / temperature, dim=1) for logits in (student_logits, teacher_logits))
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)


class IAD(Method):
    """A robust teacher is trusted on an attacked image as far as it still knows its class; for the rest the student
    trusts itself, its own prediction for the clean image ("introspective adversarial distillation").

    loss = mean of a temperature^2 KL(teacher(x) || student(x + d)) + (1 - a) KL(student(x) || student(x + d)),
    a = P(label | teacher(x + d))^beta, and 1 in the first `warmup` of the run,
    where d raises CE(student(x + d), labels) within |d|_inf <= radius, in multiples of the dataset's radius

    The variant IAD-I, which builds on `ard`. As in the authors' code the gradient goes through both of the student's
    predictions, and beta is 0.1, the temperature 1, the warm-up 60 of 200 epochs and the attack ten steps of 2/255
    within 8/255 (a quarter of the radius) from a random start, the student in train mode. The code of this variant does
    not multiply the teacher's term by a, that of IAD-II does: we do. In the code BatchNorm's running statistics also
    record each of the attack's passes; here they record the clean and the attacked batch once. The paper's teachers are
    adversarially trained; a suite's are where its `reference` is such a method. Few updates under strong attacks need a
    higher temperature, such as the 30 of `ard`.
    """

    name, family = "iad", "adversarial"
    conditions = ("robust",)
    paper = Paper(
        title="Reliable Adversarial Distillation with Unreliable Teachers",
        authors=("Jianing Zhu", "Jiangchao Yao", "Bo Han", "Jingfeng Zhang", "Tongliang Liu", "Gang Niu",
                 "Jingren Zhou", "Jianliang Xu", "Hongxia Yang"),
        year=2022, venue="ICLR", arxiv="2106.04928",
    )
    ranges = {"beta": (0.0, 10.0), "warmup": (0.0, 1.0), "temperature": (1.0, 50.0), "radius": (0.0, 2.0),
              "step_size": (0.0, 1.0), "attack_steps": (1, 50)}
    needs_images = True

    def __init__(self, ctx, *, beta: float = 0.1, warmup: float = 0.3, temperature: float = 1.0, radius: float = 1.0,
                 step_size: float = 0.25, attack_steps: int = 10):
        super().__init__(ctx)
        self.beta, self.warmup, self.temperature = beta, warmup, temperature
        self.epsilon, self.step_size, self.attack_steps = radius * ctx.attack_radius, step_size, attack_steps

    def attack(self, batch):
        """The batch's images [B, C, H, W], perturbed to raise the student's cross-entropy."""
        with batch_statistics(self.student):
            return projected_gradient(
                batch.images, lambda images: F.cross_entropy(self.student(images).logits, batch.labels),
                self.ctx.pixel_low, self.ctx.pixel_high, epsilon=self.epsilon, step_size=self.step_size * self.epsilon,
                steps=self.attack_steps, start=self.epsilon * (2 * torch.rand_like(batch.images) - 1),
            )

    def trust(self, attacked, labels):
        """How far the teacher is trusted on each of the attacked images [B, C, H, W]: from 0, not, to 1."""
        if self.progress < self.warmup:
            return torch.ones(len(labels), device=labels.device)
        with torch.no_grad():
            right = F.softmax(self.ctx.teacher(attacked).logits, dim=1).gather(1, labels[:, None])
        return right.squeeze(1) ** self.beta

    def losses(self, batch, student, teacher):
        images = self.attack(batch)
        attacked, trust = self.student(images).logits, self.trust(images, batch.labels)
        return {
            "teacher": (trust * divergences(attacked, teacher.logits, self.temperature)).mean(),
            "own": ((1 - trust) * divergences(attacked, student.logits, 1.0)).mean(),
        }
