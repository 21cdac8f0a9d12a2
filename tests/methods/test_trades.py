import numpy as np
import pytest
import torch
from support.methods import first_batch, kl, recorded, softmax, trainer

from kdbench_methods.baseline.trades import TRADES

SETTINGS = {"beta": 3.0, "radius": 1.59375, "step_size": 0.4, "attack_steps": 4}  # 0.05 and 0.02 of pixels in 0..1


@pytest.fixture(scope="module")
def step():
    """One step: the method, its batch, the terms, what the student was shown and in which mode it was."""
    t = trainer(TRADES, **SETTINGS)
    batch, modes = first_batch(t), []
    t.method.student.register_forward_hook(lambda module, *_: modes.append(module.training))
    with recorded(t.method.student) as seen:
        terms = t.method.losses(batch, t.method.study(batch), None)
    return t.method, batch, terms, seen, list(modes)


def logits_of(outputs):
    return outputs.logits.detach().double().numpy()


def test_trades_is_the_papers_loss_of_the_clean_and_the_attacked_images(step):
    _, batch, terms, seen, _ = step
    clean, attacked, labels = softmax(logits_of(seen[0][1])), softmax(logits_of(seen[-1][1])), batch.labels.numpy()
    assert torch.equal(seen[0][0], batch.images)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({
        "ce": -np.log(clean[range(len(labels)), labels]).mean(), "robust": 3 * kl(clean, attacked).mean(),
    }, rel=1e-4)


def test_the_gradient_goes_through_both_sides_of_the_divergence(step):
    """Against p (log p - log q) written out: its slope in the clean logits is p (log p - log q - KL)."""
    _, _, terms, seen, _ = step
    clean, attacked = seen[0][1].logits, seen[-1][1].logits
    slopes = torch.autograd.grad(terms["robust"], [clean, attacked], retain_graph=True)
    p, q = softmax(logits_of(seen[0][1])), softmax(logits_of(seen[-1][1]))
    ratio = np.log(p) - np.log(q)
    expected = 3 / len(p) * p * (ratio - (p * ratio).sum(1, keepdims=True)), 3 / len(p) * (q - p)
    for slope, value in zip(slopes, expected, strict=True):
        np.testing.assert_allclose(slope.numpy(), value, rtol=2e-2, atol=1e-5)


def test_the_student_is_attacked_in_eval_mode_and_trained_in_train_mode(step):
    method, *_, modes = step
    assert modes == [True, *[False] * (1 + SETTINGS["attack_steps"]), True] and method.student.training


def test_the_attack_starts_beside_the_image_and_climbs_to_the_edge_of_the_ball(step):
    method, batch, _, seen, _ = step
    scale = method.ctx.pixel_high - method.ctx.pixel_low
    offsets = [(images - batch.images) / scale for images, _ in seen[2:]]
    assert 0.0003 < offsets[0].std() < 0.0011 and offsets[0].abs().max() < 0.006
    assert max(offset.abs().max().item() for offset in offsets) == pytest.approx(0.05)
    with torch.no_grad():
        p = logits_of(method.student.eval()(batch.images))
        divergences = [kl(softmax(p), softmax(logits_of(method.student(images)))).mean() for images, _ in seen[2:]]
    method.student.train()
    assert divergences[-1] > 10 * divergences[0]


def test_the_labels_do_not_matter_to_the_attack():
    seen = []
    for shift in (0, 1):
        t = trainer(TRADES, **SETTINGS)
        batch = first_batch(t)
        with recorded(t.method.student) as shown:
            t.method.losses(batch._replace(labels=(batch.labels + shift) % 6), t.method.study(batch), None)
        seen.append(shown[-1][0])
    assert torch.equal(*seen)
