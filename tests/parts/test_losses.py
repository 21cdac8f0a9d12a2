import math

import pytest
import torch

from kdbench.parts.losses import discriminator_loss, fooling_loss


def test_discriminator_and_generator_losses_by_hand():
    real, fake = torch.tensor([math.log(3.0), 0.0]), torch.tensor([math.log(7.0), 0.0])
    minus_log_real, minus_log_fake = math.log(4 / 3) + math.log(2), math.log(8) + math.log(2)
    assert discriminator_loss(real, fake).item() == pytest.approx((minus_log_real + minus_log_fake) / 2)
    assert fooling_loss(fake).item() == pytest.approx((math.log(8 / 7) + math.log(2)) / 2)
