"""The multilayer perceptron: flattened pixels through hidden layers with ReLU."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU between them, on the flattened pixels of an image: 784-512-256-10 has `hidden_sizes`
    (512, 256) on images of 1 x 28 x 28.

    Its stages are the hidden layers after ReLU, as maps of one position [B, C, 1, 1]; the last is the embedding too.
    """

    def __init__(self, num_classes: int, input_shape: Sequence[int], hidden_sizes: Sequence[int] = (512, 256),
                 drop_rate: float = 0.0):
        super().__init__()
        if len(input_shape) != 3:
            raise ValueError("it takes images, and the dataset holds texts")
        if not hidden_sizes:
            raise ValueError("hidden_sizes: name at least one")
        widths = [math.prod(input_shape), *hidden_sizes]
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(before, after), nn.ReLU())
                                    for before, after in pairwise(widths))
        self.dropout = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        x, stages = images.flatten(1), []
        for layer in self.layers:
            x = layer(x)
            stages.append(x[:, :, None, None])
        embedding = self.dropout(x)
        return self.classifier(embedding), embedding, tuple(stages)
