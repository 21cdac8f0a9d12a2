import math

import pytest
import torch

from kdbench.parts.generator import ImageGenerator, anneal


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 16, 16), (3, 33, 50), (1, 8, 8), (3, 96, 96)])
def test_a_generator_gives_images_of_any_shape_that_look_normalised(shape):
    torch.manual_seed(0)
    generator = ImageGenerator(7, shape, width=4)
    images = generator.sample(6)
    assert images.shape == (6, *shape) and images.requires_grad
    assert generator.sizes[0][0] <= max(8, math.ceil(shape[0] / 4))
    assert images.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert (images.var(dim=(0, 2, 3), unbiased=False) - 1).abs().max() < 1e-2


def test_every_part_of_a_generator_is_trained_by_its_images():
    generator = ImageGenerator(7, (3, 32, 32), width=4)
    (generator.sample(4) ** 3).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in generator.parameters())


def test_annealing_sets_every_groups_rate_along_half_a_cosine():
    parameters = [torch.zeros(1), torch.zeros(1)]
    optimizer = torch.optim.SGD([{"params": [parameter]} for parameter in parameters], lr=7.0)
    for progress, rate in ((0.0, 0.4), (0.5, 0.2), (0.75, 0.2 * (1 - 0.5**0.5)), (1.0, 0.0)):
        anneal(optimizer, 0.4, progress)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate])
