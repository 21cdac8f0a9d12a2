"""What the tests of methods share: golden values, and methods on tiny pairs."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from kdbench.checks.contract import Subject
from kdbench.method import Batch, Method, Outputs
from kdbench.train.trainer import Trainer

ORACLES = Path(__file__).parents[1] / "oracles"
FILES = ("same_resolution", "other_resolution")


class Golden:
    """One file of golden values: `golden["student_stage0"]` is an input, `golden.hyperparameters` a dictionary."""

    def __init__(self, file: str):
        with np.load(ORACLES / f"{file}.npz") as values:
            self.values = {name: values[name] for name in values.files}
        self.hyperparameters = json.loads(str(self.values.pop("hyperparameters")))

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.values[name])

    def stages(self, who: str, count: int = 3) -> list[Tensor]:
        """`who` is student, teacher or student_matched."""
        prefix = who if who.endswith("matched") else f"{who}_stage"
        return [self[f"{prefix}{i}"] for i in range(count)]

    def check(self, name: str, loss: Callable[..., Tensor]) -> None:
        """`loss`, called with the inputs that have a golden gradient (in the order of their names), has the golden
        value and gradients."""
        prefix = f"expect__{name}__grad__"
        inputs = sorted(key.removeprefix(prefix) for key in self.values if key.startswith(prefix))
        assert inputs, f"no golden values of {name}"
        leaves = [self[key].clone().requires_grad_() for key in inputs]
        value = loss(*leaves)
        torch.testing.assert_close(value.detach(), self[f"expect__{name}"], rtol=1e-9, atol=1e-12)
        for key, gradient in zip(inputs, torch.autograd.grad(value, leaves), strict=True):
            torch.testing.assert_close(gradient, self[prefix + key], rtol=1e-7, atol=1e-12)


@pytest.fixture(params=FILES)
def golden(request) -> Golden:
    return Golden(request.param)


def trainer(cls: type[Method], pair: str = "convolutional", **hyperparameters) -> Trainer:
    """A method on one of the contract tests' tiny pairs (kdbench.checks.contract.PAIRS), about to take the first of a
    run's 12 steps."""
    torch.set_num_threads(1)
    return Subject(cls, hyperparameters, pair).trainer()


def first_batch(trainer: Trainer) -> Batch:
    return next(trainer.stream.epoch(0))


def snapshot(method: Method) -> dict[str, Tensor]:
    """The method's parameters as they are now."""
    return {name: parameter.detach().clone() for name, parameter in method.named_parameters()}


def moved(method: Method, before: dict[str, Tensor]) -> set[str]:
    """The names of the parameters that differ from a snapshot."""
    return {name for name, parameter in method.named_parameters() if not torch.equal(parameter, before[name])}


def moved_by_each(trainer: Trainer, batch: Batch | None = None) -> dict[str, set[str]]:
    """By optimizer, the parameters that it alone moves, with the gradients that a step leaves it."""
    held = {}
    for name, optimizer in trainer.optimizers.items():
        optimizer.step, held[name] = (lambda: None), optimizer.step
    start = snapshot(trainer.method)
    trainer.method.step(batch, trainer.optimizers)
    assert not moved(trainer.method, start)
    found = {}
    for name, step in held.items():
        before = snapshot(trainer.method)
        step()
        found[name] = moved(trainer.method, before)
    return found


def named(method: Method, prefix: str) -> set[str]:
    """The names of the parameters that begin with the prefix."""
    return {name for name, _ in method.named_parameters() if name.startswith(prefix)}


@contextmanager
def recorded(network: torch.nn.Module) -> Iterator[list[tuple[Tensor, Outputs]]]:
    """The images that the network is shown, and its answers, in order."""
    seen: list[tuple[Tensor, Outputs]] = []
    hook = network.register_forward_hook(lambda module, inputs, outputs: seen.append((inputs[0], outputs)))
    try:
        yield seen
    finally:
        hook.remove()


# For methods that need no more than logits [B, K] and labels [B].

def loss_terms(cls: type[Method], student: Tensor, labels: Tensor, teacher: Tensor | None = None, *,
               step_index: int = 20, **hyperparameters) -> dict[str, float]:
    """The weighted terms of the method's loss, in one of the 40 steps of a run."""
    method = cls(SimpleNamespace(student=torch.nn.Identity(), steps=40), **hyperparameters)
    method.step_index = step_index
    batch = Batch(torch.zeros(len(labels)), labels, torch.arange(len(labels)))
    outputs = [None if logits is None else Outputs(logits, logits, ()) for logits in (student, teacher)]
    return {name: term.item() for name, term in method.losses(batch, *outputs).items()}


def random_logits(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(logits: np.ndarray) -> np.ndarray:
    """[..., K] to probabilities."""
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) over the last axis."""
    return (p * (np.log(p) - np.log(q))).sum(axis=-1)
