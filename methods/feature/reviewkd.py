import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.stages import BeforeActivation, pair_stages, pool, projection

WIDEST = 512  # channels in the fusion


def hierarchical_context_loss(student, teacher):  # both [B, C, H, W]
    """Weighted mean of the squared distances at full size and pooled to 4x4, 2x2 and 1x1 where those are smaller;
    each coarser one counts half of the one before."""
    total, weight, weights = F.mse_loss(student, teacher), 1.0, 1.0
    for size in (4, 2, 1):
        if size < student.shape[2]:
            weight /= 2
            weights += weight
            total = total + weight * F.mse_loss(pool(student, (size, size)), pool(teacher, (size, size)))
    return total / weights


class Fusion(nn.Module):
    """Fuses a student's stage with the fused maps of the deeper ones, and regresses the teacher's stage from that."""

    def __init__(self, channels_in, channels, channels_out, size, deepest):
        super().__init__()
        self.size = size
        self.enter = projection(channels_in, channels)
        self.attention = None if deepest else nn.Sequential(nn.Conv2d(2 * channels, 2, 1), nn.Sigmoid())
        self.leave = nn.Sequential(nn.Conv2d(channels, channels_out, 3, padding=1, bias=False),
                                   nn.BatchNorm2d(channels_out))
        for convolution in (self.enter[0], self.leave[0]):
            nn.init.kaiming_uniform_(convolution.weight, a=1)

    def forward(self, stage, deeper):  # [B, C, H, W], the fused maps of the next deeper level or None
        """The regressed stage of the teacher, and the fused maps for the next shallower level."""
        fused = self.enter(stage)
        if self.attention is not None:
            deeper = F.interpolate(deeper, fused.shape[2:])
            weights = self.attention(torch.cat([fused, deeper], dim=1))
            fused = fused * weights[:, :1] + deeper * weights[:, 1:]
        if tuple(fused.shape[2:]) != self.size:
            fused = F.interpolate(fused, self.size)
        return self.leave(fused), fused


class ReviewKD(Method):
    """Each stage of the teacher teaches the student's stage at that depth and all deeper ones ("knowledge review").
    From the deep end on, the student's stages are fused by attention, and each fusion regresses the teacher's stage.

    loss = CE(student, labels) + alpha min(1, progress / warmup) sum over levels of HCL(fusion_i(s_i, s_i+1, ...), t_i)

    The deepest level is the embedding, as a 1x1 map. As in the authors' code the teacher's stages are taken before
    their last rectifier, on ImageNet the student's too (`preactivation`), and maps are resized to the nearest. The
    weight was 0.6 to 8 there, by pair; the default here is that code's, 1, as is the warm-up of 20 of 240 epochs, as a
    share of the run. On ImageNet it has none.
    """

    name, family = "reviewkd", "feature"
    paper = Paper(
        title="Distilling Knowledge via Knowledge Review",
        authors=("Pengguang Chen", "Shu Liu", "Hengshuang Zhao", "Jiaya Jia"),
        year=2021, venue="CVPR", arxiv="2104.09044",
    )
    ranges = {"alpha": (0.1, 20.0), "warmup": (0.0, 0.5)}
    unlabelled = "beside"

    def __init__(self, ctx, *, alpha: float = 1.0, warmup: float = 0.08, preactivation: bool = False):
        super().__init__(ctx)
        self.alpha, self.warmup = alpha, warmup
        self.teacher_before = BeforeActivation(ctx.teacher, ctx.image_shape)
        self.student_before = BeforeActivation(ctx.student, ctx.image_shape) if preactivation else None
        channels = min(WIDEST, ctx.student_shapes.embedding)
        levels = pair_stages(ctx.student_shapes.stages, ctx.teacher_shapes.stages)
        levels.append(((ctx.student_shapes.embedding, 1, 1), (ctx.teacher_shapes.embedding, 1, 1)))
        self.fusions = nn.ModuleList(
            Fusion(s[0], channels, t[0], t[1:], deepest=i == len(levels)) for i, (s, t) in enumerate(levels, start=1)
        )

    def study(self, batch):
        return (self.student_before or self.student)(batch.images)

    def teach(self, batch):
        with torch.no_grad():
            return self.teacher_before(batch.images)

    def losses(self, batch, student, teacher):  # the teacher's stages before their activation
        total, fused = 0.0, None
        levels = [*pair_stages(student.stages, teacher.stages), (as_map(student.embedding), as_map(teacher.embedding))]
        for (s, t), fusion in reversed(list(zip(levels, self.fusions, strict=True))):
            review, fused = fusion(s, fused)
            total = total + hierarchical_context_loss(review, t)
        ramp = min(1.0, self.progress / self.warmup) if self.warmup else 1.0
        return {"ce": F.cross_entropy(student.logits, batch.labels), "review": self.alpha * ramp * total}


def as_map(embedding):  # [B, D] -> [B, D, 1, 1]
    return embedding[:, :, None, None]
