import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import FILES, Golden, loss_terms, random_logits, softmax

from kdbench_methods.logit.dist import DIST, dist_loss, pearson_distance

LABELS = torch.tensor([0, 3, 2, 2])
STUDENT, TEACHER = random_logits(4, 5), random_logits(4, 5, seed=1)


@pytest.mark.parametrize("file", FILES)
def test_dist_loss_has_the_golden_values_and_gradients(file):
    golden = Golden(file)
    teacher = golden["teacher_logits"]
    golden.check("dist", lambda student: dist_loss(student, teacher, inter=1.0, intra=1.0, temperature=1.0))


@pytest.mark.parametrize(("inter", "intra"), [(1.0, 0.0), (0.0, 1.0), (2.0, 3.0)])
def test_dist_loss_is_the_papers_equation(inter, intra):
    student, teacher = softmax(STUDENT.numpy() / 3), softmax(TEACHER.numpy() / 3)
    rows = np.mean([1 - np.corrcoef(student[i], teacher[i])[0, 1] for i in range(4)])
    columns = np.mean([1 - np.corrcoef(student[:, k], teacher[:, k])[0, 1] for k in range(5)])
    expected = 9 * (inter * rows + intra * columns)
    assert dist_loss(STUDENT, TEACHER, inter, intra, 3.0).item() == pytest.approx(expected)


def test_dist_agrees_with_torchdistill():
    from torchdistill.losses.mid_level import DISTLoss

    reference = DISTLoss("logits", "output", "logits", "output", beta=2.0, gamma=3.0, tau=4.0)
    student, teacher = ({"logits": {"output": logits}} for logits in (STUDENT, TEACHER))
    assert dist_loss(STUDENT, TEACHER, 2.0, 3.0, 4.0).item() == pytest.approx(reference(student, teacher).item())


def test_pearson_distance_is_blind_to_scale_and_shift_of_each_row_but_not_to_sign():
    a, b = STUDENT, TEACHER
    scaled = 3 * a + torch.arange(4.0)[:, None]
    assert pearson_distance(scaled, b).item() == pytest.approx(pearson_distance(a, b).item())
    assert pearson_distance(a, 2 * a + 1).item() == pytest.approx(0, abs=1e-12)
    assert pearson_distance(a, -a).item() == pytest.approx(2)


def test_dist_stays_finite_where_the_student_says_the_same_of_every_image():
    student = torch.zeros(4, 5, requires_grad=True)
    loss = dist_loss(student, TEACHER.float(), 2.0, 2.0, 4.0)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


def test_dist_adds_the_loss_to_ce():
    terms = loss_terms(DIST, STUDENT, LABELS, TEACHER, inter=1.5, intra=0.5, temperature=2.0)
    assert terms["ce"] == pytest.approx(F.cross_entropy(STUDENT, LABELS).item())
    assert terms["dist"] == pytest.approx(dist_loss(STUDENT, TEACHER, 1.5, 0.5, 2.0).item())
