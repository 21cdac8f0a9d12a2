"""What the tests of methods share: golden values, and methods on tiny pairs."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kdbench.check import Subject
from kdbench.method import Batch, Method
from kdbench.train import Trainer

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
    """A method on one of the contract tests' tiny pairs (see kdbench.check.PAIRS)."""
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
