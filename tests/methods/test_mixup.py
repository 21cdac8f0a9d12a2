import numpy as np
import pytest
import torch
from support.methods import first_batch, random_logits, recorded, softmax, trainer
from torch.distributions import Beta

from kdbench.parts.losses import mixed_cross_entropy
from kdbench_methods.baseline.mixup import Mixup

LABELS, OTHERS = torch.tensor([0, 3, 2, 2]), torch.tensor([1, 3, 4, 0])
LOGITS = random_logits(4, 5)


def test_mixed_cross_entropy_is_that_of_the_mixed_labels():
    mixed = 0.7 * np.eye(5)[LABELS] + 0.3 * np.eye(5)[OTHERS]
    expected = -(mixed * np.log(softmax(LOGITS.numpy()))).sum(axis=1).mean()
    assert mixed_cross_entropy(LOGITS, LABELS, OTHERS, 0.7).item() == pytest.approx(expected)


def test_a_share_of_one_is_plain_training_and_of_zero_training_on_the_others():
    plain = torch.nn.functional.cross_entropy
    assert mixed_cross_entropy(LOGITS, LABELS, OTHERS, 1.0) == plain(LOGITS, LABELS)
    assert mixed_cross_entropy(LOGITS, LABELS, OTHERS, 0.0) == plain(LOGITS, OTHERS)


def test_mixup_mixes_pairs_of_images_and_their_labels_in_one_share():
    t = trainer(Mixup)
    method, batch = t.method, first_batch(t)
    method.student.classifier.weight.data *= 100  # predictions that differ
    torch.manual_seed(3)
    with recorded(method.student) as seen:
        terms = method.losses(batch, method.study(batch), None)
    torch.manual_seed(3)  # draw again
    share, order = Beta(1.0, 1.0).sample().item(), torch.randperm(len(batch.labels))
    (images, outputs), = seen
    x = batch.images.double().numpy()
    np.testing.assert_allclose(images.numpy(), share * x + (1 - share) * x[order], rtol=0, atol=1e-5)
    mixed = share * np.eye(6)[batch.labels] + (1 - share) * np.eye(6)[batch.labels[order]]
    p = softmax(outputs.logits.detach().double().numpy())
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"ce": -(mixed * np.log(p)).sum(axis=1).mean()}, rel=1e-4)


@pytest.mark.parametrize(("alpha", "deviation"), [(1.0, 1 / 12**0.5), (4.0, 1 / 6)])  # of a Beta: 1 / 2 sqrt(2a + 1)
def test_shares_follow_a_symmetric_beta_distribution(alpha, deviation):
    t = trainer(Mixup, alpha=alpha)
    batch = first_batch(t)
    outputs = t.method.student(batch.images)
    t.method.student.forward = lambda images: outputs  # quick
    shares = np.array([t.method.study(batch).share for _ in range(2000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.02) and shares.std() == pytest.approx(deviation, rel=0.06)


def test_mixed_images_stay_between_black_and_white_and_the_batch_is_left_as_it_was():
    t = trainer(Mixup)
    batch = first_batch(t)
    before = batch.images.clone()
    with recorded(t.method.student) as seen:
        t.method.study(batch)
    assert torch.equal(batch.images, before)
    assert (seen[0][0] >= t.method.ctx.pixel_low - 1e-5).all() and (seen[0][0] <= t.method.ctx.pixel_high + 1e-5).all()
