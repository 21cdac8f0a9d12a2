import torch

from kdbench.parts.bank import shifted


def test_images_are_shifted_both_ways():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1
    seen = {tuple(shifted(image, 1)[0, 0].nonzero()[0].tolist()) for _ in range(100)}
    assert seen == {(i, j) for i in (1, 2, 3) for j in (1, 2, 3)}
