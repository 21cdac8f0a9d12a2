import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import FILES, Golden, kl, loss_terms, random_logits, softmax

from kdbench.parts.losses import non_target, soft_cross_entropy
from kdbench_methods.logit.kd import KD

LABELS = torch.tensor([0, 3, 2, 2])
STUDENT, TEACHER = random_logits(4, 5), random_logits(4, 5, seed=1)


@pytest.mark.parametrize("file", FILES)
def test_soft_cross_entropy_has_the_golden_values_and_gradients(file):
    golden = Golden(file)
    teacher, temperature = golden["teacher_logits"], golden.hyperparameters["temperature"]
    golden.check("kd", lambda student: soft_cross_entropy(student, teacher, temperature))


def test_soft_cross_entropy_is_the_papers_equation():
    expected = 9 * kl(softmax(TEACHER.numpy() / 3), softmax(STUDENT.numpy() / 3)).mean()
    assert soft_cross_entropy(STUDENT, TEACHER, 3.0).item() == pytest.approx(expected)


def test_kd_agrees_with_torchdistill():
    from torchdistill.losses.mid_level import KDLoss

    reference = KDLoss("logits", "output", "logits", "output", temperature=3.0, alpha=0.5)
    student, teacher = ({"logits": {"output": logits}} for logits in (STUDENT, TEACHER))
    expected = reference(student, teacher, LABELS)
    ours = loss_terms(KD, STUDENT, LABELS, TEACHER, temperature=3.0, alpha=0.5)
    assert sum(ours.values()) == pytest.approx(expected.item())


def test_kd_weights_the_distillation_term_with_alpha_and_the_labels_with_the_rest():
    terms = loss_terms(KD, STUDENT, LABELS, TEACHER, temperature=3.0, alpha=0.2)
    assert terms["ce"] == pytest.approx(0.8 * F.cross_entropy(STUDENT, LABELS).item())
    assert terms["kd"] == pytest.approx(0.2 * soft_cross_entropy(STUDENT, TEACHER, 3.0).item())


def test_kd_is_zero_at_equality_and_blind_to_a_shift_of_all_logits():
    assert soft_cross_entropy(TEACHER + 5, TEACHER, 4.0).item() == pytest.approx(0, abs=1e-12)
    assert soft_cross_entropy(STUDENT + 5, TEACHER - 2, 4.0).item() == pytest.approx(
        soft_cross_entropy(STUDENT, TEACHER, 4.0).item())


def test_kd_at_a_high_temperature_is_half_the_squared_distance_of_centred_logits_over_the_classes():
    centred = [logits - logits.mean(dim=1, keepdim=True) for logits in (STUDENT, TEACHER)]
    limit = (centred[0] - centred[1]).square().sum(dim=1).mean() / (2 * 5)  # Hinton et al., 2015, section 2.1
    assert soft_cross_entropy(STUDENT, TEACHER, 1e4).item() == pytest.approx(limit.item(), rel=1e-3)


def test_non_target_leaves_out_each_samples_own_class():
    logits = torch.arange(12.0).view(3, 4)
    rows = non_target(logits, torch.tensor([0, 2, 3])).sort(dim=1).values
    assert np.array_equal(rows, [[1, 2, 3], [4, 5, 7], [8, 9, 10]])
