import numpy as np
import pytest
import torch
from support.methods import FILES, Golden, first_batch, trainer

from kdbench.method import Shapes
from kdbench.parts.losses import attention_loss, attention_map
from kdbench_methods.attention.at import AttentionTransfer


def by_hand(student, teacher):
    """Zagoruyko & Komodakis, equation 2, with the authors' mean of squares: plain loops."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        maps = [np.array([(x[:, h, w] ** 2).sum() for h in range(x.shape[1]) for w in range(x.shape[2])])
                for x in (s, t)]
        maps = [m / np.sqrt((m**2).sum()) for m in maps]
        total += ((maps[0] - maps[1]) ** 2).sum() / len(maps[0])
    return total / len(student)


@pytest.mark.parametrize("file", FILES)
def test_value_and_gradients_are_the_published_ones(file):
    golden = Golden(file)
    teacher = golden.stages("teacher")
    golden.check("at", lambda *student: sum(attention_loss(s, t) for s, t in zip(student, teacher, strict=True)))


def test_loss_equals_the_equation():
    student, teacher = torch.randn(4, 3, 5, 2, dtype=torch.float64), torch.randn(4, 7, 5, 2, dtype=torch.float64)
    expected = by_hand(student.numpy(), teacher.numpy())
    assert attention_loss(student, teacher).item() == pytest.approx(expected, abs=1e-12)


def test_loss_agrees_with_torchdistill():
    losses = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher = torch.randn(4, 3, 5, 5), torch.randn(4, 7, 5, 5)
    theirs = losses.ATLoss({"one": {"student": {"path": "stage", "io": "output"},
                                    "teacher": {"path": "stage", "io": "output"}, "factor": 1.0}}, mode="code")
    value = theirs({"stage": {"output": student}}, {"stage": {"output": teacher}})
    torch.testing.assert_close(attention_loss(student, teacher), value)


def test_only_where_a_stage_is_active_matters_not_how_strongly_nor_in_which_channel():
    student, teacher = torch.randn(4, 6, 3, 3), torch.randn(4, 6, 3, 3)
    loss = attention_loss(student, teacher)
    torch.testing.assert_close(attention_loss(-5 * student[:, [3, 1, 0, 2, 5, 4]], 0.1 * teacher), loss)
    assert attention_loss(student, 3 * student).item() == pytest.approx(0, abs=1e-12)


def test_a_map_has_norm_one_and_a_dead_stage_gives_no_nan():
    assert attention_map(torch.randn(4, 6, 3, 5)).pow(2).sum(1).tolist() == pytest.approx([1] * 4)
    dead = torch.zeros(2, 3, 4, 4, requires_grad=True)
    attention_loss(dead, torch.randn(2, 3, 4, 4)).backward()
    assert dead.grad.isfinite().all()


def test_the_term_is_alpha_times_the_sum_over_all_pairs_of_stages():
    training = trainer(AttentionTransfer, "cross-architecture", alpha=7.0)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    assert len(student.stages) == 4 and len(teacher.stages) == 3
    terms = method.losses(batch, student, teacher)
    expected = sum(by_hand(s.detach().double().numpy(), pooled(t, s)) for s, t in
                   zip(student.stages[1:], teacher.stages, strict=True))
    assert terms["attention"].item() == pytest.approx(7 * expected, rel=1e-4)
    assert terms["ce"].item() == pytest.approx(
        torch.nn.functional.cross_entropy(student.logits, batch.labels).item())


def pooled(teacher, student):
    return torch.nn.functional.adaptive_avg_pool2d(teacher.double(), student.shape[2:]).numpy()


@pytest.mark.parametrize("size", [(4, 4), (1, 4), (4, 1)])
def test_inapplicable_only_where_every_pair_is_one_position(size):
    point, wide = Shapes(8, ((8, 1, 1),)), Shapes(8, ((8, *size), (8, 1, 1)))
    assert "position" in AttentionTransfer.inapplicable(point, wide)
    assert AttentionTransfer.inapplicable(wide, wide) is None
