"""The groups of training images, for methods that weight images by group: which attribute they use, and how much each
image counts.

A cell is a class together with a group. Balanced weights make all cells that have training images count the same,
whatever their number of images.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kdbench.errors import UserError, unknown
from kdbench.method import Context


def attribute_of(attributes: Iterable[str], wanted: str) -> str:
    """Return `wanted`, or the first attribute if that is "". UserError if there is no such attribute."""
    known = list(attributes)
    if not known:
        raise UserError("the training images have no attributes")
    if wanted and wanted not in known:
        raise unknown("attribute of training images", wanted, known)
    return wanted or known[0]


def cells_of(ctx: Context, attribute: str) -> Tensor:
    """The cell of each training image, [num_train] int64: class x number of groups + group. The groups are those of
    `attribute` or, if that is "", of the dataset's first attribute. UserError if the training images lack it."""
    assert ctx.train_labels is not None
    name = attribute_of(ctx.train_groups, attribute)
    return ctx.train_labels * len(ctx.group_names[name]) + ctx.train_groups[name]


def balanced_weights(cells: Tensor) -> Tensor:
    """The weight of each training image, [N] float32: N / (M x images of its cell), where M is the number of cells that
    have images. The mean of all weights is 1, and their sum is the same for each cell."""
    counts = torch.bincount(cells)
    return (len(cells) / ((counts > 0).sum() * counts[cells])).float()


MOST_POWER = 80.0  # the largest exponent of e: float32 overflows above e^88


class WorstCells(nn.Module):
    """The weighted loss of group DRO (Sagawa et al., 2020): the higher the losses of a cell were, the more it counts.

    q_c <- q_c exp(step_size L_c), then scaled to sum 1, and loss = sum_c q_c L_c. L_c estimates a cell's mean loss over
    all training images from the batch: the sum of loss x balanced weight x M / B over the cell's images. A batch holds
    few or no images of a rare cell; this estimate is right on average, where the mean over these images would count
    rare cells less. With all q equal, the loss is that of balanced weights. The estimate has no bound, as one image of
    a small cell counts M / B times its weight. Therefore exponents that are too large for a float are all lowered by
    the same amount, and no q ever becomes zero, from which it could not recover.
    """

    q: Tensor  # [M], the weights of the cells that have images

    def __init__(self, cells: Tensor, step_size: float):
        super().__init__()
        numbers, ranks = cells.unique(return_inverse=True)
        self.step_size, self.count = step_size, len(numbers)
        self.ranks, self.weights = ranks, balanced_weights(cells)  # these depend on the dataset alone: not saved
        self.register_buffer("q", torch.full((self.count,), 1 / self.count, device=cells.device))

    def forward(self, losses: Tensor, positions: Tensor) -> Tensor:
        """The loss of a batch, a scalar, from the losses [B] of its images, whose places in the training split are
        `positions` [B]. Each call also takes one step of q."""
        scaled = losses * self.weights[positions] * (self.count / len(losses))
        means = torch.zeros(self.count, device=losses.device).index_add(0, self.ranks[positions], scaled)
        power = self.step_size * means.detach()
        self.q = self.q * torch.exp(power - (power.max() - MOST_POWER).clamp_min(0))
        self.q = (self.q / self.q.sum()).clamp_min(torch.finfo(self.q.dtype).tiny)
        return self.q @ means
