"""Networks for texts: a transformer, and a classifier of the mean of word embeddings.

Inputs are tokens [B, T] int64, in which 0 is padding at the end of a text. Positions of padding are neither attended to
nor counted in means, and are 0 in the stages, which are feature maps [B, C, 1, T].
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNKNOWN = 1     # the token of a word that is not in the vocabulary
MAX_STAGES = 4  # at most, evenly spaced in depth


class WordEmbedding(nn.Module):
    """Maps tokens [B, T] to embeddings [B, T, D]. In training, each word becomes unknown with the probability
    `drop_rate`."""

    def __init__(self, words: int, width: int, drop_rate: float):
        super().__init__()
        self.drop_rate = drop_rate
        self.table = nn.Embedding(words, width)
        nn.init.normal_(self.table.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.training and self.drop_rate:
            dropped = (torch.rand(tokens.shape, device=tokens.device) < self.drop_rate) & (tokens > 0)
            tokens = tokens.masked_fill(dropped, UNKNOWN)
        return self.table(tokens)


class TextBag(nn.Module):
    """A linear layer on the mean of a text's word embeddings, as in fastText (Joulin et al., 2017).

    `patch_drop_rate` is the probability with which words become unknown in training. The only stage is the embeddings
    of the words, as a feature map [B, D, 1, T].
    """

    def __init__(self, num_classes: int, input_shape: Sequence[int], embed_dim: int = 16, drop_rate: float = 0.0,
                 patch_drop_rate: float = 0.0):
        super().__init__()
        _, words = _of_texts(input_shape)
        self.embedding = WordEmbedding(words, embed_dim, patch_drop_rate)
        self.dropout = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(embed_dim, num_classes)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        there = (tokens > 0)[:, :, None]
        x = self.embedding(tokens) * there
        embedding = self.dropout(_mean(x, there))
        return self.classifier(embedding), embedding, (_map(x),)


class TextTransformer(nn.Module):
    """A pre-norm transformer encoder with learned position embeddings; the classifier sees the mean of its outputs over
    words.

    `patch_drop_rate` is the probability with which words become unknown in training. The stages are taken from the word
    embeddings and the outputs of the blocks, the last of which is after the final norm: all of them, or MAX_STAGES
    evenly spaced ones if there are more. ValueError if the inputs are images, if `embed_dim` is not a multiple of
    `num_heads`, or if there is no block.
    """

    def __init__(self, num_classes: int, input_shape: Sequence[int], embed_dim: int = 64, depth: int = 2,
                 num_heads: int = 2, mlp_ratio: float = 2.0, drop_rate: float = 0.1, patch_drop_rate: float = 0.0):
        super().__init__()
        length, words = _of_texts(input_shape)
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is no multiple of num_heads {num_heads}")
        if depth < 1:
            raise ValueError(f"depth {depth}: at least 1")
        self.embedding = WordEmbedding(words, embed_dim, patch_drop_rate)
        self.positions = nn.Parameter(torch.zeros(length, embed_dim))
        nn.init.normal_(self.positions, std=0.02)
        self.dropout = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, round(mlp_ratio * embed_dim), drop_rate)
                                    for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim)
        self.classifier = nn.Linear(embed_dim, num_classes)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        there = tokens > 0
        seen = there[:, None, None, :]
        x = self.dropout(self.embedding(tokens) + self.positions)
        maps = [x]
        for block in self.blocks:
            x = block(x, seen)
            maps.append(x)
        maps[-1] = self.norm(x)
        counted = there[:, :, None]
        embedding = self.dropout(_mean(maps[-1] * counted, counted))
        stages = tuple(_map(maps[place] * counted) for place in _spaced(len(maps)))
        return self.classifier(embedding), embedding, stages


class Block(nn.Module):
    """A transformer block: self-attention, then a perceptron of one hidden layer. Each is applied to the
    layer-normalised input, and its output is added to the input."""

    def __init__(self, width: int, heads: int, hidden: int, drop_rate: float):
        super().__init__()
        self.heads, self.drop_rate = heads, drop_rate
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(drop_rate),
                                        nn.Linear(hidden, width))
        self.dropout = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:  # [B, T, D], [B, 1, 1, T] bool
        batch, length, width = x.shape
        query, key, value = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        x = x + self.dropout(self.projection(attended.transpose(1, 2).reshape(batch, length, width)))
        return x + self.dropout(self.perceptron(self.norm2(x)))


def _of_texts(shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError("it takes texts, and the dataset holds images")
    return shape[0], shape[1]


def _mean(x: Tensor, there: Tensor) -> Tensor:  # [B, T, D], 0 where there is padding; [B, T, 1]
    return x.sum(1) / there.sum(1).clamp(min=1)


def _map(x: Tensor) -> Tensor:  # [B, T, D] -> [B, D, 1, T]
    return x.transpose(1, 2)[:, :, None].contiguous()


def _spaced(count: int) -> list[int]:
    """At most MAX_STAGES of the indices 0 to `count` - 1, evenly spaced, with the last one included."""
    kept = min(MAX_STAGES, count)
    return [round((i + 1) * count / kept) - 1 for i in range(kept)]
