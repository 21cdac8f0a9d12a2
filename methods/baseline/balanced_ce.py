import torch.nn.functional as F

from kdbench.method import Method
from kdbench.parts.groups import balanced_weights, cells_of


class BalancedCrossEntropy(Method):
    """Training on the labels alone, in which each class of each group counts alike, whatever its number of images.
    The control for balanced_kd, without a teacher.

    loss = mean w CE(student, labels),  w = N / (M x training images of the class and group), M of which there are

    The weights are those of inverse frequencies (importance weighting), with mean 1 over the training images, so that
    the rate keeps its meaning. `attribute` names the attribute whose groups count; "" is the dataset's first: the first
    column of groups.csv, and without one the tint of a skewed dataset.
    """

    name, family = "balanced_ce", "baseline"
    learns_from = None
    needs_groups = True
    conditions = ("with groups",)

    def __init__(self, ctx, *, attribute: str = ""):
        super().__init__(ctx)
        self.weights = balanced_weights(cells_of(ctx, attribute))

    def losses(self, batch, student, teacher):
        each = F.cross_entropy(student.logits, batch.labels, reduction="none")
        return {"ce": (self.weights[batch.positions] * each).mean()}
