import torch.nn.functional as F

from kdbench.method import Method, Paper
from kdbench.parts.groups import balanced_weights, cells_of


class BalancedCrossEntropy(Method):
    """Training on the labels alone, in which each class of each group counts alike, whatever its number of images.
    The control for balanced_kd, without a teacher.

    loss = mean w CE(student, labels),  w = N / (M x training images of the class and group), M of which there are

    The paper (RWG) draws each class of each group equally often. Here all methods see the same batches, and the losses
    have the weights, which give the same loss on average; their mean over the training images is 1. `attribute` names
    the attribute whose groups count; "" is the dataset's first: the first column of groups.csv, and without one the
    tint of a skewed dataset.
    """

    name, family = "balanced_ce", "baseline"
    paper = Paper(
        title="Simple Data Balancing Achieves Competitive Worst-Group-Accuracy",
        authors=("Badr Youbi Idrissi", "Martin Arjovsky", "Mohammad Pezeshki", "David Lopez-Paz"),
        year=2022, venue="CLeaR", arxiv="2110.14503",
    )
    learns_from = None
    needs_groups = True
    conditions = ("with groups",)

    def __init__(self, ctx, *, attribute: str = ""):
        super().__init__(ctx)
        self.weights = balanced_weights(cells_of(ctx, attribute))

    def losses(self, batch, student, teacher):
        each = F.cross_entropy(student.logits, batch.labels, reduction="none")
        return {"ce": (self.weights[batch.positions] * each).mean()}
