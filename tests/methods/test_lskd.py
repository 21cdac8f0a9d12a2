import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import FILES, Golden, kl, loss_terms, random_logits, softmax

from kdbench.parts.losses import soft_cross_entropy
from kdbench_methods.logit.lskd import LSKD, standardise

LABELS = torch.tensor([0, 3, 2, 2])
STUDENT, TEACHER = random_logits(4, 5), random_logits(4, 5, seed=1)


@pytest.mark.parametrize("file", FILES)
def test_kd_on_standardised_logits_has_the_golden_values_and_gradients(file):
    golden = Golden(file)
    teacher, temperature = standardise(golden["teacher_logits"]), golden.hyperparameters["lskd_temp"]
    golden.check("lskd", lambda student: soft_cross_entropy(standardise(student), teacher, temperature))


def test_standardise_gives_each_sample_zero_mean_and_unit_unbiased_deviation():
    logits = STUDENT.numpy()
    expected = (logits - logits.mean(axis=1, keepdims=True)) / logits.std(axis=1, ddof=1, keepdims=True)
    np.testing.assert_allclose(standardise(STUDENT), expected, rtol=1e-6)


def test_lskd_is_the_papers_equation():
    z_s, z_t = standardise(STUDENT).numpy(), standardise(TEACHER).numpy()
    terms = loss_terms(LSKD, STUDENT, LABELS, TEACHER, temperature=3.0, alpha=0.7, ce_weight=0.2)
    assert terms["kd"] == pytest.approx(0.7 * 9 * kl(softmax(z_t / 3), softmax(z_s / 3)).mean())
    assert terms["ce"] == pytest.approx(0.2 * F.cross_entropy(STUDENT, LABELS).item())


def test_lskd_is_zero_for_a_student_whose_logits_are_scaled_and_shifted():
    assert loss_terms(LSKD, 0.1 * TEACHER + 7, LABELS, TEACHER)["kd"] == pytest.approx(0, abs=1e-9)


def test_lskd_agrees_with_torchdistill():
    from torchdistill.losses.mid_level import LogitStdKDLoss

    reference = LogitStdKDLoss("logits", "output", "logits", "output", temperature=2.0, alpha=0.1, beta=9.0)
    student, teacher = ({"logits": {"output": logits}} for logits in (STUDENT, TEACHER))
    terms = loss_terms(LSKD, STUDENT, LABELS, TEACHER)
    assert sum(terms.values()) == pytest.approx(reference(student, teacher, LABELS).item())


def test_standardise_stays_finite_where_all_logits_are_equal():
    logits = torch.zeros(2, 5, requires_grad=True)
    standardise(logits).square().sum().backward()
    assert logits.grad.isfinite().all()
