"""The training loop: builds the method, student and batch stream of a run, and trains epoch by epoch."""

import math
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdbench.data.base import Dataset
from kdbench.data.stream import BatchStream
from kdbench.method import Batch, Context, Method, require_scalars
from kdbench.networks import Network, build
from kdbench.plugins.source import MethodInfo
from kdbench.seeds import derive
from kdbench.spec import Architecture, GivenWeights, Recipe, Transfer
from kdbench.train.initial import start_from
from kdbench.train.teacher_pass import Keep, TeacherPass

FINITE_CHECK_STEPS = 20  # losses of so many steps are checked together: each check waits for the GPU


class DivergedError(Exception):
    """A loss term or a logit is not finite."""


def prepare(cls: type[Method], hyperparameters: dict[str, Any], student: Architecture, teacher: Network | None,
            dataset: Dataset, recipe: Recipe, seed: int, device: torch.device,
            updates: int = 1, keep: Keep | None = None,
            transfer: Transfer | None = None, init: GivenWeights | None = None) -> tuple[Method, BatchStream]:
    """Build the method with its freshly initialised student, and its batch stream, on `device`. `updates` is the number
    of passes over the training split in an epoch. `keep` says where the teacher's answers to the stream are kept; None
    if they are not. A method that can learn from images without labels gets those of `transfer` in its batches; any
    other method gets labelled images alone, in as many batches. With `init`, the student starts from these weights.
    UserError if a network cannot be built or `init` cannot be loaded, TypeError if the method does not initialise its
    base class.

    Three independent random streams are derived from the seed: `init` for the student's weights, `data` for the batches
    and `method` for everything that the method draws (it is torch's global stream). So with one seed all methods start
    from the same student and see the same batches.
    """
    num_classes = len(dataset.classes)

    def new_network(*purpose: str | int) -> Network:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, *purpose))
            return build(student, num_classes, dataset.image_shape, recipe.precision)

    stream = BatchStream(dataset, recipe, seed, device, updates, unlabelled_share(transfer, cls))
    network, peers = new_network("init"), count()
    if init is not None:
        start_from(network, init)
    low, high = stream.normalise.bounds()
    torch.manual_seed(derive(seed, "method"))
    method = cls(Context(
        student=network, teacher=teacher,
        teach=TeacherPass(teacher, stream.steps_per_pass, keep) if teacher is not None else None,
        new_student=lambda: new_network("peer", next(peers)),
        student_shapes=network.shapes, teacher_shapes=teacher.shapes if teacher else None,
        image_shape=dataset.image_shape, num_classes=num_classes, num_train=len(stream.images),
        pixel_low=low, pixel_high=high, epochs=recipe.epochs, steps_per_epoch=stream.steps_per_epoch,
        batch_size=stream.batch_size, attack_radius=dataset.attack_radius,
        train_labels=stream.images.labels if cls.needs_data else None,
        sample=(lambda index: stream.batch(index.cpu(), torch.default_generator)) if cls.needs_data else _no_data,
        train_groups=dataset.train.groups if cls.needs_groups else {},
        group_names={name: dataset.group_names[name] for name in dataset.train.groups} if cls.needs_groups else {},
    ), **hyperparameters)
    if not hasattr(method, "ctx"):
        raise TypeError(f"{cls.__name__}.__init__ does not call super().__init__(ctx)")
    return method.to(device), stream


def unlabelled_share(transfer: Transfer | None, method: type[Method] | MethodInfo) -> float:
    """The share of images without labels in a method's batches; 0 if the method cannot learn from them."""
    return transfer.share if transfer is not None and method.unlabelled else 0.0


def _no_data(index: Tensor) -> Batch:
    raise RuntimeError("a data-free method asked for training images")


