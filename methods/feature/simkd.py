import copy

import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Outputs, Paper
from kdbench.parts.stages import pool


class SimKD(Method):
    """The student takes over the teacher's classifier. Its last stage, through a small projector, only learns to equal
    the teacher's last stage, which that classifier was trained on.

    loss = alpha mean((projector(s) - t)^2)

    There is no loss on labels or logits. The deployed network is student, projector and the teacher's classifier; the
    student's own classifier stays untrained. The projector narrows to 1/factor of the teacher's width, as in the
    authors' code. Where the teacher's classifier reads something else than its average-pooled last stage (a
    transformer, a network with a further layer at its head), s is pooled and t is what the classifier does read, and
    the projector ends without a rectifier.

    As this is the only term, alpha multiplies the rate. The authors' 1 goes with the schedule of the other methods: on
    CIFAR 187,000 steps from a rate of 0.05. A shorter run takes a larger alpha: 9400 / (rate x steps), but at most 100.
    """

    name, family = "simkd", "feature"
    paper = Paper(
        title="Knowledge Distillation with the Reused Teacher Classifier",
        authors=("Defang Chen", "Jian-Ping Mei", "Hailin Zhang", "Can Wang", "Yan Feng", "Chun Chen"),
        year=2022, venue="CVPR", arxiv="2203.14001",
    )
    ranges = {"alpha": (0.0, 1000.0), "factor": (1, 8)}
    unlabelled = "alone"
    conditions = ("no labels",)

    def __init__(self, ctx, *, alpha: float = 1.0, factor: int = 2):
        super().__init__(ctx)
        self.alpha = alpha
        student, teacher = ctx.student_shapes.stages[-1], ctx.teacher_shapes.stages[-1]
        self.reads_map = ctx.teacher_shapes.pooled
        self.size = (min(student[1], teacher[1]), min(student[2], teacher[2])) if self.reads_map else (1, 1)
        self.projector = projector(student[0], ctx.teacher_shapes.embedding, factor)
        if not self.reads_map:
            self.projector = self.projector[:-1]

    def losses(self, batch, student, teacher):
        target = teacher.stages[-1] if self.reads_map else teacher.embedding[:, :, None, None]
        distance = F.mse_loss(self.projector(pool(student.stages[-1], self.size)), pool(target, self.size))
        return {"feature": self.alpha * distance}

    def deployed(self):
        return Reused(self.student, self.projector, copy.deepcopy(self.ctx.teacher.classifier), self.size)


def projector(channels_in, channels_out, factor):
    """Convolutions from [B, channels_in, H, W] to [B, channels_out, H, W], through channels_out / factor channels."""
    narrow = max(1, channels_out // factor)
    return nn.Sequential(
        nn.Conv2d(channels_in, narrow, 1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU(),
        nn.Conv2d(narrow, narrow, 3, padding=1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU(),
        nn.Conv2d(narrow, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU(),
    )


class Reused(nn.Module):
    """A student whose logits come from its last stage through the projector and the teacher's classifier."""

    def __init__(self, student, projector, classifier, size):
        super().__init__()
        self.student, self.projector, self.classifier, self.size = student, projector, classifier, size

    def forward(self, images):
        stages = self.student(images).stages
        embedding = self.projector(pool(stages[-1], self.size)).mean((2, 3))
        return Outputs(self.classifier(embedding), embedding, stages)
