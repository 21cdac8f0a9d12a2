import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.losses import labelled_cross_entropy, soft_cross_entropy
from kdbench.parts.stages import match_resolution


def similarities(stage):  # [B, C, H, W] -> [B, B]
    """Inner products of each image's stage with those of all images of the batch."""
    flat = stage.flatten(1)
    return flat @ flat.T


def associations(queries, keys):  # [B, S, D], [B, T, D] -> [B, S, T]
    """The weights of the teacher's T stages for each image and each of the student's S stages; they sum to 1 over T."""
    return F.softmax(queries @ keys.mT, dim=2)


def calibrated_distance(weights, distances):  # both [B, S, T]
    """The weighted distance to the teacher's stages, averaged over images and student's stages."""
    return (weights * distances).sum(2).mean()


class SemCKD(Method):
    """Every stage of the student learns from all stages of the teacher, weighted by their semantic similarity. For each
    image, attention gives the weights, from how similar the images of the batch are at each stage.

    loss = CE(student, labels) + kd temperature^2 KL(teacher || student)
         + alpha mean over images and s of sum_t softmax_t(Q_s . K_t) mean((projection_st(s) - t)^2)
    Q_s = unit MLP_s(s s^T),  K_t = unit MLP_t(t t^T)

    Weights, widths and the softened term are the authors' for CIFAR-100; for ImageNet alpha is 50. Larger maps are
    pooled.

    alpha also multiplies the rate of the projections, which end without BatchNorm, and too large a product diverges in
    the first epoch. The authors' 400 goes with a rate of 0.05, their 50 with 0.1: keep alpha x rate at 20 or below.
    """

    name, family = "semckd", "attention"
    paper = Paper(
        title="Cross-Layer Distillation with Semantic Calibration",
        authors=("Defang Chen", "Jian-Ping Mei", "Yuan Zhang", "Can Wang", "Zhe Wang", "Yan Feng", "Chun Chen"),
        year=2021, venue="AAAI", arxiv="2012.03236",
    )
    ranges = {"alpha": (1.0, 2000.0), "kd": (0.0, 10.0), "temperature": (1.0, 20.0)}
    unlabelled = "alone"
    conditions = ("with kd",)

    def __init__(self, ctx, *, alpha: float = 400.0, kd: float = 1.0, temperature: float = 4.0):
        super().__init__(ctx)
        self.alpha, self.kd, self.temperature = alpha, kd, temperature
        students, teachers = ctx.student_shapes.stages, ctx.teacher_shapes.stages
        self.queries = nn.ModuleList(embedding(ctx.batch_size) for _ in students)
        self.keys = nn.ModuleList(embedding(ctx.batch_size) for _ in teachers)
        self.projections = nn.ModuleList(nn.ModuleList(bottleneck(s[0], t[0]) for t in teachers) for s in students)

    def losses(self, batch, student, teacher):
        distances = torch.stack([
            torch.stack([distance(s, t, project) for t, project in zip(teacher.stages, row, strict=True)], dim=1)
            for s, row in zip(student.stages, self.projections, strict=True)
        ], dim=1)
        weights = associations(embed(student.stages, self.queries), embed(teacher.stages, self.keys))
        return {
            "ce": labelled_cross_entropy(student.logits, batch.labels),
            "kd": self.kd * soft_cross_entropy(student.logits, teacher.logits, self.temperature),
            "semckd": self.alpha * calibrated_distance(weights, distances),
        }


def distance(student, teacher, project):
    """Mean squared distance [B] of one student's stage, projected, to one of the teacher's, for each image."""
    student, teacher = match_resolution(student, teacher)
    return (project(student) - teacher).pow(2).mean((1, 2, 3))


def embed(stages, networks):
    """Unit vectors [B, S, D] of the S stages, from their similarities."""
    return torch.stack([F.normalize(network(similarities(stage))) for stage, network in
                        zip(stages, networks, strict=True)], dim=1)


def embedding(batch_size):
    """A perceptron from the similarities [B, B] of a stage to vectors [B, D]."""
    width = max(1, batch_size // 4)
    return nn.Sequential(nn.Linear(batch_size, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


def bottleneck(channels_in, channels_out):
    """Convolutions from [B, channels_in, H, W] to [B, channels_out, H, W]."""
    middle = 2 * channels_out
    return nn.Sequential(
        nn.Conv2d(channels_in, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(),
        nn.Conv2d(middle, middle, 3, padding=1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(),
        nn.Conv2d(middle, channels_out, 1, bias=False),
    )
