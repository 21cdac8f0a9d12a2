import numpy as np
import pytest
import torch
from support.methods import first_batch, moved, named, random_logits, snapshot, softmax, trainer

from kdbench.method import Shapes
from kdbench_methods.self.uskd import USKD, confidence, target_loss

LABELS = torch.tensor([0, 3, 2, 2])
LOGITS = random_logits(4, 5)


def numpy_target_loss(logits, labels):
    s = softmax(logits)[range(len(labels)), labels]
    return -((1 + s**2 - (s**2).mean()) * np.log(s)).mean()


def test_target_loss_is_the_papers_in_numpy():
    expected = numpy_target_loss(LOGITS.numpy(), LABELS.numpy())
    assert target_loss(LOGITS, LABELS).item() == pytest.approx(expected)


def test_a_batch_of_equally_sure_samples_has_the_plain_cross_entropy():
    logits = LOGITS[:1].repeat(3, 1)
    labels = LABELS[:1].repeat(3)
    assert target_loss(logits, labels).item() == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())


def test_no_gradient_flows_into_the_soft_label():
    logits = LOGITS.clone().requires_grad_()
    target_loss(logits, LABELS).backward()
    s = softmax(LOGITS.numpy())
    true = s[range(4), LABELS]
    weight = 1 + true**2 - (true**2).mean()
    expected = weight[:, None] * (s - np.eye(5)[LABELS]) / 4
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_confidence_is_relative_to_the_other_classes_and_finite_where_the_label_is_sure():
    p = softmax(LOGITS.numpy())
    expected = p / (1 - p[range(4), LABELS])[:, None]
    np.testing.assert_allclose(confidence(LOGITS, LABELS).numpy(), expected, rtol=1e-9)
    others = confidence(LOGITS, LABELS).scatter(1, LABELS[:, None], 0.0).sum(1)
    torch.testing.assert_close(others, torch.ones(4, dtype=torch.float64))
    assert confidence(torch.tensor([[500.0, 0.0]]), torch.tensor([0])).isfinite().all()


def test_uskd_is_the_papers_sum():
    t = trainer(USKD, alpha=0.5, beta=0.7, mu=0.2)
    method, batch = t.method, first_batch(t)
    student = method.student(batch.images)
    terms = method.losses(batch, student, None)

    labels, rows = batch.labels.numpy(), range(len(batch.labels))
    logits = student.logits.detach().double().numpy()
    pooled = student.stages[-2].detach().double().numpy().mean(axis=(2, 3))
    weak = softmax(pooled @ method.weak.weight.detach().numpy().T + method.weak.bias.detach().numpy())
    s = softmax(logits)
    score = weak / (1 - weak[rows, labels])[:, None] + s / (1 - s[rows, labels])[:, None]
    others = 0.0
    for i, label in enumerate(labels):
        rest = [k for k in range(6) if k != label]
        places = np.array([1 + (score[i] > score[i, k]).sum() for k in rest])
        others -= (1 / places / (1 / places).sum() * np.log(softmax(logits[i, rest]))).sum() / len(labels)
    smoothed = 0.9 * np.eye(6)[labels] + 0.1 / 6
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({
        "ce": -np.log(s[rows, labels]).mean(), "target": 0.5 * numpy_target_loss(logits, labels),
        "others": 0.7 * others, "weak": -0.2 * (smoothed * np.log(weak)).sum(axis=1).mean(),
    }, rel=1e-4)


def test_the_weak_classifier_is_trained_by_its_own_term_alone_and_left_behind():
    t = trainer(USKD)
    method, batch = t.method, first_batch(t)
    terms = method.losses(batch, method.student(batch.images), None)
    for name, term in terms.items():
        reached = torch.autograd.grad(term, method.weak.weight, retain_graph=True, allow_unused=True)[0] is not None
        assert reached == (name == "weak"), name
    before = snapshot(method)
    method.step(batch, t.optimizers)
    assert named(method, "weak.") <= moved(method, before)
    assert method.deployed() is method.student


def test_a_student_of_one_stage_is_refused():
    assert "no stage before" in USKD.inapplicable(Shapes(8, ((4, 2, 2),)), None)
    assert USKD.inapplicable(Shapes(8, ((4, 4, 4), (4, 2, 2))), None) is None
