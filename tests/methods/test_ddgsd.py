import numpy as np
import pytest
import torch
from support.methods import first_batch, kl, recorded, softmax, trainer

from kdbench_methods.self.ddgsd import DDGSD, mean_discrepancy


def test_mean_discrepancy_is_the_squared_distance_of_means():
    first, second = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    assert mean_discrepancy(first, second).item() == 1 + 9
    shuffled = torch.stack([first[1], first[0]])
    assert mean_discrepancy(first, shuffled).item() == 0  # the sets are compared, not image by image


def test_ddgsd_is_the_papers_sum_of_both_views_halved():
    t = trainer(DDGSD, alpha=0.7, temperature=2.0, discrepancy=0.3)
    method, batch = t.method, first_batch(t)
    with recorded(method.student) as seen:
        terms = method.losses(batch, method.study(batch), None)
    (images_a, a), (images_b, b) = seen
    assert torch.equal(images_a, batch.images) and images_b.shape == images_a.shape
    assert not torch.equal(images_a, images_b)
    z_a, z_b, f_a, f_b = (x.detach().double().numpy() for x in (a.logits, b.logits, a.embedding, b.embedding))
    rows, labels = range(len(batch.labels)), batch.labels.numpy()
    ce = sum(-np.log(softmax(z)[rows, labels]).mean() for z in (z_a, z_b))
    p_a, p_b = softmax(z_a / 2), softmax(z_b / 2)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({
        "ce": ce / 2, "kd": 0.5 * 0.7 * 4 * (kl(p_b, p_a) + kl(p_a, p_b)).mean(),
        "mmd": 0.5 * 0.3 * ((f_a.mean(axis=0) - f_b.mean(axis=0)) ** 2).sum(),
    }, rel=1e-4)


def test_the_second_view_is_of_the_same_images():
    t = trainer(DDGSD)
    method, batch = t.method, first_batch(t)
    asked = []
    sample = method.ctx.sample
    object.__setattr__(method.ctx, "sample", lambda positions: asked.append(positions) or sample(positions))
    method.study(batch)
    assert torch.equal(asked[0], batch.positions)
    assert torch.equal(sample(batch.positions).labels, batch.labels)


def test_each_prediction_learns_from_the_other_as_a_target():
    t = trainer(DDGSD)
    batch = first_batch(t)
    views = t.method.study(batch)
    a, b = (view.logits.detach().requires_grad_() for view in views)
    views = views._replace(first=views.first._replace(logits=a), second=views.second._replace(logits=b))
    to_a, to_b = torch.autograd.grad(t.method.losses(batch, views, None)["kd"], (a, b))
    expected = 3 * (torch.softmax(a / 3, 1) - torch.softmax(b / 3, 1)) / len(a) / 2  # of KL(b || a) alone
    torch.testing.assert_close(to_a, expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(to_b, -expected, rtol=1e-4, atol=1e-7)
