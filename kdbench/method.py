"""The plugin contract: the base class of every distillation method, and the types that pass between it and the engine.

A method is one class in one file. Most override `losses` alone. A method that computes its losses from other features
of the networks overrides `study` or `teach`; one with several optimizers or with inner loops overrides `optimizers` and
`step`. Its keyword-only `__init__` arguments are its hyperparameters: each has a type (int, float, bool or str) and a
default, written in the class's own signature, because the command line reads them from the source without importing
torch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from kdbench.paper import Paper

__all__ = ["NO_LABEL", "Batch", "Context", "MakeOptimizer", "Method", "Outputs", "Paper", "Shapes", "descend"]

NO_LABEL = -100  # stands for the label of an image that has none; torch's cross_entropy leaves such images out


class Batch(NamedTuple):
    """The augmented training images, or texts, of one step. With one seed, every method is given the same batches."""

    images: Tensor     # [B, C, H, W], normalised float32; of texts [B, T], int64 tokens, 0 where there is no word
    labels: Tensor     # [B], int64; NO_LABEL for images without one, which only methods with `unlabelled` are given
    positions: Tensor  # [B], int64, each image's place in the training split: the key for any memory of it; images
    #                    without a label have the places after it

    @property
    def inputs(self) -> Tensor:
        """What networks take: `images`, by a name that holds for texts too."""
        return self.images


class Outputs(NamedTuple):
    """What a network computes from a batch of images."""

    logits: Tensor               # [B, K], before softmax
    embedding: Tensor            # [B, D], the classifier's input
    stages: tuple[Tensor, ...]   # feature maps, shallow to deep; stage i is [B, C_i, H_i, W_i]


class Shapes(NamedTuple):
    """The sizes of a network's `Outputs` without the batch dimension: adapters are built from them."""

    embedding: int                             # D
    stages: tuple[tuple[int, int, int], ...]   # (C_i, H_i, W_i)
    pooled: bool = False                       # the embedding is the last stage's mean over its positions
    divisible: bool = True                     # it is known where the last stage begins, for branches that start there


def is_text(shape: Sequence[int]) -> bool:
    """Whether it is the shape (T, V) of texts, T tokens of a vocabulary of V words, and not (C, H, W) of images."""
    return len(shape) == 2


class MakeOptimizer(Protocol):
    """Builds the recipe's optimizer; its learning rate is `scale` times the recipe's and follows its schedule."""

    def __call__(self, parameters, *, scale: float = 1.0) -> Optimizer: ...


