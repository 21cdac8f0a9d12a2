"""The groups of training images, for methods that weigh them: which attribute, and how much each image counts.

A cell is a class together with a group. The weights of images are such that each cell with training images counts
alike, whatever its number of images.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kdbench.errors import UserError, unknown
from kdbench.method import Context


def attribute_of(attributes: Iterable[str], wanted: str) -> str:
    """The attribute of that name, or the first one for "". UserError if the training images do not have it."""
    known = list(attributes)
    if not known:
        raise UserError("the training images have no attributes")
    if wanted and wanted not in known:
        raise unknown("attribute of training images", wanted, known)
    return wanted or known[0]


def cells_of(ctx: Context, attribute: str) -> Tensor:
    """The cell of each training image, [num_train] int64: its class x the number of groups + its group, by that
    attribute or for "" by the dataset's first. UserError if the training images do not have it."""
    assert ctx.train_labels is not None
    name = attribute_of(ctx.train_groups, attribute)
    return ctx.train_labels * len(ctx.group_names[name]) + ctx.train_groups[name]


def balanced_weights(cells: Tensor) -> Tensor:
    """The weight of each training image, [N] float32: N / (M x images of its cell), where M cells have images. Over all
    images their mean is 1, and the sum of each cell's is the same."""
    counts = torch.bincount(cells)
    return (len(cells) / ((counts > 0).sum() * counts[cells])).float()


MOST_POWER = 80.0  # of e: a float32 holds e^88


class WorstCells(nn.Module):
    """The weighted loss of group DRO (Sagawa et al., 2020): cells count the more, the higher their losses were.

    q_c <- q_c exp(step_size L_c), then scaled to sum 1, and loss = sum_c q_c L_c. L_c estimates a cell's mean loss over
    the training images from the batch, as sum over its images of loss x balanced weight x M / B: a cell's images of a
    batch are few or none, and so the estimate is right on average where a mean over them would count rare cells less.
    With all q equal, the loss is that of balanced weights. The estimate has no bound: one image of a cell of few counts
    M / B times its weight. So powers too large for a float are lowered together, and no q falls to zero for good.
    """

    q: Tensor  # [M], the weights of the cells that have images

    def __init__(self, cells: Tensor, step_size: float):
        super().__init__()
        numbers, ranks = cells.unique(return_inverse=True)
        self.step_size, self.count = step_size, len(numbers)
        self.ranks, self.weights = ranks, balanced_weights(cells)  # of the dataset: no state of training
        self.register_buffer("q", torch.full((self.count,), 1 / self.count, device=cells.device))

    def forward(self, losses: Tensor, positions: Tensor) -> Tensor:
        """The loss of a batch from those of its images [B], whose places in the training split are `positions` [B].
        Each call is one step of q."""
        scaled = losses * self.weights[positions] * (self.count / len(losses))
        means = torch.zeros(self.count, device=losses.device).index_add(0, self.ranks[positions], scaled)
        power = self.step_size * means.detach()
        self.q = self.q * torch.exp(power - (power.max() - MOST_POWER).clamp_min(0))
        self.q = (self.q / self.q.sum()).clamp_min(torch.finfo(self.q.dtype).tiny)
        return self.q @ means
