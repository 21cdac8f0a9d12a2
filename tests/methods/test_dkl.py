import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, kl, random_logits, softmax, trainer

from kdbench.parts.losses import soft_cross_entropy
from kdbench_methods.logit.dkl import DKL, weighted_mse

STUDENT, TEACHER = random_logits(4, 5), random_logits(4, 5, seed=1)


def by_hand(student, teacher, weights):
    """Cui et al.'s weighted squared error, over all pairs of classes of each sample."""
    total = 0.0
    for s, t, w in zip(student, teacher, weights, strict=True):
        for j, k in np.ndindex(len(s), len(s)):
            total += 0.25 * w[j] * w[k] * ((t[j] - t[k]) - (s[j] - s[k])) ** 2
    return total / len(student)


def test_the_weighted_mse_is_the_papers_sum_over_pairs_of_classes():
    weights = F.softmax(random_logits(4, 5, seed=2), dim=1)
    expected = by_hand(STUDENT.numpy(), TEACHER.numpy(), weights.numpy())
    assert weighted_mse(STUDENT, TEACHER, weights).item() == pytest.approx(expected, rel=1e-12)
    assert weighted_mse(TEACHER + 3, TEACHER, weights).item() == pytest.approx(0, abs=1e-15)


def test_kl_has_the_gradients_of_the_decoupled_terms():
    """Theorem 1 of the paper: the teacher's gradient is that of the weighted error with its own probabilities as fixed
    weights, the student's that of the cross-entropy with fixed soft labels."""
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    of_kl = torch.autograd.grad(soft_cross_entropy(student, teacher, 1.0), (student, teacher))
    weights = F.softmax(TEACHER, dim=1)
    of_error, = torch.autograd.grad(weighted_mse(STUDENT, teacher, weights), teacher)
    of_labels, = torch.autograd.grad(F.cross_entropy(student, weights), student)
    torch.testing.assert_close(of_kl, (of_labels, of_error))


def terms_of(method, batch, student, teacher, step_index=11):
    method.step_index = step_index
    return {name: term.item() for name, term in method.losses(batch, student, teacher).items()}


def test_the_terms_are_the_papers_with_the_weights_of_a_class():
    training = trainer(DKL, alpha=2.0, beta=3.0, temperature=5.0, weight_temperature=2.0)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    labels, s, t = batch.labels.numpy(), *(o.logits.detach().double().numpy() for o in (student, teacher))
    classes = t.shape[1]

    first = terms_of(method, batch, student, teacher)
    uniform = np.full((len(t), classes), 1 / classes)  # no image was seen before
    assert first["wmse"] == pytest.approx(3 * by_hand(s, t, uniform), rel=1e-4)
    assert first["kd"] == pytest.approx(2 * kl(softmax(t / 5), softmax(s / 5)).mean(), rel=1e-3)
    assert first["ce"] == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())

    second = terms_of(method, batch, student, teacher)
    seen = {label: [softmax(t[i] / 2) for i in range(len(t)) if labels[i] == label] for label in set(labels.tolist())}
    means = {label: (1 / classes + sum(rows)) / (1 + len(rows)) for label, rows in seen.items()}
    assert second["wmse"] == pytest.approx(3 * by_hand(s, t, [means[label] for label in labels.tolist()]), rel=1e-4)


def test_the_weights_of_each_class_sum_to_1_and_are_its_own():
    training = trainer(DKL, weight_temperature=1.0)
    method, batch = training.method, first_batch(training)
    only = batch._replace(labels=torch.full_like(batch.labels, 2))
    teacher = method.teach(batch)
    before = method.sums.clone()
    method.losses(only, method.student(batch.images), teacher)
    others = [label for label in range(method.ctx.num_classes) if label != 2]
    assert torch.equal(method.sums[others], before[others])
    torch.testing.assert_close(method.sums[2] - before[2], F.softmax(teacher.logits, dim=1).sum(0))


def test_both_terms_warm_up_linearly_and_ce_does_not():
    training = trainer(DKL, warmup=0.5)  # the first six of 12 steps
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)

    def at(step_index):
        method.sums.fill_(1 / method.ctx.num_classes)
        return terms_of(method, batch, student, teacher, step_index)

    whole = at(6)
    assert at(11) == whole
    for name, share in (("wmse", 0.5), ("kd", 0.5), ("ce", 1.0)):
        assert at(3)[name] == pytest.approx(share * whole[name])
    assert at(0)["wmse"] == at(0)["kd"] == 0
