"""Tests of the plugin contract (`kdbench.method`) that any method must pass, on tiny networks and random images.

`kdbench check NAME` runs them on one method, kdbench's own tests on every registered method.
"""

import copy
import inspect
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.data.base import Dataset, Images, MemoryImages, Split
from kdbench.folders import PassFolder
from kdbench.method import NO_LABEL, Method, Outputs, is_text
from kdbench.networks import Network, build, dummy_inputs, freeze, weights_sha256
from kdbench.spec import Architecture, Recipe, Transfer, tutor
from kdbench.train.process import make_deterministic, place_in
from kdbench.train.teacher_pass import Keep
from kdbench.train.trainer import Trainer, prepare

CLASSES = 6
SHAPE = (3, 32, 32)  # of an image: C, H, W
TRAIN_SIZE = 24      # images in the training split
RECIPE = Recipe(epochs=4, batch_size=8, image_size=32, lr=0.01, warmup=0.1, augment=("crop", "flip"))
TEXT_SHAPE = (12, 50)  # of a text: T tokens, each below V
TEXT_RECIPE = RECIPE.model_copy(update={"image_size": 12, "augment": ()})


def _resnet(*channels: int, blocks: int = 1) -> Architecture:
    return Architecture(model="resnet_cifar", kwargs={
        "blocks": blocks, "stem": channels[0], "channels": channels, "stride": 2})


def _vit(width: int, depth: int) -> Architecture:
    return Architecture(model="test_vit", kwargs={
        "img_size": 32, "patch_size": 8, "embed_dim": width, "depth": depth, "num_heads": 2})


def _mlp(*widths: int) -> Architecture:
    return Architecture(model="mlp", kwargs={"hidden_sizes": widths})


# Teacher and student differ in width, in the number and resolution of stages, and in kind.
PAIRS: dict[str, tuple[Architecture, Architecture]] = {
    "convolutional": (_resnet(16, 24, 32), _resnet(8, 12, 16)),
    "cross-architecture": (_resnet(16, 24, 32), Architecture(model="test_efficientnet")),
    "vit": (_vit(64, depth=4), _vit(32, depth=3)),
    "mlp": (_mlp(24, 16), _mlp(12)),
    "text": (Architecture(model="text_transformer", kwargs={"embed_dim": 16, "depth": 2, "patch_drop_rate": 0.1}),
             Architecture(model="text_bag", kwargs={"embed_dim": 8})),
}


class ContractError(AssertionError):
    """A method breaks the contract; the message says what it did or failed to do."""


@dataclass(frozen=True)
class Result:
    """The outcome of one contract test of one method on one pair: passed, failed or not applicable."""

    method: str
    pair: str                        # a key of PAIRS
    test: str                        # a key of TESTS, or "applies" where the method cannot train the pair
    choice: str | None = None        # "NAME=VALUE", the one hyperparameter that differed from the check's; else None
    error: str | None = None         # why the test failed; None if it passed
    inapplicable: str | None = None  # why the method cannot train this pair; None if it can


