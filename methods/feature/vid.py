import math

import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.stages import match_resolution, pair_stages

EPSILON = 1e-5           # the least variance
INITIAL_VARIANCE = 5.0


def negative_log_likelihood(mean, target, scale):  # [B, C, H, W] twice, [C]
    """The negative log-likelihood of the target under a Gaussian whose variance, one per channel, is softplus(scale) +
    EPSILON: without the constant, averaged over elements."""
    variance = (F.softplus(scale) + EPSILON).view(1, -1, 1, 1)
    return 0.5 * ((mean - target).pow(2) / variance + variance.log()).mean()


class VID(Method):
    """The student maximises a lower bound of the mutual information between its stages and the teacher's: the
    likelihood of the teacher's stage under a Gaussian whose mean is regressed from the student's.

    loss = CE(student, labels) + alpha sum over stages of mean((t - mu(s))^2 / (2 sigma_c^2) + log sigma_c)

    mu is three 1x1 convolutions, sigma_c^2 = softplus(scale_c) + 1e-5 is learned per channel from 5, as in the authors'
    code; weight 1 and the mean over elements as in RepDistiller, which carries that code. Where resolutions differ, the
    larger map is pooled.

    The mean gives each of C variances 1 / C of a gradient, so from 5 they take thousands of steps to the size of the
    residuals (0.1 to 0.3, say), and the residuals count as little as that for the student. Short runs need a larger
    alpha, up to 100. It weights the gradient that reaches the student; regressors and variances, which occur in no
    other term, descend theirs unweighted. With 100 times the rate the regressors, whose curvature grows as the
    variances fall, would diverge within a hundred steps.
    """

    name, family = "vid", "feature"
    paper = Paper(
        title="Variational Information Distillation for Knowledge Transfer",
        authors=("Sungsoo Ahn", "Shell Xu Hu", "Andreas Damianou", "Neil D. Lawrence", "Zhenwen Dai"),
        year=2019, venue="CVPR", arxiv="1904.05835",
    )
    ranges = {"alpha": (0.01, 100.0)}
    unlabelled = "beside"

    def __init__(self, ctx, *, alpha: float = 1.0):
        super().__init__(ctx)
        self.alpha = alpha
        pairs = pair_stages(ctx.student_shapes.stages, ctx.teacher_shapes.stages)
        self.means = nn.ModuleList(regressor(s[0], t[0]) for s, t in pairs)
        initial = math.log(math.exp(INITIAL_VARIANCE - EPSILON) - 1)  # the inverse of softplus
        self.scales = nn.ParameterList(torch.full((t[0],), initial) for _, t in pairs)

    def losses(self, batch, student, teacher):
        stages = [weigh_gradient(stage, self.alpha) for stage in student.stages]
        pairs = [match_resolution(s, t) for s, t in pair_stages(stages, teacher.stages)]
        parts = zip(pairs, self.means, self.scales, strict=True)
        loss = sum(negative_log_likelihood(mean(s), t, scale) for (s, t), mean, scale in parts)
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "vid": loss + (self.alpha - 1) * loss.detach(),  # of the weighted loss's size
        }


def weigh_gradient(values, weight):
    """The values themselves, whose gradient is multiplied by the weight."""
    return values.detach() + weight * (values - values.detach())


def regressor(channels_in, channels_out):
    """1x1 convolutions from [B, channels_in, H, W] to [B, channels_out, H, W]."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.ReLU(),
        nn.Conv2d(channels_out, channels_out, 1, bias=False), nn.ReLU(),
        nn.Conv2d(channels_out, channels_out, 1, bias=False),
    )
