import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, moved, snapshot, trainer

from kdbench_methods.feature.fitnet import FitNet, hint_loss, middle


def test_hint_loss_is_half_the_squared_distance_per_position():
    guided, hint = torch.randn(3, 5, 2, 4, dtype=torch.float64), torch.randn(3, 5, 2, 4, dtype=torch.float64)
    total = 0.0
    for image in range(3):
        for row in range(2):
            for column in range(4):
                difference = guided[image, :, row, column].numpy() - hint[image, :, row, column].numpy()
                total += 0.5 * np.linalg.norm(difference) ** 2
    assert hint_loss(guided, hint).item() == pytest.approx(total / 24, rel=1e-12)
    assert hint_loss(torch.ones(1, 2, 1, 1), torch.tensor([4.0, -1.0]).view(1, 2, 1, 1)).item() == (9 + 4) / 2
    assert hint_loss(hint, hint) == 0


def test_the_guided_layer_is_the_middle_stage_of_the_shared_ones():
    assert [middle(list(range(n))) for n in (1, 2, 3, 4)] == [0, 0, 1, 1]


def test_the_hint_is_regressed_from_the_student_at_the_smaller_resolution():
    training = trainer(FitNet, "cross-architecture")
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    guided, hint = student.stages[2], teacher.stages[1]  # the student has one shallow stage more
    loss = method.losses(batch, student, teacher)["hint"]
    expected = hint_loss(method.regressor(guided), F.adaptive_avg_pool2d(hint, guided.shape[2:]))
    assert hint.shape[2] > guided.shape[2]
    torch.testing.assert_close(loss, expected)


def test_the_first_stage_moves_the_regressor_and_the_student_up_to_the_hint_alone():
    training = trainer(FitNet, hint_share=0.25)
    method, batch = training.method, first_batch(training)
    before = snapshot(method)
    method.step_index = 2
    assert set(method.step(batch, training.optimizers)) == {"hint"}
    changed = moved(method, before)
    upper = {name for name in before if ".layer3." in name or ".fc." in name}
    assert upper and not changed & upper
    assert changed == set(before) - upper


def test_the_second_stage_moves_the_student_alone():
    training = trainer(FitNet, hint_share=0.25)
    method, batch = training.method, first_batch(training)
    before = snapshot(method)
    method.step_index = 3
    assert set(method.step(batch, training.optimizers)) == {"ce", "kd"}
    assert moved(method, before) == {name for name in before if name.startswith("student.")}


@pytest.mark.parametrize("step_index, alpha", [(6, 6.0), (9, 4.0), (12, 2.0)])
def test_the_second_stage_is_the_papers_loss_with_a_falling_weight(step_index, alpha):
    training = trainer(FitNet, hint_share=0.5, temperature=3.0, alpha=6.0, alpha_end=2.0)
    method, batch = training.method, first_batch(training)
    method.step_index = step_index
    student, teacher = method.student(batch.images), method.teach(batch)
    terms = method.losses(batch, student, teacher)
    p, q = (softmax(outputs.logits.detach().double().numpy() / 3) for outputs in (teacher, student))
    cross_entropy, teacher_entropy = -(p * np.log(q)).sum(1).mean(), -(p * np.log(p)).sum(1).mean()
    assert terms["kd"].item() == pytest.approx(alpha * (cross_entropy - teacher_entropy), rel=1e-4)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())


def softmax(logits):
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)
