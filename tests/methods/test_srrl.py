import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, moved, snapshot, trainer
from torch import nn

from kdbench_methods.feature.srrl import SRRL, regression_loss


def numbers(tensor):
    return tensor.detach().double().numpy()


def feature_by_hand(method, stage):
    """Yang et al.'s connector with batch statistics: a 1x1 convolution, BatchNorm at its initial scale, for a teacher
    of rectified maps a rectifier, then the mean over positions."""
    maps = np.einsum("bchw,dc->bdhw", numbers(stage), numbers(method.connector[0].weight)[:, :, 0, 0])
    axes = (0, 2, 3)
    maps = (maps - maps.mean(axes, keepdims=True)) / np.sqrt(maps.var(axes, keepdims=True) + 1e-5)
    return (np.maximum(maps, 0) if method.ctx.teacher_shapes.pooled else maps).mean((2, 3))


@pytest.mark.parametrize("pair", ["convolutional", "cross-architecture", "vit"])
def test_the_terms_equal_the_equation(pair):
    training = trainer(SRRL, pair, alpha=3.0, beta=0.5)
    method, batch = training.method, first_batch(training)
    student, teacher = method.study(batch), method.teach(batch)
    feature, target = feature_by_hand(method, student.stages[-1]), numbers(teacher.embedding)
    classifier = method.ctx.teacher.classifier
    weight, bias = numbers(classifier.weight), numbers(classifier.bias)
    logits = feature @ weight.T + bias
    terms = method.losses(batch, student, teacher)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())
    assert terms["feature"].item() == pytest.approx(3 * ((feature - target) ** 2).mean(), rel=1e-4)
    assert terms["regression"].item() == pytest.approx(0.5 * ((logits - numbers(teacher.logits)) ** 2).mean(), rel=1e-4)
    assert terms.keys() == {"ce", "feature", "regression"}


def test_what_the_classifier_does_not_see_costs_nothing_and_the_rest_its_squared_logits():
    classifier = nn.Linear(4, 2).double()
    target, shift = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    unseen = shift - shift @ torch.linalg.pinv(classifier.weight.detach()) @ classifier.weight.detach()
    assert unseen.abs().max() > 0.1
    assert regression_loss(target + unseen, target, classifier).item() == pytest.approx(0, abs=1e-20)
    expected = ((numbers(shift) @ numbers(classifier.weight).T) ** 2).mean()
    assert regression_loss(target + shift, target, classifier).item() == pytest.approx(expected, rel=1e-10)


def test_a_feature_that_equals_the_teachers_pooled_map_is_not_negative_and_a_transformers_may_be():
    for pair, lowest_is_zero in (("convolutional", True), ("vit", False)):
        training = trainer(SRRL, pair)
        method, batch = training.method, first_batch(training)
        maps = method.connector(method.study(batch).stages[-1])
        assert (maps.min() == 0) == lowest_is_zero


@pytest.mark.parametrize("term", ["feature", "regression"])
def test_each_term_reaches_the_students_first_layer_and_leaves_its_classifier_alone(term):
    training = trainer(SRRL)
    method, batch = training.method, first_batch(training)
    method.losses(batch, method.study(batch), method.teach(batch))[term].backward()
    assert method.student.model.conv1.weight.grad.abs().sum() > 0
    assert method.student.classifier.weight.grad is None


def test_a_step_moves_student_and_connector():
    training = trainer(SRRL)
    method, before = training.method, snapshot(training.method)
    method.step(first_batch(training), training.optimizers)
    assert moved(method, before) == set(before)
    assert not any(name.startswith("ctx") for name in before)
    assert method.deployed() is method.student