@dataclass(frozen=True)
class Subject:
    """A method class, its hyperparameters and a pair: what a contract test builds trainers from."""

    cls: type[Method]
    hyperparameters: dict[str, Any]
    pair: str
    device: str = "cpu"  # or "cuda"

    def teacher(self) -> Network | None:
        """The network that the method learns from, the same object at each call; None if it learns from none."""
        teacher, student = PAIRS[self.pair]
        own = student if self.cls.learns_from == "student" else teacher  # any other network serves as an assistant
        architecture = tutor(self.cls.learns_from, teacher=teacher, self_teacher=own)
        return None if architecture is None else _warm_teacher(architecture.model_dump_json(), self.shape, self.device)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input of the pair's networks: (C, H, W), or (T, V) of texts."""
        return TEXT_SHAPE if self.pair == "text" else SHAPE

    def trainer(self, *, seed: int = 0, recipe: Recipe | None = None, dataset: Dataset | None = None,
                keep: Keep | None = None, transfer: Transfer | None = None) -> Trainer:
        """A new trainer of the method. By default it trains on `random_images()`, or on `random_texts()` if the pair is
        for texts."""
        dataset = dataset or (random_texts if is_text(self.shape) else random_images)(self.device)
        recipe = recipe or (TEXT_RECIPE if is_text(self.shape) else RECIPE)
        method, stream = prepare(self.cls, self.hyperparameters, PAIRS[self.pair][1], self.teacher(), dataset, recipe,
                                 seed, torch.device(self.device), keep=keep, transfer=transfer)
        return Trainer(method, stream, recipe)

    @cached_property
    def whole(self) -> "WholeRun":
        """A finished run with the default seed, which several tests look at."""
        trainer, teacher = self.trainer(), self.teacher()
        student_before = weights_sha256(trainer.method.student.state_dict())
        teacher_before = weights_sha256(teacher.state_dict()) if teacher else None
        with _recorded_leaves() as calls:
            _train(trainer, epochs=RECIPE.epochs)
        return WholeRun(trainer, student_before, teacher_before, calls)

    @cached_property
    def result(self) -> str:
        """The SHA-256 of the method's weights after the whole run; runs with the same seed must give the same."""
        return weights_sha256(self.whole.trainer.method.state_dict())

    def inapplicable(self) -> str | None:
        """Why the method cannot train the pair; None if it can."""
        teacher = self.teacher()
        student = build(PAIRS[self.pair][1], CLASSES, self.shape)
        return self.cls.unfit(student.shapes, teacher.shapes if teacher else None, self.shape)


@dataclass(frozen=True)
class WholeRun:
    """A finished run: its trainer, the SHA-256 of student's and teacher's weights before it, and the leaves of its
    losses."""

    trainer: Trainer
    student_before: str
    teacher_before: str | None
    leaves: list[list[Tensor]]  # for each call of backward(), the leaves that it reached


def check_method(cls: type[Method], hyperparameters: dict[str, Any],
                 choices: Mapping[str, Iterable[Any]] | None = None, device: str = "cpu") -> Iterator[Result]:
    """Run every contract test of the method on every pair and yield the results one by one. A pair that the method
    cannot train has a single result, which says why.

    Each value in `choices`, by hyperparameter, is also tested, with the other hyperparameters as in `hyperparameters`.
    It gets only one test on each pair, as all tests would take as long again for each value.
    """
    others = [(name, value) for name, values in (choices or {}).items() for value in values
              if value != hyperparameters[name]]
    for pair in PAIRS:
        subject = Subject(cls, hyperparameters, pair, device)
        reason = subject.inapplicable()
        if reason is not None:
            yield Result(cls.name, pair, "applies", inapplicable=reason)
            continue
        for name, test in TESTS.items():
            yield Result(cls.name, pair, name, error=_failure(test, subject))
        for name, value in others:
            other = replace(subject, hyperparameters={**hyperparameters, name: value})
            yield Result(cls.name, pair, _name(TEST_OF_CHOICES), _written(name, value),
                         error=_failure(TEST_OF_CHOICES, other))


def _written(name: str, value: Any) -> str:
    """A hyperparameter and its value in the form that --set takes, NAME=VALUE."""
    return f"{name}={str(value).lower() if isinstance(value, bool) else value}"


def _failure(test: Callable[[Subject], None], subject: Subject) -> str | None:
    """Why the test fails, with the numerics of real runs; None if it passes. Any exception of the method is a
    failure."""
    threads = torch.get_num_threads()
    make_deterministic(subject.device)
    try:
        test(subject)
    except ContractError as error:
        return str(error)
    except Exception as error:  # the method's own
        return f"{type(error).__name__}: {error}{place_in(error, Path(inspect.getfile(subject.cls)))}"
    finally:
        torch.set_num_threads(threads)
    return None