@dataclass(frozen=True, eq=False)
class Context:
    """The networks, sizes and data of one run. The engine builds it and gives it to the method.

    A network maps images [B, C, H, W] to `Outputs`; `network.classifier` maps an embedding [B, D] to logits [B, K].
    """

    student: nn.Module
    teacher: nn.Module | None             # frozen, in eval mode; None where `learns_from` is None
    teach: Callable[[Batch], Outputs] | None  # its outputs, without gradients; of the run's batches, maybe kept ones
    new_student: Callable[[], nn.Module]  # builds a further student, freshly initialised, for peers
    student_shapes: Shapes
    teacher_shapes: Shapes | None
    image_shape: tuple[int, ...]          # (C, H, W); of texts (T, V): T tokens, each below V
    num_classes: int                      # K
    num_train: int                        # images to train on, with and without labels; `Batch.positions` are below it
    pixel_low: Tensor                     # [1, C, 1, 1], the normalised value of a black pixel
    pixel_high: Tensor                    # [1, C, 1, 1], the normalised value of a white pixel
    epochs: int
    steps_per_epoch: int
    attack_radius: float                  # L-infinity radius of attacks on the dataset, for pixels scaled to 0..1
    batch_size: int                       # images per step; also what a data-free method draws per step
    train_labels: Tensor | None           # [num_train], int64, NO_LABEL where there is none; None for data-free methods
    sample: Callable[[Tensor], Batch]     # positions [M] to those images, augmented anew; raises if data-free
    train_groups: Mapping[str, Tensor] = field(default_factory=dict)  # by attribute, in the dataset's order, the group
    #                                       of each training image: codes [num_train], int64; of `needs_groups` alone
    group_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by attribute: the group of each code

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
    ranges: ClassVar[dict[str, tuple]] = {}        # what is allowed and what tuning may try: (low, high), or with a
    #                                                scale (low, high, "log"), for numbers; choices for the rest
    learns_from: ClassVar[str | None] = "teacher"  # "teacher" | "student" (a trained copy of the student) |
    #                                                "assistant" (of the pair, taught by its teacher) | None
    needs_data: ClassVar[bool] = True              # False: `step` gets None and never sees a training image
    needs_groups: ClassVar[bool] = False           # True: `ctx.train_groups` is filled, and the method is n/a on a
    #                                                dataset whose training images have no attributes. Which of
    #                                                several it means, its hyperparameter `attribute` says
    unlabelled: ClassVar[str | None] = None        # what it can learn from images without labels, where a suite has
    #                                                some: "beside" labelled ones in the batch, or also "alone"; None:
    #                                                nothing, it is given the labelled images as ever
    needs_images: ClassVar[bool] = False           # True: it makes or changes pixels, so that texts are not for it
    conditions: ClassVar[tuple[str, ...]] = ()     # short words that tables show beside a method which learns under
    #                                                other conditions than its family, such as "robust" or "with kd"

    def __init__(self, ctx: Context):
        super().__init__()
        self.ctx, self.student = ctx, ctx.student
        self.step_index = 0  # from 0 to ctx.steps - 1; the trainer sets it before each step
        self.first_part = 0.0  # the share of the steps that prepare for the training proper, such as a stage of hints;
        #                        each of the two parts has the recipe's whole schedule, warm-up and decay, for itself,
        #                        and its optimizers begin without a memory of the other

    @property
    def progress(self) -> float:
        """The share of the run's steps already taken, at least 0 and below 1: for warm-ups and stages."""
        return self.step_index / self.ctx.steps

    @property
    def in_first_part(self) -> bool:
        """Whether this step belongs to the first part."""
        return self.progress < self.first_part

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes | None) -> str | None:
        """Why this method cannot train such a pair, in one sentence; None if it can."""
        return None

    @classmethod
    def unfit(cls, student: Shapes, teacher: Shapes | None, input_shape: Sequence[int]) -> str | None:
        """Why this method cannot train such a pair on inputs of that shape, in one sentence; None if it can."""
        if cls.needs_images and is_text(input_shape):
            return "it makes or changes the pixels of images, and the dataset holds texts"
        return cls.inapplicable(student, teacher)

    def rare_steps(self) -> Sequence[int]:
        """The numbers of the steps, few and rising, that take many times as long as the others, such as those that make
        images to learn from. A profile times them apart, and counts them by their share of the run."""
        return ()

    def losses(self, batch: Batch, student: Outputs, teacher: Outputs | None) -> dict[str, Tensor]:
        """The weighted terms of the loss by name, each a scalar; a step descends their sum.

        `student` and `teacher` are what `study` and `teach` returned for the batch.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither losses() nor step()")

    def study(self, batch: Batch) -> Outputs:
        """The student's outputs on the batch. An override may return more than these, if its `losses` reads that."""
        return self.student(batch.images)

    def teach(self, batch: Batch) -> Outputs | None:
        """The teacher's outputs on the batch, without gradients; None without a teacher."""
        return self.ctx.teach(batch) if self.ctx.teach is not None else None

    def optimizers(self, make: MakeOptimizer) -> dict[str, Optimizer]:
        """The optimizers by name; together they hold every trainable parameter exactly once."""
        return {"main": make(self.parameters())}

    def step(self, batch: Batch, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        """Train on one batch: one update of the student, besides any of other networks, so that a budget of steps is
        one of updates. Returns scalar terms by name, which are logged and must be finite."""
        terms = self.losses(batch, self.study(batch), self.teach(batch))
        require_scalars(terms, f"{type(self).__name__}.losses()")
        descend(optimizers["main"], sum(terms.values()))
        return terms

    def deployed(self) -> nn.Module:
        """The network that is scored and saved: the student, with any part that inference needs."""
        return self.student


def require_scalars(terms: Any, where: str) -> None:
    """TypeError, beginning with `where`, unless `terms` is a dict of scalar tensors by name."""
    if not isinstance(terms, dict):
        raise TypeError(f"{where} returned {_kind(terms)}, expected a dict of scalar tensors by name")
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.dim():
            raise TypeError(f"{where}: the term {name!r} is {_kind(term)}, expected a scalar tensor")


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "None" if value is None else f"of type {type(value).__name__}"


def descend(optimizers: Optimizer | Iterable[Optimizer], loss, clip: float | None = None) -> None:
    """Take one step of one or several optimizers down the gradient of `loss`, a scalar.

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
