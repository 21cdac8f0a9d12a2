import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Outputs, Paper, descend
from kdbench.parts.losses import soft_cross_entropy

TURNS = 4  # each image is seen upright and turned by 90, 180 and 270 degrees


class SSKD(Method):
    """A pretext task brings out more of what the teacher knows: which upright image does a turned one belong to? The
    student matches the teacher's answers to it, and its classes of the turned images.

    first head_share of the steps: loss = CE(similarities of the teacher's projections, own image), for its head alone
    the rest: loss = ce CE(student, labels) + kd temperature^2 KL(teacher || student)
                   + turned temperature^2 KL(teacher || student), over the turned images
                   + alpha pretext_temperature^2 KL(A_teacher || A_student)
    with A the softmax, over the batch's B upright images, of a turned image's cosine similarity to each / pretext_
    temperature; features are those of a two-layer head on the embedding.

    All by the authors' code: weights, temperatures, rotations as the transformation, and the selection that keeps every
    turned image whose own is the teacher's first choice and, of the others, the `kept` part that ranks its own highest.
    The code keeps all turned images in the class term, so none are selected there. Its first stage takes 60 epochs
    before the student's 240, extra ones; here that share comes out of the budget. Each step takes the four views of
    each image through both networks: four times the passes of other methods for the same number of updates.
    """

    name, family = "sskd", "relation"
    paper = Paper(
        title="Knowledge Distillation Meets Self-Supervision",
        authors=("Guodong Xu", "Ziwei Liu", "Xiaoxiao Li", "Chen Change Loy"),
        year=2020, venue="ECCV", arxiv="2006.07114",
    )
    ranges = {"ce": (0.0, 2.0), "kd": (0.0, 10.0), "turned": (0.0, 20.0), "alpha": (0.0, 100.0),
              "temperature": (1.0, 20.0), "pretext_temperature": (0.05, 5.0), "kept": (0.0, 1.0),
              "head_share": (0.0, 0.5)}
    needs_images = True
    conditions = ("with kd",)

    def __init__(self, ctx, *, ce: float = 0.1, kd: float = 0.9, turned: float = 2.7, alpha: float = 10.0,
                 temperature: float = 4.0, pretext_temperature: float = 0.5, kept: float = 0.75,
                 head_share: float = 0.2):
        super().__init__(ctx)
        self.ce, self.kd, self.turned, self.alpha = ce, kd, turned, alpha
        self.temperature, self.pretext_temperature = temperature, pretext_temperature
        self.kept, self.first_part = kept, head_share
        self.student_head = head(ctx.student_shapes.embedding)
        self.teacher_head = head(ctx.teacher_shapes.embedding)

    def step(self, batch, optimizers):
        if not self.in_first_part:
            return super().step(batch, optimizers)
        scores = similarities(self.teacher_head(self.teach(batch).embedding))
        pretext = F.cross_entropy(scores, own_image(scores))
        descend(optimizers["main"], pretext)
        return {"pretext": pretext}

    def study(self, batch):
        """The student's outputs on the views of the batch: [TURNS B, ...]."""
        return self.student(views(batch.images))

    @torch.no_grad()
    def teach(self, batch):
        """The teacher's logits and embedding of the views of the batch: [TURNS B, ...]."""
        upright = self.ctx.teach(batch)
        turned = self.ctx.teacher(views(batch.images)[len(batch.images):])
        return Outputs(torch.cat([upright.logits, turned.logits]), torch.cat([upright.embedding, turned.embedding]), ())

    def losses(self, batch, student, teacher):
        upright = len(batch.images)
        with torch.no_grad():
            target = similarities(self.teacher_head(teacher.embedding))
        scores = similarities(self.student_head(student.embedding))
        chosen = selected(target, own_image(target), self.kept)
        logits, taught = student.logits, teacher.logits
        return {
            "ce": self.ce * F.cross_entropy(logits[:upright], batch.labels),
            "kd": self.kd * soft_cross_entropy(logits[:upright], taught[:upright], self.temperature),
            "turned": self.turned * soft_cross_entropy(logits[upright:], taught[upright:], self.temperature),
            "pretext": self.alpha * soft_cross_entropy(scores[chosen], target[chosen], self.pretext_temperature),
        }


def head(width):
    """The projection in which images are compared."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def views(images):  # [B, C, H, W] -> [TURNS B, C, H, W]
    """The images upright, then all turned by 90 degrees, by 180 and by 270."""
    turned = torch.cat([images.rot90(turn, (2, 3)) for turn in range(TURNS)])
    return turned.contiguous(memory_format=torch.channels_last)


def similarities(features):  # of views: [TURNS B, D] -> [(TURNS - 1) B, B]
    """The cosine similarity of each turned image to each upright one."""
    upright, turned = F.normalize(features, dim=1).tensor_split([len(features) // TURNS])
    return turned @ upright.T


def own_image(scores):  # [(TURNS - 1) B, B] -> [(TURNS - 1) B]
    """The place among the upright images of each turned image's own."""
    return torch.arange(scores.shape[1], device=scores.device).repeat(TURNS - 1)


def selected(scores, target, kept):  # [N, M], [N] -> [N], bool
    """All rows in which the target scores highest and, of the others, the share `kept` (rounded down) in which the
    fewest others score higher; earlier rows go first, and one is always selected."""
    rank = (scores > scores.gather(1, target[:, None])).sum(1)
    right = int((rank == 0).sum())
    chosen = rank.argsort(stable=True)[:max(1, right + int(kept * (len(rank) - right)))]
    return torch.zeros_like(rank, dtype=torch.bool).index_fill_(0, chosen, True)