class Trainer:
    """Trains a method epoch by epoch. Its state dict, taken after an epoch, restores it bit for bit."""

    def __init__(self, method: Method, stream: BatchStream, recipe: Recipe):
        self.method, self.stream, self.recipe = method, stream, recipe
        self._scheduled: list[tuple[Optimizer, float]] = []
        self.optimizers = method.optimizers(self._make_optimizer)
        self.epoch = 0
        self.curves: dict[str, list[float]] = {}
        self.passes = {"student": 0, "teacher": 0}  # images in forward passes while training
        self._training = False
        self._count_passes("student", method)  # with its peers and any copies that the method holds
        teach = method.ctx.teach
        self.teacher_pass = teach if isinstance(teach, TeacherPass) else None
        if self.teacher_pass is not None:
            self._count_passes("teacher", self.teacher_pass.teacher)
            # The teacher's hooks do not see answers of the pass, which a copy gives.
            self.teacher_pass.answered = partial(self._count, "teacher")

    def train_epoch(self) -> None:
        """Train for one epoch of the stream and add its mean losses to the curves. DivergedError if a loss term is not
        finite."""
        log = LossLog()
        self.method.train()
        self._training = True
        for step, batch in enumerate(self.batches(), start=self.epoch * self.stream.steps_per_epoch):
            log.add(step, self.train_step(step, batch))
        for name, value in log.means().items():
            self.curves.setdefault(name, []).append(value)
        self._training = False
        self.epoch += 1

    def train_step(self, step: int, batch: Any) -> dict[str, Tensor]:
        """Train on one batch, as step number `step` of the run, counted from 0, and return the loss terms by name.
        TypeError if the method does not return scalar tensors by name."""
        self.method.step_index = step
        if self.teacher_pass is not None:
            self.teacher_pass.meet(step, batch)
        self._set_rates(step)
        terms = self.method.step(batch, self.optimizers)
        require_scalars(terms, f"{type(self.method).__name__}.step()")
        return terms

    def relative_passes(self) -> dict[str, float]:
        """The images in forward passes of the student (with its peers) and of the teacher while training so far, as
        multiples of those of plain training with the same recipe: `student_passes` and `teacher_passes`."""
        plain = self.epoch * self.stream.steps_per_pass * self.stream.batch_size
        return {f"{who}_passes": images / plain for who, images in self.passes.items()}

    def _count(self, who: str, images: int) -> None:
        if self._training:
            self.passes[who] += images

    def _count_passes(self, who: str, owner: nn.Module) -> None:
        own = WeakMethod(self._count)  # weak: a teacher may outlive many trainers, and its hooks would keep them alive

        def count_images(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if count := own():
                count(who, len(inputs[0]))

        for network in owner.modules():
            if isinstance(network, Network):
                network.register_forward_pre_hook(count_images)

    @property
    def steps(self) -> int:
        """Number of training steps of the whole run."""
        return self.stream.steps_per_epoch * self.recipe.epochs

    def batches(self) -> Iterator[Any]:
        """The batches of the current epoch, one per step; for a data-free method, None for each step."""
        if self.method.needs_data:
            return self.stream.epoch(self.epoch)
        return iter([None] * self.stream.steps_per_epoch)

    def _make_optimizer(self, parameters, *, scale: float = 1.0) -> Optimizer:
        recipe, parameters = self.recipe, list(parameters)
        optimizer: Optimizer  # foreach=True: PyTorch's default on a GPU; on a CPU the same bits in less time
        if recipe.optimizer == "sgd":
            optimizer = torch.optim.SGD(parameters, lr=recipe.lr * scale, momentum=recipe.momentum,
                                        nesterov=recipe.nesterov and recipe.momentum > 0,
                                        weight_decay=recipe.weight_decay, foreach=True)
        else:
            optimizer = torch.optim.AdamW(parameters, lr=recipe.lr * scale, weight_decay=recipe.weight_decay,
                                          foreach=True)
        self._scheduled.append((optimizer, recipe.lr * scale))
        return optimizer

    def _set_rates(self, step: int) -> None:
        """Set the learning rates for a step: the recipe's schedule spans each part of the run (see `Method.first_part`)
        separately. The second part begins with the optimizers' states cleared."""
        first = math.ceil(self.method.first_part * self.steps)
        start, length = (0, first) if step < first else (first, self.steps - first)
        if step == first > 0:  # else AdamW scales a thousand steps by gradients of the first part's loss
            for optimizer, _ in self._scheduled:
                optimizer.state.clear()
        factor = rate_factor(self.recipe, (step - start + 0.5) / length)
        for optimizer, rate in self._scheduled:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    def state_dict(self) -> dict[str, Any]:
        cuda = next(self.method.parameters()).is_cuda
        return {
            "epoch": self.epoch, "curves": self.curves, "passes": self.passes, "method": self.method.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "random": torch.get_rng_state(), "cuda_random": torch.cuda.get_rng_state() if cuda else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.curves, self.passes = state["epoch"], state["curves"], state["passes"]
        self.method.load_state_dict(state["method"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        torch.set_rng_state(state["random"].cpu())
        if state["cuda_random"] is not None:
            torch.cuda.set_rng_state(state["cuda_random"].cpu())


class LossLog:
    """Collects the loss terms of an epoch and averages them. `add` and `means` raise DivergedError if a term is not
    finite."""

    def __init__(self) -> None:
        self._recent: list[tuple[int, dict[str, Tensor]]] = []
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, step: int, terms: dict[str, Tensor]) -> None:
        self._recent.append((step, {name: term.detach() for name, term in terms.items()}))
        if len(self._recent) >= FINITE_CHECK_STEPS:
            self._look()

    def _look(self) -> None:
        names = [(step, name) for step, terms in self._recent for name in terms]
        if not names:
            return
        values = torch.stack([term.float() for _, terms in self._recent for term in terms.values()]).tolist()
        self._recent.clear()
        for (step, name), value in zip(names, values, strict=True):
            if not math.isfinite(value):
                raise DivergedError(f"diverged at step {step}: {name} is {value}")
            self._values[name].append(value)

    def means(self) -> dict[str, float]:
        """The mean of each term over the steps that returned it, as `loss.NAME`, and the mean of the terms' sum over
        all steps, as `loss`."""
        self._look()
        steps = max((len(values) for values in self._values.values()), default=0)
        means = {f"loss.{name}": sum(values) / len(values) for name, values in self._values.items()}
        return {"loss": sum(map(sum, self._values.values())) / max(steps, 1), **means}


def rate_factor(recipe: Recipe, progress: float) -> float:
    """The factor of the learning rate by the recipe's schedule, after a share `progress` (0 to 1) of the run or of a
    part of it."""
    if progress < recipe.warmup:
        return progress / recipe.warmup
    if recipe.schedule == "step":
        return recipe.gamma ** sum(progress * recipe.epochs >= milestone for milestone in recipe.milestones)
    left = (1 - progress) / (1 - recipe.warmup)
    return left if recipe.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
