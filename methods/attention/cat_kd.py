import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.stages import pool


def class_maps(stage, weight):  # [B, C, H, W], [K, C] -> [B, K, H, W]
    """Class activation maps: the classifier, without its bias, applied before the average over positions."""
    return F.conv2d(stage, weight.flatten(1)[:, :, None, None])


def map_loss(student, teacher, normalise=True):  # both [B, K, H, W]
    """Mean squared difference of the maps, each scaled to L2 norm 1 over its positions unless `normalise` is false."""
    if normalise:
        student, teacher = F.normalize(student, dim=(2, 3)), F.normalize(teacher, dim=(2, 3))
    return F.mse_loss(student, teacher)


class CATKD(Method):
    """For every class the student attends to the regions that the teacher attends to. Those are given by class
    activation maps: the classifier, applied at each position of the last stage.

    loss = CE(student, labels) + alpha mean((A_S / ||A_S|| - A_T / ||A_T||)^2),  A = W pool(stage, resolution)

    Maps are normalised as in the paper's equation. The authors' configurations do so across architectures, with weights
    of 15 to 600; within one they leave it out (`normalise` false), with weights of 0.5 to 15. The default is that of
    VGG-13 to MobileNetV2, normalised and 15; the published suites set the authors' values for their pairs. A student
    whose classifier does not read its average-pooled last stage gets a linear layer of its own for its maps; a teacher
    must be of that kind.
    """

    name, family = "cat_kd", "attention"
    paper = Paper(
        title="Class Attention Transfer Based Knowledge Distillation",
        authors=("Ziyao Guo", "Haonan Yan", "Hui Li", "Xiaodong Lin"), year=2023, venue="CVPR", arxiv="2304.12777",
    )
    ranges = {"alpha": (0.1, 600.0), "resolution": (2, 8)}
    unlabelled = "beside"

    @classmethod
    def inapplicable(cls, student, teacher):
        if not teacher.pooled:
            return "the teacher's classifier does not read its average-pooled last stage: it has no class maps"
        if any(shapes.stages[-1][1] * shapes.stages[-1][2] == 1 for shapes in (student, teacher)):
            return "a last stage of one position has no map"
        return None

    def __init__(self, ctx, *, alpha: float = 15.0, resolution: int = 2, normalise: bool = True):
        super().__init__(ctx)
        self.alpha, self.normalise = alpha, normalise
        student, teacher = ctx.student_shapes.stages[-1], ctx.teacher_shapes.stages[-1]
        self.size = tuple(min(resolution, *lengths) for lengths in zip(student[1:], teacher[1:], strict=True))
        self.head = None if ctx.student_shapes.pooled else nn.Linear(student[0], ctx.num_classes, bias=False)

    def losses(self, batch, student, teacher):
        weight = (self.head or self.student.classifier).weight
        student_maps = class_maps(pool(student.stages[-1], self.size), weight)
        teacher_maps = class_maps(pool(teacher.stages[-1], self.size), self.ctx.teacher.classifier.weight)
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "cat": self.alpha * map_loss(student_maps, teacher_maps, self.normalise),
        }
