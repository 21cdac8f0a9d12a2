from itertools import pairwise

import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.stages import match_resolution, pair_stages, width_adapters


class FSP(Method):
    """The student first learns the teacher's "flow of solution procedure": the inner products of each stage's channels
    with those of the next. It then trains on the labels alone from the weights thus found.

    first flow_share of the steps: loss = alpha sum_{stages i} mean (G_i^student - G_i^teacher)^2
    with G_i = 1 / (H W) sum_{positions} F_i F_{i+1}^T, a matrix [C_i, C_{i+1}] for each image
    the rest: loss = CE(student, labels)

    Both stages of the paper, inside one budget; the share is that of Tian et al. (2020), 30 epochs before 240, and so
    are the mean over the matrix where the paper has a sum and average pooling of the larger of two stages where it has
    maximum pooling. The paper's flows go from the first layer of a stage to its last. A network of any kind gives the
    last map of each stage here, so flows go from stage to stage, like all but the first of Tian et al. The paper needs
    student and teacher stages of the same widths; where they differ, the student's pass through a 1x1 convolution with
    BatchNorm that serves the first part alone.

    Each part has the recipe's schedule for itself, as in the code of Tian et al., where they are two runs.
    """

    name, family = "fsp", "relation"
    paper = Paper(
        title="A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning",
        authors=("Junho Yim", "Donggyu Joo", "Jihoon Bae", "Junmo Kim"),
        year=2017, venue="CVPR", doi="10.1109/CVPR.2017.754",
    )
    ranges = {"alpha": (0.0, 1000.0), "flow_share": (0.0, 0.9)}
    unlabelled = "beside"

    def __init__(self, ctx, *, alpha: float = 1.0, flow_share: float = 0.11):
        super().__init__(ctx)
        self.alpha, self.first_part = alpha, flow_share
        self.adapters = width_adapters(ctx.student_shapes.stages, ctx.teacher_shapes.stages)

    @classmethod
    def inapplicable(cls, student, teacher):
        if min(len(student.stages), len(teacher.stages)) < 2:
            return "a flow goes from one stage to the next, and one of the networks has a single stage"
        return None

    def losses(self, batch, student, teacher):
        if not self.in_first_part:
            return {"ce": F.cross_entropy(student.logits, batch.labels)}
        ours, theirs = zip(*pair_stages(student.stages, teacher.stages), strict=True)
        ours = [adapt(stage) for adapt, stage in zip(self.adapters, ours, strict=True)]
        return {"flow": self.alpha * flow_loss(ours, theirs)}


def flow_loss(student, teacher):  # lists of stages, pairwise of the same widths
    """The mean squared difference of the networks' flows, summed over the pairs of consecutive stages."""
    flows = zip(pairwise(student), pairwise(teacher), strict=True)
    return sum(F.mse_loss(flow(*ours), flow(*theirs)) for ours, theirs in flows)


def flow(first, second):  # [B, C, H, W], [B, D, H', W'] -> [B, C, D]
    """The mean over the positions of the products of two stages' channels; the larger stage is pooled to the
    smaller."""
    first, second = (stage.flatten(2) for stage in match_resolution(first, second))
    return first @ second.transpose(1, 2) / first.shape[2]
