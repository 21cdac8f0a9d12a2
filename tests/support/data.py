"""Small datasets of random images, and a linear network on them."""

import torch
from torch import nn

from kdbench.data.base import Dataset, MemoryImages, Split
from kdbench.data.stream import Normalise
from kdbench.method import Outputs

CPU = torch.device("cpu")


def dataset_of(images, labels, name="synthetic", classes=3):
    split = Split(MemoryImages(images), labels)
    channels = images.shape[1]
    return Dataset(name, tuple(map(str, range(classes))), split, split, split, tuple(images.shape[1:]),
                   torch.full((channels,), .4), torch.full((channels,), .2), "digest")


def random_data(count=60, classes=3, low=60, high=190):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(low, high, (count, 3, 6, 6), generator=generator, dtype=torch.uint8)
    return dataset_of(images, torch.arange(count) % classes, classes=classes)


class Linear(nn.Module):
    """A linear network: images [B, C, H, W] of `size` values each to logits [B, classes]."""

    def __init__(self, classes=3, size=108, seed=0, scale=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(scale * torch.randn(classes, size, generator=generator) / size**.5)

    def forward(self, images):
        flat = images.flatten(1)
        return Outputs(flat @ self.weight.T, flat, ())


def own_labels(network, dataset):
    """The same images, labelled with what the network says of them."""
    labels = network.eval()(Normalise(dataset, CPU)(dataset.test.images.images)).logits.argmax(1)
    return dataset_of(dataset.test.images.images, labels)
