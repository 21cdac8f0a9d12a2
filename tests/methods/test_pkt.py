import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import FILES, Golden, first_batch, trainer

from kdbench_methods.relation.pkt import PKT, neighbour_divergence, neighbours


def by_hand(student, teacher):
    """Passalis & Tefas with the cosine kernel and the mean of the authors' code, in loops."""
    def distributions(points):
        lengths = [np.sqrt(point @ point) for point in points]
        kernel = np.array([[(1 + a @ b / (m * n)) / 2 for b, n in zip(points, lengths, strict=True)]
                           for a, m in zip(points, lengths, strict=True)])
        return [row / row.sum() for row in kernel]

    terms = [t * np.log(t / s) for p, q in zip(distributions(teacher), distributions(student), strict=True)
             for t, s in zip(p, q, strict=True)]
    return sum(terms) / len(student) ** 2


@pytest.fixture
def embeddings():
    torch.manual_seed(0)
    return torch.randn(6, 7, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64) + 0.5


@pytest.mark.parametrize("file", FILES)
def test_value_and_gradients_are_the_published_ones(file):
    golden = Golden(file)
    golden.check("pkt", lambda student: neighbour_divergence(student, golden["teacher_embedding"]))


def test_the_loss_equals_the_equation(embeddings):
    student, teacher = embeddings
    expected = by_hand(student.numpy(), teacher.numpy())
    assert neighbour_divergence(student, teacher).item() == pytest.approx(expected, rel=1e-4)  # the equation has no eps


def test_the_loss_agrees_with_torchdistill(embeddings):
    from torchdistill.losses.mid_level import PKTLoss

    student, teacher = embeddings
    value = PKTLoss("e", "io", "e", "io")({"e": {"io": student.clone()}}, {"e": {"io": teacher.clone()}})
    torch.testing.assert_close(neighbour_divergence(student, teacher), value)


def test_turning_and_scaling_the_embedding_costs_nothing(embeddings):
    student = embeddings[0]
    rotation = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64)).Q
    assert neighbour_divergence(student, 3 * student @ rotation).item() == pytest.approx(0, abs=1e-9)
    assert neighbour_divergence(*embeddings) > 1e-3


def test_each_row_is_a_distribution_and_a_dead_sample_gives_no_nan(embeddings):
    torch.testing.assert_close(neighbours(embeddings[0]).sum(1), torch.ones(6, dtype=torch.float64))
    dead = torch.zeros(6, 3, dtype=torch.float64, requires_grad=True)
    loss = neighbour_divergence(dead, embeddings[1])
    loss.backward()
    assert loss.isfinite()
    assert dead.grad.isfinite().all()


def test_the_term_is_alpha_times_the_divergence_of_the_embeddings():
    training = trainer(PKT, "cross-architecture", alpha=50.0)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    terms = method.losses(batch, student, teacher)
    expected = 50 * neighbour_divergence(student.embedding.double(), teacher.embedding.double()).item()
    assert terms["probabilistic"].item() == pytest.approx(expected, rel=1e-3)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())
