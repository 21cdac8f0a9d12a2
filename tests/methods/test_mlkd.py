import numpy as np
import pytest
import torch
from support.methods import kl, loss_terms, random_logits, softmax

from kdbench_methods.logit.mlkd import MLKD, batch_level, class_level

LABELS = torch.tensor([0, 3, 2, 2])
STUDENT, TEACHER = random_logits(4, 5), random_logits(4, 5, seed=1)


def test_mlkd_is_the_papers_sum_of_three_levels_at_five_temperatures():
    s, t = STUDENT.numpy(), TEACHER.numpy()
    instances = batches = classes = 0.0
    for temperature in (2, 3, 4, 5, 6):
        q, p = softmax(s / temperature), softmax(t / temperature)
        instances += temperature**2 * kl(p, q).mean()
        batches += ((p @ p.T - q @ q.T) ** 2).sum() / 4
        classes += ((p.T @ p - q.T @ q) ** 2).sum() / 5
    ce = -np.log(softmax(s)[range(4), LABELS]).mean()
    weights = {"alpha": 0.7, "batch_weight": 0.4, "class_weight": 0.2, "ce_weight": 0.3}
    assert loss_terms(MLKD, STUDENT, LABELS, TEACHER, **weights) == pytest.approx({
        "ce": 0.3 * ce, "kd": 0.7 * instances, "batch": 0.4 * batches, "class": 0.2 * classes})


def test_the_defaults_are_the_authors_weights_after_their_masks():
    half = 0.9 / 2
    given = loss_terms(MLKD, STUDENT, LABELS, TEACHER, alpha=half, batch_weight=half, class_weight=half, ce_weight=0.1)
    assert loss_terms(MLKD, STUDENT, LABELS, TEACHER) == given


def test_a_student_that_says_what_the_teacher_says_has_nothing_to_learn():
    terms = loss_terms(MLKD, TEACHER, LABELS, TEACHER)
    assert terms["kd"] == pytest.approx(0, abs=1e-12) and terms["batch"] == terms["class"] == 0


def test_the_levels_see_what_their_names_say():
    first, second = (torch.softmax(logits, 1) for logits in (STUDENT, TEACHER))
    order, classes = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 2, 0, 1, 3])
    # The relations between images do not know which class is which, those between classes not which image is which.
    assert batch_level(first[:, classes], second).item() == pytest.approx(batch_level(first, second).item())
    assert class_level(first[order], second).item() == pytest.approx(class_level(first, second).item())
    assert batch_level(first[order], second) != pytest.approx(batch_level(first, second).item())
    assert class_level(first[:, classes], second) != pytest.approx(class_level(first, second).item())
