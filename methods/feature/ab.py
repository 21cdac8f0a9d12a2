import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.stages import BeforeActivation, match_resolution, pair_stages, projection


def boundary_loss(student, teacher, margin):  # [B, C, H, W] twice
    """The squared distance to the margin on the teacher's side of zero, of responses that are not beyond it: summed
    over an image and averaged over the batch."""
    side = torch.where(teacher > 0, 1.0, -1.0)
    return F.relu(margin - side * student).square().sum() / len(student)


class ActivationBoundaries(Method):
    """The student first learns which of the teacher's neurons are active, not how much: each response is drawn past a
    margin on the teacher's side of the activation boundary. It then trains on the labels alone from the weights thus
    found.

    first boundary_share of the steps: loss = alpha sum_i 2^(i - n) sum relu(margin - sign(t_i) connector(s_i))^2
    the rest: loss = CE(student, labels)

    Stages i = 1..n are taken before the activation that ends them; the inner sum is over an image, averaged over the
    batch. Margin 1, the halved weights of shallower stages, the connector and its initialisation, and alpha (3 / 1000
    for CIFAR, 1 / 1000 for ImageNet's networks) are the authors' code's. Its teacher is in train mode in the first
    part; ours is in eval mode. Its runs on CIFAR-10 end on KD's divergence instead of the labels. That would be another
    method with a better start, so the second part is plain training, as in Tian et al. (2020), whose 30 epochs before
    240 give the share; here it comes out of the one budget. Where resolutions differ, the larger map is pooled.

    The distance is a sum over C x H x W elements, so alpha is a rate: the authors' belongs to last stages of 256 x 8 x
    8, 49 / (C H W) of the teacher's gives it for others. That is for thousands of steps. What the first part takes, the
    labels lack: of 168 steps (`quick`, three seeds), validation accuracy was 92.9 % without it, 92.8 at 0.0003 and 90.4
    at 0.003.
    """

    name, family = "ab", "feature"
    paper = Paper(
        title="Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
        authors=("Byeongho Heo", "Minsik Lee", "Sangdoo Yun", "Jin Young Choi"),
        year=2019, venue="AAAI", arxiv="1811.03233",
    )
    ranges = {"alpha": (1e-4, 0.1), "margin": (0.1, 10.0), "boundary_share": (0.0, 0.9)}
    unlabelled = "beside"

    def __init__(self, ctx, *, alpha: float = 0.003, margin: float = 1.0, boundary_share: float = 0.11):
        super().__init__(ctx)
        self.alpha, self.margin, self.first_part = alpha, margin, boundary_share
        pairs = pair_stages(ctx.student_shapes.stages, ctx.teacher_shapes.stages)
        self.connectors = nn.ModuleList(projection(s[0], t[0]) for s, t in pairs)
        for convolution, _ in self.connectors:
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
        self.student_before = BeforeActivation(ctx.student, ctx.image_shape)
        self.teacher_before = BeforeActivation(ctx.teacher, ctx.image_shape)

    def study(self, batch):
        return self.student_before(batch.images) if self.in_first_part else self.student(batch.images)

    def teach(self, batch):
        if not self.in_first_part:
            return None
        with torch.no_grad():
            return self.teacher_before(batch.images)

    def losses(self, batch, student, teacher):  # in the first part both networks' stages are before their activation
        if not self.in_first_part:
            return {"ce": F.cross_entropy(student.logits, batch.labels)}
        pairs = [match_resolution(s, t) for s, t in pair_stages(student.stages, teacher.stages)]
        parts = zip(pairs, self.connectors, strict=True)
        distances = [boundary_loss(connector(s), t, self.margin) for (s, t), connector in parts]
        return {"boundary": self.alpha * sum(d / 2**i for i, d in enumerate(reversed(distances)))}