# The tests. Each takes a subject and raises ContractError; `kdbench check` prints its name, with spaces.

def trains_with_finite_terms_and_leaves_the_teacher_alone(subject: Subject) -> None:
    teacher, trainer = subject.teacher(), subject.whole.trainer
    _require(len(trainer.curves) > 1, "step() returned no terms")  # besides `loss`, the curve of their sum
    _require(weights_sha256(trainer.method.student.state_dict()) != subject.whole.student_before,
             "the student did not change")
    if teacher:
        _require(weights_sha256(teacher.state_dict()) == subject.whole.teacher_before,
                 "the teacher's weights or statistics changed")
        _require(not teacher.training, "the teacher was left in train mode")
        _require(all(p.grad is None for p in teacher.parameters()), "gradients reached the teacher")
        inside = {id(p) for p in trainer.method.parameters()} & {id(p) for p in teacher.parameters()}
        _require(not inside, "the teacher's parameters are among the method's: keep it on ctx")


def same_seed_gives_the_same_weights_and_another_seed_others(subject: Subject) -> None:
    hashes = [weights_sha256(_train(subject.trainer(seed=seed), epochs=2).method.state_dict()) for seed in (3, 3, 4)]
    _require(hashes[0] == hashes[1], "two runs of one seed ended with different weights")
    _require(hashes[0] != hashes[2], "another seed gave the same weights")


def a_checkpoint_in_the_middle_changes_nothing(subject: Subject) -> None:
    whole, saved = subject.trainer(), {}
    for epoch in (1, RECIPE.epochs - 1):
        saved[epoch] = _through_file(_train(whole, epochs=epoch - whole.epoch).state_dict())
    _train(whole, epochs=RECIPE.epochs - whole.epoch)
    _require(weights_sha256(whole.method.state_dict()) == subject.result,
             "the run that wrote checkpoints ended with other weights")
    for epoch, state in saved.items():
        torch.manual_seed(epoch)  # as if other things had happened in between
        resumed = subject.trainer()
        resumed.load_state_dict(state)
        _train(resumed, epochs=RECIPE.epochs - epoch)
        _require(
            weights_sha256(resumed.method.state_dict()) == subject.result,
            f"resumed after epoch {epoch}, the run ended with other weights: some state is not in state_dict() "
            f"(buffers, submodules, the optimizers that optimizers() returns)",
        )
        _require(
            resumed.passes == whole.passes,
            f"resumed after epoch {epoch}, the run passed other numbers of images through the networks: "
            f"{resumed.passes}, without the interruption {whole.passes}",
        )


def kept_answers_of_the_teacher_change_nothing(subject: Subject) -> None:
    if subject.cls.learns_from is None or not subject.cls.needs_data:
        return
    complaints: list[str] = []
    with TemporaryDirectory(prefix="kdbench-check-") as folder:
        keep = Keep(PassFolder(Path(folder)), ("logits", "embedding", "stages"), note=complaints.append)
        for what in ("wrote", "read"):
            ended = weights_sha256(_train(subject.trainer(keep=keep), epochs=RECIPE.epochs).method.state_dict())
            _require(ended == subject.result, f"the run that {what} the teacher's answers ended with other weights")
        _require(not complaints, f"the kept answers could not be used: {complaints}")


def every_leaf_of_the_loss_sits_in_exactly_one_optimizer(subject: Subject) -> None:
    trainer = subject.whole.trainer
    owned = Counter(id(p) for o in trainer.optimizers.values() for group in o.param_groups for p in group["params"])
    parameters = dict(trainer.method.named_parameters())
    names = {id(p): name for name, p in parameters.items()}
    twice = [names.get(i, "a tensor") for i, count in owned.items() if count > 1]
    _require(not twice, f"in more than one optimizer: {', '.join(twice)}")
    missing = [name for name, p in parameters.items() if p.requires_grad and id(p) not in owned]
    _require(not missing, f"in no optimizer: {', '.join(missing)}")
    reached = {id(leaf): leaf for leaves in subject.whole.leaves for leaf in leaves}
    # How often each leaf was reached: once if it was made in the step, as an input is.
    times = Counter(id(leaf) for leaves in subject.whole.leaves for leaf in leaves)
    lost = [tuple(leaf.shape) for i, leaf in reached.items() if times[i] > 1 and i not in owned]
    _require(not lost, f"the loss trains tensors that are in no optimizer, of shapes {lost}")


