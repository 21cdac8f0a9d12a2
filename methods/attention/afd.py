import math

import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.losses import labelled_cross_entropy, soft_cross_entropy
from kdbench.parts.stages import pool


def spatial_map(stage, size):  # [B, C, H, W] -> [B, positions of size]
    """The channels' mean square at each position, pooled to `size` and scaled to L2 norm 1 over the positions."""
    return F.normalize(pool(stage.pow(2).mean(1, keepdim=True), size).flatten(1))


def attended_distance(weights, students, teacher):  # [B, S], [B, S, P], [B, P]
    """Mean squared difference of each of the student's maps to one of the teacher's, summed over the student's stages
    with their weights and averaged over images."""
    return ((students - teacher[:, None]).pow(2).mean(2) * weights).sum(1).mean()


class AFD(Method):
    """Attention weights decide how much each stage of the student learns from each stage of the teacher. Queries and
    keys come from the stages' channel means; what is matched are maps of where the stages are active.

    loss = CE(student, labels) + kd temperature^2 KL(teacher || student)
         + alpha sum_t mean over images of sum_s a_ts mean((m_s - m_t)^2)
    a_t = softmax_s((q_t . W_t k_s + p_t . p_s) / sqrt(width))

    Weights (kd 0.9 beside an undiminished cross-entropy, alpha 200, width 128) are those of the authors' code. It takes
    the output of every residual block; a network of any kind gives up to four stages here. Every map is resized to the
    teacher's, as there.
    """

    name, family = "afd", "attention"
    paper = Paper(
        title="Show, Attend and Distill: Knowledge Distillation via Attention-based Feature Matching",
        authors=("Mingi Ji", "Byeongho Heo", "Sungrae Park"), year=2021, venue="AAAI", arxiv="2102.02973",
    )
    ranges = {"alpha": (1.0, 2000.0), "kd": (0.0, 10.0), "temperature": (1.0, 20.0), "width": (16, 512)}
    unlabelled = "alone"
    conditions = ("with kd",)

    @classmethod
    def inapplicable(cls, student, teacher):
        if all(height * width == 1 for _, height, width in teacher.stages):
            return "no stage of the teacher has more than one position to attend to"
        return None

    def __init__(self, ctx, *, alpha: float = 200.0, kd: float = 0.9, temperature: float = 4.0, width: int = 128):
        super().__init__(ctx)
        self.alpha, self.kd, self.temperature = alpha, kd, temperature
        self.attention = Attention(ctx.student_shapes.stages, ctx.teacher_shapes.stages, width)

    def losses(self, batch, student, teacher):
        weights = self.attention(student.stages, teacher.stages)
        total = 0.0
        for t, stage in enumerate(teacher.stages):
            size = tuple(stage.shape[2:])
            maps = torch.stack([spatial_map(s, size) for s in student.stages], dim=1)
            total = total + attended_distance(weights[:, t], maps, spatial_map(stage, size))
        return {
            "ce": labelled_cross_entropy(student.logits, batch.labels),
            "kd": self.kd * soft_cross_entropy(student.logits, teacher.logits, self.temperature),
            "afd": self.alpha * total,
        }


class Attention(nn.Module):
    """Attention weights [B, T, S] of the teacher's T stages over the student's S stages; they sum to 1 over S."""

    def __init__(self, students, teachers, width):
        super().__init__()
        self.keys = nn.ModuleList(nn.Sequential(linear(s[0], width), nn.ReLU()) for s in students)
        self.queries = nn.ModuleList(linear(t[0], width) for t in teachers)
        self.bilinear = linear(width, width * len(teachers))
        self.student_places = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(students), width)))
        self.teacher_places = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(teachers), width)))

    def forward(self, students, teachers):
        keys = torch.stack([key(s.mean((2, 3))) for key, s in zip(self.keys, students, strict=True)], dim=1)
        queries = torch.stack([query(t.mean((2, 3))) for query, t in zip(self.queries, teachers, strict=True)], dim=1)
        keys = self.bilinear(keys.flatten(0, 1)).view(*keys.shape[:2], len(teachers), -1)  # [B, S, T, D]
        logits = torch.einsum("bstd,btd->bts", keys, queries) + self.teacher_places @ self.student_places.T
        return F.softmax(logits / math.sqrt(queries.shape[2]), dim=2)


def linear(features_in, features_out):
    """A linear layer and BatchNorm, [B, features_in] to [B, features_out]."""
    return nn.Sequential(nn.Linear(features_in, features_out), nn.BatchNorm1d(features_out))
