import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import kl, loss_terms, random_logits, softmax

from kdbench_methods.logit.wttm import WTTM, power_sum

LABELS = torch.tensor([0, 3, 2, 2])
STUDENT, TEACHER = random_logits(4, 5), random_logits(4, 5, seed=1)


@pytest.mark.parametrize(("exponent", "alpha"), [(0.2, 4.0), (0.7, 1.5)])
def test_wttm_is_the_papers_equation_beside_ce(exponent, alpha):
    powers = softmax(TEACHER.numpy()) ** exponent
    sums = powers.sum(axis=-1)
    divergences = kl(powers / sums[:, None], softmax(STUDENT.numpy()))
    terms = loss_terms(WTTM, STUDENT, LABELS, TEACHER, exponent=exponent, alpha=alpha)
    assert terms["wttm"] == pytest.approx(alpha * (sums * divergences).mean())
    assert terms["ce"] == pytest.approx(F.cross_entropy(STUDENT, LABELS).item())


def test_a_power_sum_goes_from_1_where_the_teacher_is_sure_to_that_of_uniform_probabilities():
    sure, uniform = torch.tensor([[500.0, 0.0, 0.0, 0.0]]), torch.zeros(1, 4)
    assert power_sum(sure, 0.2).item() == pytest.approx(1)
    assert power_sum(uniform, 0.2).item() == pytest.approx(4**0.8)
    assert power_sum(torch.tensor([[2.0, 0.0, 0.0, 0.0]]), 0.2).item() < 4**0.8


def test_a_smoother_teacher_of_the_same_divergence_counts_more():
    """Two samples with students that match the transformed teacher equally badly."""
    def term(teacher):
        student = 0.2 * teacher.roll(1, dims=1)  # the transformed teacher's, one class on
        return loss_terms(WTTM, student, torch.tensor([0]), teacher, exponent=0.2, alpha=1.0)["wttm"] / kl(
            softmax(0.2 * teacher.numpy()), softmax(student.numpy())).item()

    sharp, smooth = 8 * TEACHER[:1], TEACHER[:1] / 2
    assert term(smooth) > 1.5 * term(sharp)
    np.testing.assert_allclose(term(smooth), power_sum(smooth, 0.2).item())