def a_data_free_method_sees_no_image(subject: Subject) -> None:
    if subject.cls.needs_data:
        return
    split = Split(_Forbidden(TRAIN_SIZE), torch.zeros(TRAIN_SIZE, dtype=torch.int64, device=subject.device))
    trainer = subject.trainer(dataset=replace(random_images(subject.device), train=split, validation=split, test=split))
    _require(trainer.method.ctx.train_labels is None, "a data-free method was given labels")
    _train(trainer, epochs=1)


def images_without_labels_teach_by_the_trained_network_alone(subject: Subject) -> None:
    cls = subject.cls
    if cls.unlabelled is None:
        return
    hashes = []
    for stands_for_none in (NO_LABEL, -3):  # a loss that takes it for a class would differ
        trainer = subject.trainer(transfer=Transfer(images="rest", share=0.5))
        images = trainer.stream.images
        trainer.stream.images = replace(images, labels=images.labels.where(images.labels >= 0, stands_for_none))
        with _ignored(stands_for_none):
            _train(trainer, epochs=RECIPE.epochs)
        hashes.append(weights_sha256(trainer.method.student.state_dict()))
    _require(hashes[0] == hashes[1], "the number that stands for no label changed the weights: leave images whose "
             "label is NO_LABEL out of whatever reads labels (labelled_cross_entropy does), or say unlabelled = None")
    if cls.unlabelled == "alone":  # the loss must be finite without any label
        _train(subject.trainer(transfer=Transfer(images="rest", share=1.0)), epochs=RECIPE.epochs)


def the_deployed_network_gives_logits_and_is_saved_with_the_method(subject: Subject) -> None:
    trainer = _train(subject.trainer(), epochs=1)
    network = trainer.method.deployed().eval()
    with torch.no_grad():
        outputs = network(dummy_inputs(2, subject.shape, subject.device))
    _require(isinstance(outputs, Outputs) and tuple(outputs.logits.shape) == (2, CLASSES),
             f"deployed() must map images to Outputs with logits [B, {CLASSES}]")
    _require(bool(outputs.logits.isfinite().all()), "deployed() gives logits that are not finite")


def _name(test: Callable[[Subject], None]) -> str:
    return test.__name__.replace("_", " ")


TEST_OF_CHOICES = trains_with_finite_terms_and_leaves_the_teacher_alone
TESTS: dict[str, Callable[[Subject], None]] = {
    _name(test): test for test in (
        trains_with_finite_terms_and_leaves_the_teacher_alone,
        same_seed_gives_the_same_weights_and_another_seed_others,
        a_checkpoint_in_the_middle_changes_nothing,
        kept_answers_of_the_teacher_change_nothing,
        every_leaf_of_the_loss_sits_in_exactly_one_optimizer,
        a_data_free_method_sees_no_image,
        images_without_labels_teach_by_the_trained_network_alone,
        the_deployed_network_gives_logits_and_is_saved_with_the_method,
    )
}


# What the tests share.

