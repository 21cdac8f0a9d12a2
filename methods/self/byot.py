import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.losses import soft_cross_entropy


class Branch(nn.Module):
    """A classifier on a shallow stage: a bottleneck to the embedding's width, pooling, a linear layer."""

    def __init__(self, shape, deepest, embedding, num_classes):  # shapes: (C, H, W)
        super().__init__()
        width, stride = shape[0], max(1, shape[1] // deepest[1])
        kernel = max(3, stride)
        self.bottleneck = nn.Sequential(
            nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, kernel, stride, (kernel - stride + 1) // 2, bias=False), nn.BatchNorm2d(width),
            nn.ReLU(), nn.Conv2d(width, embedding, 1, bias=False), nn.BatchNorm2d(embedding),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )
        self.classifier = nn.Linear(embedding, num_classes)

    def forward(self, stage):
        """The logits [B, K] of a stage [B, C, H, W], and the feature [B, D] that the linear layer maps to them."""
        feature = self.bottleneck(stage)
        return self.classifier(feature), feature


def hint_loss(shallow, deep):
    """Squared L2 distance of features [B, D], averaged over the batch."""
    return (shallow - deep).square().sum(dim=1).mean()


class BYOT(Method):
    """A network's deepest classifier teaches auxiliary classifiers on its own shallower stages, while all train.
    Through these branches the shallow stages learn from the deep ones; at inference the branches are dropped.

    loss = CE(p_C, labels) + sum_i<C [(1 - alpha) CE(p_i, labels) + alpha KL(p_C || p_i) + hint |f_i - f_C|^2]

    KL is at a temperature and, as in the authors' code, not multiplied by its square; the deepest outputs get no
    gradient from it or from the hint. alpha 0.3 and temperature 3 are the code's. That code is of the later journal
    version, which adds attention modules, a linear layer on f_i and an unsquared distance over the whole batch, and
    spares one branch the hint: the conference paper's squared distance, for every branch, is taken, of the pooled
    features, as in the code. The paper states no weight for it; the code's 0.03 is of the unsquared distance, so that
    it is ours to keep it. A bottleneck is as wide as its stage and has no last ReLU, because f_C, the embedding, may be
    negative.
    """

    name, family = "byot", "self"
    paper = Paper(
        title="Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self Distillation",
        authors=("Linfeng Zhang", "Jiebo Song", "Anni Gao", "Jingwei Chen", "Chenglong Bao", "Kaisheng Ma"),
        year=2019, venue="ICCV", arxiv="1905.08094",
    )
    ranges = {"alpha": (0.0, 1.0), "hint": (0.0, 0.3), "temperature": (1.0, 10.0)}
    learns_from = None

    def __init__(self, ctx, *, alpha: float = 0.3, hint: float = 0.03, temperature: float = 3.0):
        super().__init__(ctx)
        self.alpha, self.hint, self.temperature = alpha, hint, temperature
        *shallow, deepest = ctx.student_shapes.stages
        self.branches = nn.ModuleList(
            Branch(shape, deepest, ctx.student_shapes.embedding, ctx.num_classes) for shape in shallow
        )

    @classmethod
    def inapplicable(cls, student, teacher):
        return None if len(student.stages) > 1 else "the student has no stage before its deepest one"

    def losses(self, batch, student, teacher):
        branches = [branch(stage) for branch, stage in zip(self.branches, student.stages, strict=False)]
        logits, feature = student.logits.detach(), student.embedding.detach()
        labels = sum(F.cross_entropy(shallow, batch.labels) for shallow, _ in branches)
        divergence = sum(soft_cross_entropy(shallow, logits, self.temperature) for shallow, _ in branches)
        distance = sum(hint_loss(shallow, feature) for _, shallow in branches)
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "branches": (1 - self.alpha) * labels,
            "kd": self.alpha * divergence / self.temperature**2,
            "hint": self.hint * distance,
        }
