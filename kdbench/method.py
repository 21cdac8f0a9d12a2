"""The plugin contract: what a method is given, and what it gives back.

A method is one class in one file. Most override `losses` alone; a method with networks or optimizers of its own
overrides `optimizers` and `step`. Its keyword-only `__init__` arguments are its hyperparameters: each has a type
(int, float, bool or str) and a default, written in the class's own signature, because the command line reads them
from the source without importing torch.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdbench.paper import Paper

__all__ = ["Batch", "Context", "MakeOptimizer", "Method", "Outputs", "Paper", "Shapes", "descend"]


class Batch(NamedTuple):
    """One step's training images, augmented. Every method of a seed sees the same ones."""

    images: Tensor     # [B, C, H, W], normalised float32
    labels: Tensor     # [B], int64
    positions: Tensor  # [B], int64, each image's place in the training split: the key for any memory of it


class Outputs(NamedTuple):
    """What a network says of a batch."""

    logits: Tensor               # [B, K], before softmax
    embedding: Tensor            # [B, D], what the classifier reads
    stages: tuple[Tensor, ...]   # stage i: [B, C_i, H_i, W_i], shallow to deep


class Shapes(NamedTuple):
    """The sizes of a network's `Outputs`, without the batch: adapters are built from them."""

    embedding: int                             # D
    stages: tuple[tuple[int, int, int], ...]   # (C_i, H_i, W_i)
    pooled: bool = False                       # the embedding is the last stage's mean over its positions


class MakeOptimizer(Protocol):
    """Builds the recipe's optimizer; its learning rate follows the recipe's schedule, times `scale`."""

    def __call__(self, parameters, *, scale: float = 1.0) -> Optimizer: ...


@dataclass(frozen=True, eq=False)
class Context:
    """What one run lends a method. The engine owns all of it.

    A network maps images [B, C, H, W] to `Outputs`; `network.classifier` maps an embedding [B, D] to logits [B, K].
    """

    student: nn.Module
    teacher: nn.Module | None             # frozen, in eval mode; None where `learns_from` is None
    new_student: Callable[[], nn.Module]  # a further student, freshly initialised, for peers
    student_shapes: Shapes
    teacher_shapes: Shapes | None
    image_shape: tuple[int, int, int]     # (C, H, W)
    num_classes: int
    num_train: int                        # images in the training split; `Batch.positions` lie below it
    pixel_low: Tensor                     # [1, C, 1, 1], what a black pixel is after normalisation
    pixel_high: Tensor                    # [1, C, 1, 1], what a white pixel is after normalisation
    epochs: int
    steps_per_epoch: int
    batch_size: int                       # of the recipe; what a data-free method draws per step
    train_labels: Tensor | None           # [num_train]; None for data-free methods
    sample: Callable[[Tensor], Batch]     # positions [M] to those images, augmented anew; raises if data-free

    @property
    def steps(self) -> int:
        """Training steps of the whole run."""
        return self.epochs * self.steps_per_epoch


class Method(nn.Module):
    """A distillation method. Adapters, critics and buffers are ordinary submodules: they move, train and save with it.

    `self.student` is the network that is trained and, after the last step, scored.
    The teacher stays on `ctx`, outside `parameters()`, `train()` and `state_dict()`.
    """

    name: ClassVar[str] = ""
    family: ClassVar[str] = ""
    paper: ClassVar[Paper]
    ranges: ClassVar[dict[str, tuple]] = {}        # what tuning may try: (low, high) for numbers, choices for the rest
    learns_from: ClassVar[str | None] = "teacher"  # "teacher" | "student" (a trained copy of the student) | None
    needs_data: ClassVar[bool] = True              # False: `step` gets None and never sees a training image

    def __init__(self, ctx: Context):
        super().__init__()
        self.ctx, self.student = ctx, ctx.student
        self.step_index = 0  # of ctx.steps; the trainer sets it before each step

    @property
    def progress(self) -> float:
        """The share of the run's steps already taken, in [0, 1): for warm-ups and stages."""
        return self.step_index / self.ctx.steps

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes | None) -> str | None:
        """Why this method cannot train such a pair, in one sentence; None if it can."""
        return None

    def losses(self, batch: Batch, student: Outputs, teacher: Outputs | None) -> dict[str, Tensor]:
        """The weighted, named terms whose sum is descended, each a scalar."""
        raise NotImplementedError(f"{type(self).__name__} overrides neither losses() nor step()")

    def optimizers(self, make: MakeOptimizer) -> dict[str, Optimizer]:
        """The optimizers by name; together they hold every trainable parameter exactly once."""
        return {"main": make(self.parameters())}

    def step(self, batch: Batch, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        """Train on one batch; the terms returned are logged and must be finite."""
        terms = self.losses(batch, self.study(batch), self.teach(batch))
        descend(optimizers["main"], sum(terms.values()))
        return terms

    def study(self, batch: Batch) -> Outputs:
        """The student's outputs on the batch, as `losses` gets them."""
        return self.student(batch.images)

    def teach(self, batch: Batch) -> Outputs | None:
        """The teacher's outputs on the batch, as `losses` gets them: without gradients; None without a teacher."""
        if self.ctx.teacher is None:
            return None
        with torch.no_grad():
            return self.ctx.teacher(batch.images)

    def deployed(self) -> nn.Module:
        """The network that is scored and kept: the student, with any part that inference needs."""
        return self.student


def descend(optimizers: Optimizer | Iterable[Optimizer], loss, clip: float | None = None) -> None:
    """One step of one or several optimizers down the gradient of `loss`, a scalar.

    With `clip`, the gradient of all their parameters together is scaled down to that L2 norm if it is longer.
    """
    together = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    for optimizer in together:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip is not None:
        groups = [group for optimizer in together for group in optimizer.param_groups]
        nn.utils.clip_grad_norm_([parameter for group in groups for parameter in group["params"]], clip)
    for optimizer in together:
        optimizer.step()
