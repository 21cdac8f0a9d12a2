import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import FILES, Golden, first_batch, trainer

from kdbench_methods.relation.rkd import RKD, cosines, distances

DIM = 7


def distance_loss(student, teacher):
    return F.smooth_l1_loss(distances(student), distances(teacher))


def angle_loss(student, teacher):
    return F.smooth_l1_loss(cosines(distances(student)), cosines(distances(teacher)))


def huber(difference):
    size = abs(difference)
    return size**2 / 2 if size <= 1 else size - 1 / 2


def distances_by_hand(points):  # Park et al., distance-wise potential
    raw = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in points] for a in points])
    return raw / (raw.sum() / (len(points) * (len(points) - 1)))


def cosine_by_hand(points, i, j, k):  # angle-wise potential: of e_ij and e_kj; 0 where one of them is no direction
    if j in (i, k):
        return 0.0
    e_ij, e_kj = points[i] - points[j], points[k] - points[j]
    return e_ij @ e_kj / np.sqrt((e_ij @ e_ij) * (e_kj @ e_kj))


@pytest.fixture
def clouds():
    torch.manual_seed(0)
    return torch.randn(5, DIM, dtype=torch.float64), 3 * torch.randn(5, 4, dtype=torch.float64) + 8


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("name", "loss"), [("rkd_distance", distance_loss), ("rkd_angle", angle_loss)])
def test_value_and_gradients_are_the_published_ones(file, name, loss):
    golden = Golden(file)
    golden.check(name, lambda student: loss(student, golden["teacher_embedding"]))


def test_the_distance_term_equals_the_equation(clouds):
    student, teacher = (distances_by_hand(points.numpy()) for points in clouds)
    expected = np.mean([huber(a - b) for a, b in zip(student.flat, teacher.flat, strict=True)])
    assert distance_loss(*clouds).item() == pytest.approx(expected, rel=1e-12)


def test_the_angle_term_equals_the_equation(clouds):
    student, teacher = (points.numpy() for points in clouds)
    triplets = [(i, j, k) for i in range(5) for j in range(5) for k in range(5)]
    expected = np.mean([huber(cosine_by_hand(student, *t) - cosine_by_hand(teacher, *t)) for t in triplets])
    assert angle_loss(*clouds).item() == pytest.approx(expected, rel=1e-10)


def test_cosines_stand_at_vertex_then_arms(clouds):
    points = clouds[0]
    assert cosines(distances(points))[3, 0, 2].item() == pytest.approx(cosine_by_hand(points.numpy(), 0, 3, 2))


def test_both_terms_agree_with_torchdistill(clouds):
    from torchdistill.losses.mid_level import RKDLoss

    theirs = RKDLoss("e", "e", dist_factor=25.0, angle_factor=50.0, reduction="mean")
    student, teacher = clouds
    value = theirs({"e": {"output": student}}, {"e": {"output": teacher}})
    torch.testing.assert_close(25 * distance_loss(student, teacher) + 50 * angle_loss(student, teacher), value)


def test_turning_moving_and_scaling_the_cloud_costs_nothing(clouds):
    points = clouds[0]
    rotation = torch.linalg.qr(torch.randn(DIM, DIM, dtype=torch.float64)).Q
    moved = 5 * points @ rotation + 11
    assert distance_loss(moved, points).item() == pytest.approx(0, abs=1e-20)
    assert angle_loss(moved, points).item() == pytest.approx(0, abs=1e-20)
    assert distance_loss(points**3, points) > 1e-3
    assert angle_loss(points**3, points) > 1e-3


def test_coinciding_and_collapsed_samples_give_a_finite_loss_and_gradients():
    for points in (torch.randn(4, DIM), torch.zeros(4, DIM)):
        points[1] = points[0]
        student = points.requires_grad_()
        teacher = torch.randn(4, 5)
        loss = distance_loss(student, teacher) + angle_loss(student, teacher)
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all()


def test_cosines_of_close_samples_far_from_the_origin_are_right_in_float32():
    points = torch.randn(8, DIM) + 10
    points[1] = points[0] + 1e-2 * torch.randn(DIM)
    exact = cosines(distances(points.double()))
    torch.testing.assert_close(cosines(distances(points)).double(), exact, rtol=0, atol=1e-3)


def test_each_term_has_its_own_weight():
    training = trainer(RKD, "cross-architecture", distance_weight=3.0, angle_weight=7.0)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    terms = method.losses(batch, student, teacher)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())
    embeddings = student.embedding, teacher.embedding
    assert terms["distance"].item() == pytest.approx(3 * distance_loss(*embeddings).item())
    assert terms["angle"].item() == pytest.approx(7 * angle_loss(*embeddings).item())
