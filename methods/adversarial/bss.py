import torch
import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.losses import soft_cross_entropy


def base_samples(student, teacher, labels, count):
    """Which samples are attacked: of those that both networks classify correctly the `count` whose probabilities of the
    classes other than the label's differ most, in the sum of squares. Logits [B, K], labels [B] -> [at most count]."""
    difference = (F.softmax(teacher, dim=1) - F.softmax(student, dim=1)).square()
    score = difference.sum(dim=1) - difference.gather(1, labels[:, None]).squeeze(1)
    right = ((teacher.argmax(dim=1) == labels) & (student.argmax(dim=1) == labels)).nonzero().squeeze(1)
    return right[score[right].argsort(descending=True, stable=True)[:count]]


def target_classes(logits):
    """A class for each row of logits [B, K], drawn by the probabilities of all classes but the likeliest."""
    weights = F.softmax(logits, dim=1).scatter(1, logits.argmax(dim=1, keepdim=True), 0.0)
    waiting = torch.empty(weights.shape).exponential_().to(weights.device)  # the first of competing exponentials
    return (weights / waiting).argmax(dim=1)


def to_boundary(network, images, targets, pixel_low, pixel_high, *, step_size, steps):
    """Images [B, C, H, W], each moved towards its target class [B] until the network no longer answers as at first:
    just beyond its decision boundary, or on the way there after `steps`."""
    images = images.detach()
    for step in range(steps):
        images.requires_grad_()
        with torch.enable_grad():
            logits = network(images).logits
            if step == 0:
                base = logits.argmax(dim=1)
            gap = (logits.gather(1, base[:, None]) - logits.gather(1, targets[:, None])).squeeze(1)
            slope, = torch.autograd.grad(-gap.sum(), images)
        length = step_size * (gap.detach() + 1e-4) * (logits.argmax(dim=1) == base)
        norm = slope.flatten(1).norm(dim=1).clamp_min(1e-12)
        moved = images.detach() + (length / norm)[:, None, None, None] * slope
        images = torch.clamp(moved, pixel_low, pixel_high)
    return images


class BSS(Method):
    """The student also learns the teacher's predictions for images at the teacher's decision boundary ("boundary
    supporting samples"), which show where it runs. They are made by an attack on the teacher; the aim is accuracy, not
    robustness.

    loss = CE(student, labels) + alpha KL(teacher(x) || student(x)) + boundary KL(teacher(x') || student(x')),
    alpha falls from `alpha` + 1 to 1 over the run, boundary from `boundary` to 0 over the first three quarters

    x' are made of the quarter of the batch (`share`) which both classify correctly and on which they differ most, or of
    fewer. Each moves towards a class drawn by the teacher's probabilities, in at most ten steps along the gradient of
    the difference of the two logits, of length step_size (difference + 0.0001), until the class changes. Everything is
    as in the authors' code for CIFAR-10: alpha 3, boundary 2, temperature 3 (KL is not multiplied by its square), 64
    images of 256, step_size 0.3 in units of normalised pixels. Pixels are kept between black and white, there within
    2.5 deviations. No x' is made once its weight is 0.
    """

    name, family = "bss", "adversarial"
    conditions = ("with kd",)
    paper = Paper(
        title="Knowledge Distillation with Adversarial Samples Supporting Decision Boundary",
        authors=("Byeongho Heo", "Minsik Lee", "Sangdoo Yun", "Jin Young Choi"),
        year=2019, venue="AAAI", arxiv="1805.05532",
    )
    ranges = {"alpha": (0.0, 20.0), "boundary": (0.0, 20.0), "temperature": (1.0, 20.0), "share": (0.0, 1.0),
              "step_size": (0.0, 2.0), "attack_steps": (1, 50)}
    needs_images = True

    def __init__(self, ctx, *, alpha: float = 3.0, boundary: float = 2.0, temperature: float = 3.0, share: float = 0.25,
                 step_size: float = 0.3, attack_steps: int = 10):
        super().__init__(ctx)
        self.alpha, self.boundary, self.temperature, self.share = alpha, boundary, temperature, share
        self.step_size, self.attack_steps = step_size, attack_steps

    def divergence(self, student, teacher):
        """KL(teacher || student) of the class probabilities of logits [B, K] at the temperature."""
        return soft_cross_entropy(student, teacher, self.temperature) / self.temperature**2

    def losses(self, batch, student, teacher):
        terms = {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "kd": (self.alpha * (1 - self.progress) + 1) * self.divergence(student.logits, teacher.logits),
        }
        weight = self.boundary * max(0.0, 1 - 4 / 3 * self.progress)
        count = round(self.share * len(batch.labels))
        chosen = base_samples(student.logits.detach(), teacher.logits, batch.labels, count)
        if weight and len(chosen) > 1:  # BatchNorm cannot normalise one image
            images = to_boundary(self.ctx.teacher, batch.images[chosen], target_classes(teacher.logits[chosen]),
                                 self.ctx.pixel_low, self.ctx.pixel_high, step_size=self.step_size,
                                 steps=self.attack_steps)
            with torch.no_grad():
                answers = self.ctx.teacher(images).logits
            terms["boundary"] = weight * self.divergence(self.student(images).logits, answers)
        return terms
