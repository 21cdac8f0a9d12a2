from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.methods import first_batch, kl, random_logits, recorded, softmax, trainer
from torch import nn

from kdbench_methods.adversarial.bss import BSS, base_samples, target_classes, to_boundary

LOW, HIGH = torch.full((1, 1, 1, 1), -9.0), torch.full((1, 1, 1, 1), 9.0)


class Linear(nn.Module):
    """A network whose logits are linear in images [B, 1, 1, 2]; it remembers what it was shown."""

    def __init__(self, *rows):
        super().__init__()
        self.weight, self.shown = torch.tensor(rows), []

    def forward(self, images):
        self.shown.append(images.detach().clone())
        return SimpleNamespace(logits=images.flatten(1) @ self.weight.T)


def test_base_samples_are_those_that_both_get_right_and_on_which_they_differ_most():
    teacher, student = random_logits(9, 5, seed=1), random_logits(9, 5)
    labels = teacher.argmax(1)
    student = student + 8 * torch.nn.functional.one_hot(labels, 5)
    student[6, labels[6]] -= 16  # wrong, though the teacher is right; both right on 2, but the label says otherwise
    labels[2] = (labels[2] + 1) % 5
    t, s = softmax(teacher.numpy()), softmax(student.numpy())
    score = [sum((t[i, k] - s[i, k]) ** 2 for k in range(5) if k != labels[i]) for i in range(9)]
    right = sorted((i for i in range(9) if i not in (2, 6)), key=lambda i: -score[i])
    assert base_samples(student, teacher, labels, 3).tolist() == right[:3]
    assert base_samples(student, teacher, labels, 99).tolist() == right
    assert base_samples(student, teacher, (teacher.argmax(1) + 1) % 5, 3).tolist() == []


def test_target_classes_are_drawn_by_the_probabilities_of_all_classes_but_the_likeliest():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    torch.manual_seed(0)
    counts = target_classes(logits.repeat(20_000, 1)).bincount(minlength=4) / 20_000
    assert counts[0] == 0
    torch.testing.assert_close(counts[1:], torch.tensor([0.6, 0.3, 0.1]), rtol=0.05, atol=0)


def test_an_image_moves_by_a_share_of_the_difference_of_logits_towards_its_class():
    network = Linear([1.0, 0.0], [0.0, 2.0])
    start = torch.tensor([[[[3.0, 0.0]]]])  # logits 3 and 0, gradient of their difference (1, -2)
    to_boundary(network, start, torch.tensor([1]), LOW, HIGH, step_size=0.3, steps=2)
    length = 0.3 * (3 + 1e-4) / 5**0.5
    expected = start + length * torch.tensor([-1.0, 2.0])
    torch.testing.assert_close(network.shown[1], expected)


def test_an_image_stops_as_soon_as_its_class_changes_and_the_others_go_on():
    network = Linear([1.0, 0.0], [0.0, 2.0])
    images = torch.tensor([[[[0.2, 0.0]]], [[[8.0, 0.0]]]])
    found = to_boundary(network, images, torch.tensor([1, 1]), LOW, HIGH, step_size=0.44, steps=8)
    paths = torch.stack([*network.shown, found]).squeeze()  # [9, 2, 2]
    beyond = 2 * paths[:, :, 1] > paths[:, :, 0]
    near, far = beyond.int().argmax(0).tolist()  # when the class has changed
    assert 0 < near < far < 8
    for image, when in ((0, near), (1, far)):
        assert (paths[1:when + 1, image] != paths[:when, image]).all()
        assert (paths[when:, image] == paths[when, image]).all()
    assert images.flatten().tolist() == pytest.approx([0.2, 0, 8, 0])


def test_pixels_stay_between_black_and_white():
    found = to_boundary(Linear([1.0, 0.0], [0.0, 2.0]), torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([1]),
                        LOW / 9, HIGH / 9, step_size=9.0, steps=1)
    assert found.abs().max() == 1


@pytest.mark.parametrize(("step_index", "alpha", "boundary"), [(0, 3.5, 0.8), (3, 2.875, 0.8 * 2 / 3), (9, 1.625, 0)])
def test_bss_is_the_papers_sum_with_weights_that_fall(step_index, alpha, boundary):
    t = trainer(BSS, alpha=2.5, boundary=0.8, temperature=2.0, share=0.5)
    method, batch = t.method, first_batch(t)
    method.step_index = step_index
    teacher, student = method.teach(batch), method.study(batch)
    batch = batch._replace(labels=teacher.logits.argmax(1))  # the teacher is right, and so is the student
    right = torch.nn.functional.one_hot(batch.labels, teacher.logits.shape[1])
    student = student._replace(logits=student.logits + 8 * right)
    with recorded(method.student) as by_student, recorded(method.ctx.teacher) as by_teacher:
        terms = method.losses(batch, student, teacher)
    s, p = (x.logits.detach().double().numpy() for x in (student, teacher))
    expected = {"ce": -np.log(softmax(s)[range(len(s)), batch.labels]).mean(),
                "kd": alpha * kl(softmax(p / 2), softmax(s / 2)).mean()}
    assert len(by_student) == (boundary > 0) and len(by_teacher) == (11 if boundary else 0)
    if boundary:
        (images, moved), (asked, answer) = by_student[0], by_teacher[-1]
        assert torch.equal(images, asked) and len(images) == 4
        s, p = (x.logits.detach().double().numpy() for x in (moved, answer))
        expected["boundary"] = boundary * kl(softmax(p / 2), softmax(s / 2)).mean()
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-3)


def test_a_batch_that_the_teacher_gets_wrong_has_no_boundary():
    t = trainer(BSS)
    method, batch = t.method, first_batch(t)
    teacher = method.teach(batch)
    wrong = (teacher.logits.argmax(1) + 1) % 6
    assert set(method.losses(batch._replace(labels=wrong), method.study(batch), teacher)) == {"ce", "kd"}