@cache
def random_images(device: str = "cpu") -> Dataset:
    """A dataset of random images on the device: TRAIN_SIZE for training, 12 for validation, 12 for the test, and
    TRAIN_SIZE without labels. Each split has every class, and in each class images of both groups of one attribute."""
    generator = torch.Generator().manual_seed(0)

    def split(size: int) -> Split:
        images = torch.randint(0, 256, (size, *SHAPE), generator=generator, dtype=torch.uint8)
        positions = torch.arange(size, device=device)
        return Split(MemoryImages(images.to(device)), positions % CLASSES, {"half": positions // CLASSES % 2})

    half = torch.full((3,), 0.5)
    return Dataset("synthetic", tuple(map(str, range(CLASSES))), split(TRAIN_SIZE), split(12), split(12), SHAPE,
                   half, half / 2, "random", {"half": ("first", "second")}, unlabelled=split(TRAIN_SIZE).images)


@cache
def random_texts(device: str = "cpu") -> Dataset:
    """A dataset of random texts on the device, with the same splits, classes and groups as `random_images`."""
    generator = torch.Generator().manual_seed(0)
    length, words = TEXT_SHAPE

    def split(size: int) -> Split:
        tokens = torch.randint(1, words, (size, length), generator=generator)
        lengths = torch.randint(1, length + 1, (size, 1), generator=generator)
        tokens = tokens * (torch.arange(length) < lengths)
        positions = torch.arange(size, device=device)
        return Split(MemoryImages(tokens.to(device)), positions % CLASSES, {"half": positions // CLASSES % 2})

    nothing = torch.zeros(0)
    return Dataset("synthetic_text", tuple(map(str, range(CLASSES))), split(TRAIN_SIZE), split(12), split(12),
                   TEXT_SHAPE, nothing, nothing, "random", {"half": ("first", "second")}, split(TRAIN_SIZE).images,
                   tuple(map(str, range(words))))


@cache
def _warm_teacher(architecture: str, shape: tuple[int, ...], device: str) -> Network:
    """A frozen teacher whose BatchNorm statistics differ from the initial ones; one object for equal arguments."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(Architecture.model_validate_json(architecture), CLASSES, shape)
        network.train()
        with torch.no_grad():
            for _ in range(3):
                network(dummy_inputs(16, shape) if is_text(shape) else torch.randn(16, *shape) * 0.5)
    freeze(network)
    return network.to(device)


def _train(trainer: Trainer, epochs: int) -> Trainer:
    for _ in range(epochs):
        trainer.train_epoch()
    return trainer


def _through_file(state: dict[str, Any]) -> dict[str, Any]:
    """The state after a checkpoint file was written and read: later training does not change it."""
    file = io.BytesIO()
    torch.save(copy.deepcopy(state), file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


@contextmanager
def _ignored(label: int) -> Iterator[None]:
    """While the context lasts, torch's cross-entropy by default ignores images whose label is `label`."""
    original = F.cross_entropy

    def cross_entropy(*args: Any, **kwargs: Any) -> Tensor:
        return original(*args, **{"ignore_index": label, **kwargs})

    F.cross_entropy = cross_entropy
    try:
        yield
    finally:
        F.cross_entropy = original


@contextmanager
def _recorded_leaves() -> Iterator[list[list[Tensor]]]:
    """While the context lasts, add the leaf tensors that each call of backward() reaches to the list that it yields."""
    calls: list[list[Tensor]] = []
    original = torch.Tensor.backward

    def backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
        calls.append(_leaves(loss))
        original(loss, *args, **kwargs)

    torch.Tensor.backward = backward  # type: ignore[method-assign, assignment]
    try:
        yield calls
    finally:
        torch.Tensor.backward = original  # type: ignore[method-assign]


def _leaves(loss: Tensor) -> list[Tensor]:
    """The leaf tensors of the loss's graph, to which backward() gives a gradient."""
    found: list[Tensor] = []
    stack: list[Any] = [loss.grad_fn]
    visited: set[Any] = set()
    while stack:
        node = stack.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        stack.extend(following for following, _ in node.next_functions)
    return found


class _Forbidden(Images):
    """Images that raise ContractError when they are read."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def take(self, index: Tensor) -> Tensor:
        raise ContractError("a data-free method read images of the dataset")


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ContractError(otherwise)


__all__ = ["PAIRS", "TESTS", "TEST_OF_CHOICES", "ContractError", "Result", "Subject", "check_method", "random_images"]
