import math

import pytest
import torch
import torch.nn.functional as F

from kdbench.method import NO_LABEL
from kdbench.parts.losses import discriminator_loss, fooling_loss, labelled_cross_entropy


@pytest.mark.parametrize("unlabelled", [0.0, 0.5, 0.9])
def test_the_cross_entropy_of_labelled_images_is_torchs_bit_for_bit_with_its_gradient(unlabelled):
    generator = torch.Generator().manual_seed(0)
    for size, classes in ((2, 2), (7, 10), (50, 10), (64, 100), (129, 1000)):
        logits = (9 * torch.randn(size, classes, generator=generator)).requires_grad_()
        labels = torch.randint(classes, (size,), generator=generator)
        labels[1:][torch.rand(size - 1, generator=generator) < unlabelled] = NO_LABEL
        ours, torchs = 0.1 * labelled_cross_entropy(logits, labels), 0.1 * F.cross_entropy(logits, labels)
        assert torch.equal(ours, torchs)
        assert torch.equal(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, torchs)))


def test_the_cross_entropy_of_labelled_images_is_zero_with_a_gradient_of_zero_where_there_are_none():
    logits = torch.randn(4, 3, requires_grad=True)
    loss = labelled_cross_entropy(logits, torch.full((4,), NO_LABEL))
    assert loss.item() == 0 and torch.autograd.grad(loss, logits)[0].eq(0).all()


def test_discriminator_and_generator_losses_by_hand():
    real, fake = torch.tensor([math.log(3.0), 0.0]), torch.tensor([math.log(7.0), 0.0])
    minus_log_real, minus_log_fake = math.log(4 / 3) + math.log(2), math.log(8) + math.log(2)
    assert discriminator_loss(real, fake).item() == pytest.approx((minus_log_real + minus_log_fake) / 2)
    assert fooling_loss(fake).item() == pytest.approx((math.log(8 / 7) + math.log(2)) / 2)
