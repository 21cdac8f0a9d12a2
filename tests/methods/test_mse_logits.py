import pytest
import torch
import torch.nn.functional as F
from support.methods import loss_terms, random_logits

from kdbench.parts.losses import soft_cross_entropy
from kdbench_methods.logit.mse_logits import MSELogits

LABELS = torch.tensor([0, 3, 2, 2])
STUDENT, TEACHER = random_logits(4, 5), random_logits(4, 5, seed=1)


def test_mse_logits_is_the_mean_squared_difference_and_leaves_the_labels_out():
    expected = ((STUDENT.numpy() - TEACHER.numpy()) ** 2).mean()
    assert loss_terms(MSELogits, STUDENT, LABELS, TEACHER) == pytest.approx({"ce": 0.0, "mse": expected})


def test_mse_logits_mixes_the_labels_in_with_alpha():
    terms = loss_terms(MSELogits, STUDENT, LABELS, TEACHER, alpha=0.3)
    assert terms["ce"] == pytest.approx(0.7 * F.cross_entropy(STUDENT, LABELS).item())
    assert terms["mse"] == pytest.approx(0.3 * loss_terms(MSELogits, STUDENT, LABELS, TEACHER)["mse"])


def test_kd_at_a_high_temperature_is_half_of_it_on_centred_logits():
    student, teacher = (logits - logits.mean(dim=1, keepdim=True) for logits in (STUDENT, TEACHER))
    limit = loss_terms(MSELogits, student, LABELS, teacher)["mse"] / 2
    assert soft_cross_entropy(student, teacher, 1e4).item() == pytest.approx(limit, rel=1e-3)
