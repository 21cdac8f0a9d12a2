import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, kl, moved, snapshot, softmax, trainer

from kdbench.checks.contract import PAIRS
from kdbench.method import Shapes
from kdbench_methods.self.byot import BYOT, Branch, hint_loss


def test_hint_is_the_squared_distance_averaged_over_the_batch():
    shallow, deep = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[4.0, 6.0], [0.0, 1.0]])
    assert hint_loss(shallow, deep).item() == (9 + 16 + 1) / 2


def test_byot_is_the_papers_sum_over_branches():
    method = trainer(BYOT, alpha=0.2, hint=0.5, temperature=3.0).method.double()
    batch = first_batch(trainer(BYOT))
    batch = batch._replace(images=batch.images.double())
    student = method.student(batch.images)
    terms = {name: term.item() for name, term in method.losses(batch, student, None).items()}

    rows, labels = range(len(batch.labels)), batch.labels.numpy()
    deep, feature = student.logits.detach().numpy(), student.embedding.detach().numpy()
    expected = {"ce": -np.log(softmax(deep)[rows, labels]).mean(), "branches": 0.0, "kd": 0.0, "hint": 0.0}
    assert len(method.branches) == len(student.stages) - 1 == 2
    for branch, stage in zip(method.branches, student.stages, strict=False):
        logits, shallow = (tensor.detach().numpy() for tensor in branch(stage))
        expected["branches"] += 0.8 * -np.log(softmax(logits)[rows, labels]).mean()
        expected["kd"] += 0.2 * kl(softmax(deep / 3), softmax(logits / 3)).mean()
        expected["hint"] += 0.5 * ((shallow - feature) ** 2).sum(axis=1).mean()
    assert terms == pytest.approx(expected)


@pytest.mark.parametrize("pair", PAIRS)
def test_each_branch_reads_its_stage_at_the_embeddings_width(pair):
    method = trainer(BYOT, pair).method
    student = method.student(first_batch(trainer(BYOT, pair)).images)
    for branch, stage in zip(method.branches, student.stages, strict=False):
        logits, feature = branch(stage)
        assert feature.shape == student.embedding.shape and logits.shape == student.logits.shape


@pytest.mark.parametrize("ratio", [1, 2, 3, 4, 8])
def test_a_bottleneck_brings_its_stage_to_the_deepest_resolution(ratio):
    branch = Branch((4, 2 * ratio, 2 * ratio), (9, 2, 2), 5, 3)
    assert branch.bottleneck[:-2](torch.zeros(2, 4, 2 * ratio, 2 * ratio)).shape == (2, 5, 2, 2)


def test_every_term_reaches_the_branches_but_only_ce_reaches_the_classifier():
    t = trainer(BYOT)
    batch, method = first_batch(t), t.method
    terms = method.losses(batch, method.student(batch.images), None)
    classifier = list(method.student.classifier.parameters())
    for name, term in terms.items():
        to_classifier = torch.autograd.grad(term, classifier, retain_graph=True, allow_unused=True)
        assert (to_classifier[0] is not None) == (name == "ce"), name
        to_stem = torch.autograd.grad(term, method.student.model.conv1.weight, retain_graph=True)[0]
        assert (to_stem != 0).any(), name
    before = snapshot(method)
    method.step(batch, t.optimizers)
    assert moved(method, before) == set(before)


def test_the_deepest_outputs_are_targets_without_a_gradient():
    t = trainer(BYOT)
    batch = first_batch(t)
    student = t.method.student(batch.images)
    deepest = student._replace(logits=student.logits.detach().requires_grad_(),
                               embedding=student.embedding.detach().requires_grad_())
    terms = t.method.losses(batch, deepest, None)
    to_targets = torch.autograd.grad(terms["kd"] + terms["hint"] + terms["branches"],
                                     (deepest.logits, deepest.embedding), allow_unused=True)
    assert to_targets == (None, None)


def test_branches_are_left_behind_at_inference():
    method = trainer(BYOT).method
    assert method.deployed() is method.student
    assert not {id(p) for p in method.student.parameters()} & {id(p) for p in method.branches.parameters()}


def test_a_student_of_one_stage_is_refused():
    assert "no stage before" in BYOT.inapplicable(Shapes(8, ((4, 2, 2),)), None)
    assert BYOT.inapplicable(Shapes(8, ((4, 4, 4), (4, 2, 2))), None) is None


def test_byot_of_no_branch_weight_trains_the_deepest_classifier_as_ce_does():
    method = trainer(BYOT).method
    batch = first_batch(trainer(BYOT))
    student = method.student(batch.images)
    assert method.losses(batch, student, None)["ce"].item() == F.cross_entropy(student.logits, batch.labels).item()
