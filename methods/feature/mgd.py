import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.stages import match_resolution


class MGD(Method):
    """Part of the student's last stage is masked at random, and a small block must generate the teacher's whole stage
    from what is left.

    loss = CE(student, labels) + alpha mean((t - G(M align(s)))^2)

    M is 0 with probability `masked`, else 1, and drawn for every image anew; G is two 3x3 convolutions with a rectifier
    between, and `align` a 1x1 convolution, left out where the widths agree. The paper's equation masks positions. The
    authors' code for classification masks whole channels, with a probability of 0.15; that is the default here, and
    `mask` has both. Where resolutions differ, the larger map is pooled.

    The code sums over the values of an image's stage, with a weight of 7e-5. For the 512 x 7 x 7 values of a ResNet on
    ImageNet that is 1.76 times their mean, which is the form here, since it suits stages of any size.
    """

    name, family = "mgd", "feature"
    paper = Paper(
        title="Masked Generative Distillation",
        authors=("Zhendong Yang", "Zhe Li", "Mingqi Shao", "Dachuan Shi", "Zehuan Yuan", "Chun Yuan"),
        year=2022, venue="ECCV", arxiv="2205.01529",
    )
    ranges = {"alpha": (0.0, 50.0), "masked": (0.0, 0.9), "mask": ("channels", "positions")}
    unlabelled = "beside"

    def __init__(self, ctx, *, alpha: float = 1.76, masked: float = 0.15, mask: str = "channels"):
        super().__init__(ctx)
        self.alpha, self.masked, self.mask = alpha, masked, mask
        student, teacher = ctx.student_shapes.stages[-1][0], ctx.teacher_shapes.stages[-1][0]
        self.align = nn.Identity() if student == teacher else nn.Conv2d(student, teacher, 1)
        self.generator = nn.Sequential(nn.Conv2d(teacher, teacher, 3, padding=1), nn.ReLU(),
                                       nn.Conv2d(teacher, teacher, 3, padding=1))

    def losses(self, batch, student, teacher):
        guided, target = match_resolution(student.stages[-1], teacher.stages[-1])
        aligned = self.align(guided)
        visible = aligned * draw_mask(aligned, self.masked, self.mask)
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "mgd": self.alpha * F.mse_loss(self.generator(visible), target),
        }


def draw_mask(stage, masked, kind):  # [B, C, H, W]
    """Zeros with probability `masked`, else ones: for each image and channel [B, C, 1, 1] or, for the kind "positions",
    for each image and position [B, 1, H, W]."""
    images, channels, height, width = stage.shape
    shape = (images, channels, 1, 1) if kind == "channels" else (images, 1, height, width)
    return (torch.rand(shape, device=stage.device) >= masked).to(stage.dtype)
