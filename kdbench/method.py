"""The plugin contract: the base class of every distillation method, and the types that methods and the engine exchange.

A method is one class in one file. Most override only `losses`. A method whose losses need other features of the
networks overrides `study` or `teach`; one with several optimizers or with inner loops overrides `optimizers` and
`step`. The keyword-only arguments of its `__init__` are its hyperparameters: each has a type (int, float, bool or str)
and a literal default, written in the class's own signature, because the command line reads them from the source without
importing torch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from kdbench.paper import Paper

__all__ = ["NO_LABEL", "Batch", "Context", "MakeOptimizer", "Method", "Outputs", "Paper", "Shapes", "descend"]

NO_LABEL = -100  # in place of the label of an image without one; torch's cross_entropy ignores it by default


class Batch(NamedTuple):
    """The augmented training images, or texts, of one step. The same seed gives every method the same batches."""

    images: Tensor     # [B, C, H, W], normalised float32; of texts [B, T], int64 tokens, 0 for padding
    labels: Tensor     # [B], int64; NO_LABEL for images without one, which only methods with `unlabelled` are given
    positions: Tensor  # [B], int64, the index of each image in the training split, under which a method can store what
    #                    it remembers of the image; images without a label have the indices after the split

    @property
    def inputs(self) -> Tensor:
        """The input of networks: the same tensor as `images`, under a name that suits texts too."""
        return self.images


class Outputs(NamedTuple):
    """What a network computes from a batch of images or texts."""

    logits: Tensor               # [B, K], before softmax
    embedding: Tensor            # [B, D], the classifier's input
    stages: tuple[Tensor, ...]   # feature maps from shallow to deep; stage i is [B, C_i, H_i, W_i]


class Shapes(NamedTuple):
    """The sizes of a network's `Outputs` without the batch dimension, from which methods build adapters."""

    embedding: int                             # D
    stages: tuple[tuple[int, int, int], ...]   # (C_i, H_i, W_i)
    pooled: bool = False                       # whether the embedding is the mean of the last stage over its positions
    divisible: bool = True                     # whether it is known where the last stage begins: branches start there


def is_text(shape: Sequence[int]) -> bool:
    """Whether `shape` is that of texts, (T, V): T tokens of a vocabulary of V words, and not (C, H, W) of images."""
    return len(shape) == 2


class MakeOptimizer(Protocol):
    """Builds the recipe's optimizer for some parameters. Its learning rate is `scale` times the recipe's, and follows
    the recipe's schedule."""

    def __call__(self, parameters, *, scale: float = 1.0) -> Optimizer: ...


@dataclass(frozen=True, eq=False)
class Context:
    """The networks, sizes and data of one run, which the engine gives to the method.

    A network maps images [B, C, H, W], or texts [B, T], to `Outputs`; `network.classifier` maps an embedding [B, D] to
    logits [B, K].
    """

    student: nn.Module
    teacher: nn.Module | None             # frozen, in eval mode; None where `learns_from` is None
    teach: Callable[[Batch], Outputs] | None  # the teacher's outputs on a batch, without gradients; for batches of the
    #                                           run they may come from the cache, bit for bit the same
    new_student: Callable[[], nn.Module]  # builds a further student, freshly initialised, such as a peer
    student_shapes: Shapes
    teacher_shapes: Shapes | None
    image_shape: tuple[int, ...]          # (C, H, W); of texts (T, V): T tokens, each below V
    num_classes: int                      # K
    num_train: int                        # images to train on, with and without labels; `Batch.positions` are smaller
    pixel_low: Tensor                     # [1, C, 1, 1], the normalised value of a black pixel
    pixel_high: Tensor                    # [1, C, 1, 1], the normalised value of a white pixel
    epochs: int
    steps_per_epoch: int
    attack_radius: float                  # L-infinity radius of attacks on the dataset, for pixels scaled to 0..1
    batch_size: int                       # images per step; a data-free method draws as many
    train_labels: Tensor | None           # [num_train], int64, NO_LABEL where there is none; None for data-free methods
    sample: Callable[[Tensor], Batch]     # gives the training images at positions [M], freshly augmented; RuntimeError
    #                                       for data-free methods
    train_groups: Mapping[str, Tensor] = field(default_factory=dict)  # the group of each training image, by attribute
    #                                       in the dataset's order: codes [num_train], int64; only with `needs_groups`
    group_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by attribute: the name of each code

    @property
    def steps(self) -> int:
        """The number of training steps of the whole run."""
        return self.epochs * self.steps_per_epoch


