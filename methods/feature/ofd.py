import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.stages import BeforeActivation, match_resolution, pair_stages, projection


def partial_distance(student, teacher, margin):  # [B, C, H, W] twice, [C]
    """The squared distance to the target max(teacher, margin), summed over an image and averaged over the batch.
    Elements where the target is not positive and the student is not above it count as 0."""
    target = torch.maximum(teacher, margin.view(1, -1, 1, 1))
    matters = (student > target) | (target > 0)
    return ((student - target).pow(2) * matters).sum() / len(student)


class OFD(Method):
    """The student regresses the teacher's stages as they are before their last rectifier. Positive responses are
    matched; where one is negative, the student's only has to be no higher than it or than the channel's mean negative
    response (the margin), whichever is higher.

    loss = CE(student, labels) + alpha sum_i 2^(i - n) ||connector(s_i) - max(t_i, m)||^2 over what matters, i = 1..n
    m_c = E[t_c | t_c < 0]

    The authors' code derives the margin from the teacher's last BatchNorm as if its output were Gaussian and there were
    no shortcut; the paper allows counting it in training, which works for any network: the mean of all negative
    responses so far. The teacher stays in eval mode (the code has it in train mode). A stage that no activation ends is
    taken as it is. Connector, its initialisation, weights and alpha (CIFAR; 1e-4 for ImageNet) as in the code.

    The distance is a sum over C x H x W elements, so alpha goes with their inverse: 16 / (C H W) of the teacher's last
    stage gives the authors' value for CIFAR (256 x 8 x 8) and nearly that for ImageNet (2048 x 7 x 7).
    """

    name, family = "ofd", "feature"
    paper = Paper(
        title="A Comprehensive Overhaul of Feature Distillation",
        authors=("Byeongho Heo", "Jeesoo Kim", "Sangdoo Yun", "Hyojin Park", "Nojun Kwak", "Jin Young Choi"),
        year=2019, venue="ICCV", arxiv="1904.01866",
    )
    ranges = {"alpha": (1e-05, 0.1)}
    unlabelled = "beside"

    def __init__(self, ctx, *, alpha: float = 0.001):
        super().__init__(ctx)
        self.alpha = alpha
        pairs = pair_stages(ctx.student_shapes.stages, ctx.teacher_shapes.stages)
        self.connectors = nn.ModuleList(projection(s[0], t[0]) for s, t in pairs)
        for convolution, _ in self.connectors:
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
        self.margins = nn.ModuleList(NegativeMean(t[0]) for _, t in pairs)
        self.student_before = BeforeActivation(ctx.student, ctx.image_shape)
        self.teacher_before = BeforeActivation(ctx.teacher, ctx.image_shape)

    def study(self, batch):
        return self.student_before(batch.images)

    def teach(self, batch):
        with torch.no_grad():
            return self.teacher_before(batch.images)

    def losses(self, batch, student, teacher):  # both networks' stages are those before their activation
        pairs = [match_resolution(s, t) for s, t in pair_stages(student.stages, teacher.stages)]
        parts = zip(pairs, self.connectors, self.margins, strict=True)
        distances = [partial_distance(connector(s), t, margin(t)) for (s, t), connector, margin in parts]
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "ofd": self.alpha * sum(d / 2**i for i, d in enumerate(reversed(distances))),
        }


class NegativeMean(nn.Module):
    """The mean [C] of all negative values that each channel had so far, in any batch; 0 for a channel without any."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("sum", torch.zeros(channels, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(channels, dtype=torch.int64))

    def forward(self, values):  # [B, C, H, W]
        self.sum += values.clamp(max=0).sum((0, 2, 3))
        self.count += (values < 0).sum((0, 2, 3))
        return (self.sum / self.count.clamp(min=1)).to(values.dtype)
