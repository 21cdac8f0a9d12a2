"""The contract tests over every registered method, and proof that each of them catches what it is there for."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdbench.checks import contract as check
from kdbench.checks.contract import CLASSES, PAIRS, RECIPE, TEST_OF_CHOICES, TESTS, Subject, check_method
from kdbench.method import Method, Outputs, Shapes, descend
from kdbench.networks import Network
from kdbench.plugins.registry import Registry, load
from kdbench.plugins.source import FAMILIES
from kdbench.plugins.template import write_method
from kdbench.suites.suite import load_suite

REGISTRY = Registry()
SHORT = load_suite("smoke").content.hyperparameters


def on_pairs(cases, here):
    """Each case, a tuple, with every pair behind it. Those whose place is in `here` are tried with the first pair, the
    fastest, in every run of the tests; all others, for which there is no time there, by `tox -e contract`."""
    pairs = list(PAIRS)
    for place, case in enumerate(cases):
        for pair in pairs:
            often = place in here and pair == pairs[0]
            yield pytest.param(*case, pair, marks=() if often else pytest.mark.contract)


NAMES = list(REGISTRY)
FIRST_OF_FAMILIES = [NAMES.index(next(info.name for info in REGISTRY.values() if info.family == family))
                     for family in FAMILIES]


@pytest.mark.parametrize(("name", "pair"), list(on_pairs([(name,) for name in NAMES], FIRST_OF_FAMILIES)))
def test_every_method_keeps_the_contract_on(name, pair):
    info = REGISTRY[name]
    subject = Subject(load(info), info.resolve(SHORT.get(name, {})), pair)
    reason = subject.inapplicable()
    if reason is not None:
        pytest.skip(f"n/a: {reason}")
    for test in TESTS.values():
        test(subject)


CHOICES = [(info.name, parameter.name, value) for info in REGISTRY.values()
           for parameter in info.hyperparameters.values() for value in parameter.choices if value != parameter.default]


@pytest.mark.parametrize(("name", "hyperparameter", "value", "pair"), list(on_pairs(CHOICES, range(len(CHOICES)))))
def test_every_method_trains_with_each_choice_of_a_hyperparameter_on(name, hyperparameter, value, pair):
    info = REGISTRY[name]
    subject = Subject(load(info), info.resolve({**SHORT.get(name, {}), hyperparameter: value}), pair)
    reason = subject.inapplicable()
    if reason is not None:
        pytest.skip(f"n/a: {reason}")
    TEST_OF_CHOICES(subject)


def test_the_choices_of_the_built_in_methods_are_all_booleans_and_named_strings():
    assert {("kdcl", "ensemble", "naive"), ("reviewkd", "preactivation", True), ("cat_kd", "normalise", False)} \
        <= set(CHOICES)
    assert not {(name, parameter) for name, parameter, value in CHOICES if not isinstance(value, str | bool)}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_that_new_method_writes_keeps_the_contract(family, tmp_path):
    file = write_method(f"my_{family}", family, tmp_path)
    info = Registry([file])[f"my_{family}"]
    assert info.family == family
    assert len(file.read_text().splitlines()) < 50
    assert info.idea and "$" not in file.read_text()
    subject = Subject(load(info), info.resolve({}), "cross-architecture")
    for test in TESTS.values():
        test(subject)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair != "mlp"])  # whose maps have one position
def test_the_attention_file_that_new_method_writes_moves_the_students_maps_to_the_teachers(pair, tmp_path):
    info = Registry([write_method("my_maps", "attention", tmp_path)])["my_maps"]
    trainer = Subject(load(info), info.resolve({}), pair).trainer()
    for _ in range(RECIPE.epochs):
        trainer.train_epoch()
    attention = trainer.curves["loss.attention"]
    assert 0 < attention[-1] < attention[0]


def test_the_attention_file_that_new_method_writes_compares_maps_and_neither_widths_nor_scales(tmp_path):
    info = Registry([write_method("my_maps", "attention", tmp_path)])["my_maps"]
    method = Subject(load(info), info.resolve({}), "convolutional").trainer().method
    stage, logits = torch.rand(2, 4, 6, 6), torch.zeros(2, CLASSES)
    student = Outputs(logits, torch.zeros(2, 4), (stage,))
    teacher = Outputs(logits, torch.zeros(2, 8), (3 * torch.cat([stage, stage], 1),))
    batch = method.ctx.sample(torch.arange(2))
    assert method.losses(batch, student, teacher)["attention"].item() == pytest.approx(0, abs=1e-6)
    turned = teacher._replace(stages=(teacher.stages[0].flip(2),))
    assert method.losses(batch, student, turned)["attention"].item() > 1
    assert "more than one position" in method.inapplicable(Shapes(4, ((4, 1, 1),)), Shapes(8, ((8, 6, 6),)))


class Good(Method):
    name, family = "good", "logit"

    def losses(self, batch, student, teacher):
        return {"ce": F.cross_entropy(student.logits, batch.labels), "kd": F.mse_loss(student.logits, teacher.logits)}


class WithoutTerms(Good):
    def step(self, batch, optimizers):
        super().step(batch, optimizers)
        return {}


class WithAVector(Good):
    def losses(self, batch, student, teacher):
        return {"ce": F.cross_entropy(student.logits, batch.labels, reduction="none")}


class WithANumber(Good):
    def losses(self, batch, student, teacher):
        return {"ce": F.cross_entropy(student.logits, batch.labels), "kd": 0.0}


class WithoutADict(Good):
    def losses(self, batch, student, teacher):
        return F.cross_entropy(student.logits, batch.labels)


class WithoutAReturn(Good):
    def step(self, batch, optimizers):
        super().step(batch, optimizers)


class ForgetsSuper(Good):
    def __init__(self, ctx):
        self.alpha = 1.0


class Idle(Good):
    def step(self, batch, optimizers):
        return {"ce": torch.tensor(1.0)}


class WithNaN(Good):
    def losses(self, batch, student, teacher):
        return {"ce": torch.log(-student.logits.abs()).mean()}


class TrainsTheTeacher(Good):
    def step(self, batch, optimizers):
        self.ctx.teacher.train()
        terms = super().step(batch, optimizers)
        self.ctx.teacher.eval()
        return terms


class LeavesTheTeacherInTrainMode(Good):
    def step(self, batch, optimizers):
        terms = super().step(batch, optimizers)
        self.ctx.teacher.train()
        return terms


class OwnsTheTeacher(Good):
    def __init__(self, ctx):
        super().__init__(ctx)
        self.teacher = ctx.teacher


class ForgetsItsMemory(Good):
    """A memory that is no buffer: a resumed run starts without it."""

    def __init__(self, ctx):
        super().__init__(ctx)
        self.memory = torch.zeros(ctx.num_train, ctx.num_classes)

    def losses(self, batch, student, teacher):
        earlier, self.memory[batch.positions] = self.memory[batch.positions], student.logits.detach()
        return {"ce": F.cross_entropy(student.logits, batch.labels), "memory": F.mse_loss(student.logits, earlier)}


class HidesAnOptimizer(Good):
    """A critic whose optimizer is not in the checkpoint."""

    def __init__(self, ctx):
        super().__init__(ctx)
        self.critic = nn.Linear(ctx.num_classes, 1)

    def optimizers(self, make):
        self.hidden = torch.optim.Adam(self.critic.parameters(), lr=0.1)
        return {"main": make(self.student.parameters())}

    def step(self, batch, optimizers):
        student = self.student(batch.images).logits
        descend(self.hidden, F.softplus(self.critic(student.detach())).mean())
        terms = {"ce": F.cross_entropy(student, batch.labels), "fool": -self.critic(student).mean()}
        descend(optimizers["main"], sum(terms.values()))
        return terms


class ScaleInAList(Good):
    """A learnable scale kept where no optimizer finds it."""

    def __init__(self, ctx):
        super().__init__(ctx)
        self.scales = [nn.Parameter(torch.ones(()))]

    def losses(self, batch, student, teacher):
        return {"ce": F.cross_entropy(self.scales[0] * student.logits, batch.labels)}


class InTwoOptimizers(Good):
    def optimizers(self, make):
        return {"main": make(self.parameters()), "again": make(self.student.parameters())}


class UsesUnseededNumbers(Good):
    calls = 0

    def losses(self, batch, student, teacher):
        type(self).calls += 1
        return {"ce": self.calls * F.cross_entropy(student.logits, batch.labels)}


class PeeksAtImages(Good):
    needs_data = False

    def step(self, batch, optimizers):
        return Good.step(self, self.ctx.sample(torch.arange(4)), optimizers)


class ReadsEveryLabel(Good):
    unlabelled = "beside"

    def losses(self, batch, student, teacher):
        others = student.logits.gather(1, (batch.labels[:, None] + 1) % CLASSES)
        return {**super().losses(batch, student, teacher), "others": others.square().mean()}


class NeedsLabels(Good):
    unlabelled = "alone"


class AsksTheTeacherAgain(Good):
    """Keeps an answer of the teacher that a checkpoint does not hold."""

    answer = None

    def losses(self, batch, student, teacher):
        if self.answer is None:
            self.answer = self.ctx.teacher(batch.images)
        return super().losses(batch, student, teacher)


class DeploysNothingUseful(Good):
    def deployed(self):
        return nn.Flatten()


BROKEN = {
    WithoutTerms: ("trains_with", "no terms"),
    WithAVector: ("trains_with", "WithAVector.losses(): the term 'ce' is a tensor of shape (8,), expected a scalar"),
    WithANumber: ("trains_with", "WithANumber.losses(): the term 'kd' is of type float, expected a scalar tensor"),
    WithoutADict: ("trains_with", "WithoutADict.losses() returned a tensor of shape (), expected a dict"),
    WithoutAReturn: ("trains_with", "WithoutAReturn.step() returned None, expected a dict"),
    ForgetsSuper: ("trains_with", "ForgetsSuper.__init__ does not call super().__init__(ctx)"),
    Idle: ("trains_with", "the student did not change"),
    WithNaN: ("trains_with", "diverged at step 0: ce is nan"),
    TrainsTheTeacher: ("trains_with", "the teacher's weights or statistics changed"),
    LeavesTheTeacherInTrainMode: ("trains_with", "the teacher"),
    OwnsTheTeacher: ("trains_with", "the teacher"),
    ForgetsItsMemory: ("a_checkpoint", "resumed after epoch 1"),
    HidesAnOptimizer: ("a_checkpoint", "resumed after epoch 1"),
    AsksTheTeacherAgain: ("a_checkpoint", "the run passed other numbers of images through the networks"),
    ScaleInAList: ("every_leaf", "in no optimizer, of shapes [()]"),
    InTwoOptimizers: ("every_leaf", "in more than one optimizer"),
    UsesUnseededNumbers: ("same_seed", "different weights"),
    PeeksAtImages: ("a_data_free", "asked for training images"),
    ReadsEveryLabel: ("images_without_labels", "the number that stands for no label changed the weights"),
    NeedsLabels: ("images_without_labels", "diverged at step 0: ce is nan"),
    DeploysNothingUseful: ("the_deployed", "must map images to Outputs"),
}


def failure_of(cls, test):
    check._warm_teacher.cache_clear()  # a broken method may have spoilt it
    name = next(name for name in TESTS if name.startswith(test.replace("_", " ")))
    try:
        return check._failure(TESTS[name], Subject(cls, {}, "convolutional"))
    finally:
        check._warm_teacher.cache_clear()


@pytest.mark.parametrize("cls", BROKEN)
def test_a_method_that_breaks_the_contract_is_caught(cls):
    test, message = BROKEN[cls]
    failure = failure_of(cls, test)
    assert failure is not None and message in failure


def test_a_method_that_keeps_the_contract_passes_every_test():
    results = list(check_method(Good, {}))
    assert [r for r in results if r.error] == []
    assert len(results) == len(PAIRS) * len(TESTS)


class BreaksInSomeModes(Good):
    """Written for its defaults alone."""

    def __init__(self, ctx, *, mode: str = "soft", on: bool = True):
        super().__init__(ctx)
        self.mode, self.on = mode, on

    def losses(self, batch, student, teacher):
        terms = super().losses(batch, student, teacher)
        return {**terms, "kd": terms["kd"] * {"soft": 1.0, "hard": float("nan")}[self.mode]} if self.on else terms


def test_each_choice_is_tried_alone_on_every_pair_and_the_one_that_fails_is_named():
    values = {"mode": "soft", "on": True}
    results = list(check_method(BreaksInSomeModes, values, {"mode": ("soft", "hard"), "on": (False, True)}))
    tried = [r for r in results if r.choice]
    assert [(r.pair, r.choice) for r in tried] == [
        (pair, choice) for pair in PAIRS for choice in ("mode=hard", "on=false")]
    assert {r.choice: r.error for r in tried}["on=false"] is None, "mode is as in the defaults"
    assert [r.choice for r in results if r.error] == ["mode=hard"] * len(PAIRS)
    assert "kd is nan" in tried[0].error
    assert len(results) == len(PAIRS) * (len(TESTS) + 2)


def test_no_choice_is_tried_where_none_is_named():
    assert not [r for r in check_method(Good, {}, {}) if r.choice]


def test_a_pair_that_a_method_cannot_train_is_told_with_the_reason():
    class Picky(Good):
        @classmethod
        def inapplicable(cls, student, teacher):
            return "needs more stages" if len(student.stages) < 4 else None

    results = list(check_method(Picky, {}))
    assert {r.pair for r in results if r.inapplicable == "needs more stages"} \
        == {"convolutional", "vit", "mlp", "text"}


def test_a_warm_teacher_has_statistics_of_its_own():
    teacher = Subject(Good, {}, "convolutional").teacher()
    assert isinstance(teacher, Network)
    assert not torch.equal(teacher.model.bn1.running_mean, torch.zeros_like(teacher.model.bn1.running_mean))
