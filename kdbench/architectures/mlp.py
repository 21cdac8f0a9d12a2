"""The multilayer perceptron: flattened pixels through hidden layers with ReLU."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers on the flattened pixels of an image, with ReLU between them. For instance, 784-512-256-10 has
    `hidden_sizes` (512, 256), on images of 1 x 28 x 28 with 10 classes.

    Its stages are the outputs of the hidden layers after ReLU, as feature maps of a single position [B, C, 1, 1]. The
    last one, after dropout, is also the embedding. ValueError if there is no hidden layer, or if the inputs are texts.
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
