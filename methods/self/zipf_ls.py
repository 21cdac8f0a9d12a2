import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Method, Paper
from kdbench.parts.losses import zipf_cross_entropy


def votes(stage, classifier):
    """How many positions of a stage [B, C, H, W], enlarged to twice its size, a classifier gives to each class: [B, K].
    """
    positions = F.interpolate(stage, scale_factor=2, mode="bilinear").flatten(2).transpose(1, 2)  # [B, 4HW, C]
    logits = classifier(positions.flatten(0, 1)).unflatten(0, positions.shape[:2])
    return F.one_hot(logits.argmax(dim=2), logits.shape[2]).sum(dim=1)


class ZipfLS(Method):
    """Soft labels from the student's own ranking of the classes: the probabilities of the classes other than the
    label's shall fall as one over their rank, as the frequencies of words do (Zipf's law). The positions of the feature
    maps vote on the ranking.

    loss = CE(student, labels) - alpha sum_{k != label} z_k log r_k + auxiliary CE(heads, labels),  z_k ~ 1 / rank_k

    r are the probabilities of the other classes, renormalised. Each position of the last stage, enlarged to twice its
    size, votes for the class that the classifier gives it; classes with equally many votes share a rank. The stage
    before votes, too, through a linear layer of its own, which is trained on the labels. Of the authors' two codes the
    one for PyTorch enlarges, and its commands let the last stage vote alone; the one for MegEngine has both stages, and
    enlarges neither. Ranks count the label's class, as in both. A student
    whose classifier does not read its average-pooled last stage gets such a layer for that stage as well: ours.
    alpha 0.1 and auxiliary 0.1 are the code's for CIFAR-100; TinyImageNet has 1 and 0.5, INaturalist and ImageNet have
    1 and 0.1 for alpha. The code adds the entropy of z, which has no gradient.
    """

    name, family = "zipf_ls", "self"
    paper = Paper(
        title="Efficient One Pass Self-distillation with Zipf's Label Smoothing",
        authors=("Jiajun Liang", "Linze Li", "Zhaodong Bing", "Borui Zhao", "Yao Tang", "Bo Lin", "Haoqiang Fan"),
        year=2022, venue="ECCV", arxiv="2207.12980",
    )
    ranges = {"alpha": (0.0, 4.0), "auxiliary": (0.0, 1.0)}
    learns_from = None

    def __init__(self, ctx, *, alpha: float = 0.1, auxiliary: float = 0.1):
        super().__init__(ctx)
        self.alpha, self.auxiliary = alpha, auxiliary
        shapes = ctx.student_shapes
        voting = shapes.stages[-2:-1] if shapes.pooled else shapes.stages[-2:]
        self.heads = nn.ModuleList(nn.Linear(channels, ctx.num_classes) for channels, _, _ in voting)

    @classmethod
    def inapplicable(cls, student, teacher):
        return None if len(student.stages) > 1 else "the student has no stage before its deepest one to vote"

    def losses(self, batch, student, teacher):
        pooled = self.ctx.student_shapes.pooled
        stages = student.stages[-2:-1] if pooled else student.stages[-2:]
        with torch.no_grad():
            counts = sum(votes(stage, head) for stage, head in zip(stages, self.heads, strict=True))
            if pooled:
                counts = counts + votes(student.stages[-1], self.student.classifier)
        heads = sum(F.cross_entropy(head(stage.mean((2, 3))), batch.labels)
                    for stage, head in zip(stages, self.heads, strict=True))
        return {
            "ce": F.cross_entropy(student.logits, batch.labels),
            "zipf": self.alpha * zipf_cross_entropy(student.logits, batch.labels, counts),
            "heads": self.auxiliary * heads,
        }