class Method(nn.Module):
    """A distillation method. Adapters, critics and buffers are ordinary submodules: they are moved, trained and saved
    with it.

    `self.student` is the network that is trained; after the last step, what `deployed` returns is scored. The teacher
    stays on `ctx`, outside `parameters()`, `train()` and `state_dict()`.
    """

    name: ClassVar[str] = ""
    family: ClassVar[str] = ""
    paper: ClassVar[Paper]
    ranges: ClassVar[dict[str, tuple]] = {}        # the values that are allowed and that tuning may try, by
    #                                                hyperparameter: (low, high) for numbers, or with a scale
    #                                                (low, high, "log"); the choices for others
    learns_from: ClassVar[str | None] = "teacher"  # "teacher" | "student" (a trained copy of the student) |
    #                                                "assistant" (of the pair, taught by its teacher) | None
    needs_data: ClassVar[bool] = True              # False: `step` gets None and never sees a training image
    needs_groups: ClassVar[bool] = False           # True: `ctx.train_groups` is filled, and the method is n/a on a
    #                                                dataset whose training images have no attributes. If they have
    #                                                several, its hyperparameter `attribute` names the one to use
    unlabelled: ClassVar[str | None] = None        # whether it can learn from the images without labels of a suite:
    #                                                "beside" labelled ones in a batch; "alone", also in batches
    #                                                without labels; None: no, it is given labelled images only
    needs_images: ClassVar[bool] = False           # True: it makes or changes pixels, so it cannot train on texts
    conditions: ClassVar[tuple[str, ...]] = ()     # short words that tables show beside a method which learns under
    #                                                other conditions than its family, such as "robust" or "with kd"

    def __init__(self, ctx: Context):
        super().__init__()
        self.ctx, self.student = ctx, ctx.student
        self.step_index = 0  # from 0 to ctx.steps - 1; the trainer sets it before each step
        self.first_part = 0.0  # share of the run's steps that prepare for the main training, such as FitNets' hints;
        #                        each of the two parts follows the whole schedule of the recipe, warm-up and decay, and
        #                        the second part starts with cleared optimizer states

    @property
    def progress(self) -> float:
        """The share of the run's steps already taken, at least 0 and below 1, for warm-ups and stages of training."""
        return self.step_index / self.ctx.steps

    @property
    def in_first_part(self) -> bool:
        """Whether this step belongs to the first part of the training; see `first_part`."""
        return self.progress < self.first_part

    @classmethod
    def inapplicable(cls, student: Shapes, teacher: Shapes | None) -> str | None:
        """Why this method cannot train networks of these shapes, in one sentence; None if it can."""
        return None

    @classmethod
    def unfit(cls, student: Shapes, teacher: Shapes | None, input_shape: Sequence[int]) -> str | None:
        """Why this method cannot train networks of these shapes on inputs of `input_shape` ((C, H, W), or (T, V) of
        texts), in one sentence; None if it can."""
        if cls.needs_images and is_text(input_shape):
            return "it makes or changes the pixels of images, and the dataset holds texts"
        return cls.inapplicable(student, teacher)

    def rare_steps(self) -> Sequence[int]:
        """The indices, in rising order, of the few steps that take many times as long as the others, such as those that
        make images to learn from; empty by default. A profile times these steps separately and weights them by their
        share of the run."""
        return ()

    def losses(self, batch: Batch, student: Outputs, teacher: Outputs | None) -> dict[str, Tensor]:
        """The weighted terms of the loss by name, each a scalar; `step` descends their sum.

        `student` and `teacher` are what `study` and `teach` returned for the batch.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither losses() nor step()")

    def study(self, batch: Batch) -> Outputs:
        """The student's outputs on the batch. An override may return more than these, for its own `losses` to read."""
        return self.student(batch.images)

    def teach(self, batch: Batch) -> Outputs | None:
        """The teacher's outputs on the batch, without gradients; None if the method has no teacher."""
        return self.ctx.teach(batch) if self.ctx.teach is not None else None

    def optimizers(self, make: MakeOptimizer) -> dict[str, Optimizer]:
        """The optimizers by name; together they hold every trainable parameter exactly once."""
        return {"main": make(self.parameters())}

    def step(self, batch: Batch, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        """Train on one batch and return scalar terms by name, which are logged and must be finite. A step updates the
        student exactly once, whatever other networks it updates, so that a budget of steps is a budget of updates."""
        terms = self.losses(batch, self.study(batch), self.teach(batch))
        require_scalars(terms, f"{type(self).__name__}.losses()")
        descend(optimizers["main"], sum(terms.values()))
        return terms

    def deployed(self) -> nn.Module:
        """The network that is scored and saved: the student, together with any other part that inference needs."""
        return self.student


def require_scalars(terms: Any, where: str) -> None:
    """Raise TypeError, with a message that begins with `where`, unless `terms` is a dict of scalar tensors by name."""
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

    With `clip`, the gradient of all their parameters together is scaled down to that L2 norm if its norm is larger.
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
