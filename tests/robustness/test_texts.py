import numpy as np
import pytest
import torch
from torch import nn

from kdbench.checks.contract import random_texts
from kdbench.method import Outputs
from kdbench.robustness.measure import measure, measured
from kdbench.robustness.texts import missing_words, misspelt_words

TOKENS = np.array([[5, 6, 7, 8, 0, 0], [9, 0, 0, 0, 0, 0]] * 200)
PLACES = np.arange(400)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_so_many_words_are_missing_or_misspelt_and_padding_is_no_word(share):
    left = (missing_words(TOKENS, PLACES, share)[::2] > 0).sum()
    unknown = (misspelt_words(TOKENS, PLACES, share)[::2] == 1).sum()
    assert left == pytest.approx(800 * (1 - share), rel=0.1) and unknown == pytest.approx(800 * share, rel=0.2)
    assert ((misspelt_words(TOKENS, PLACES, share) > 0) == (TOKENS > 0)).all()


def test_the_words_that_are_left_keep_their_order_and_stand_first():
    for row in missing_words(TOKENS, PLACES, 0.5)[::2]:
        some = row[row > 0]
        assert len(some) and (row[:len(some)] > 0).all()
        assert list(some) == sorted(some)


def test_a_text_that_loses_all_words_is_one_unknown_word():
    assert missing_words(TOKENS[:2], PLACES[:2], 1.1).tolist() == [[1, 0, 0, 0, 0, 0]] * 2


def test_what_a_text_loses_depends_on_its_position_alone():
    whole = missing_words(TOKENS, PLACES, 0.3)
    assert (missing_words(TOKENS[4:9], PLACES[4:9], 0.3) == whole[4:9]).all()


class First(nn.Module):
    """Knows a text's class by its first token."""

    def forward(self, tokens):
        return Outputs(nn.functional.one_hot(tokens[:, 0] % 6, 6).float(), tokens.float(), ())


def test_texts_are_not_attacked_and_the_figure_is_the_mean_over_both_corruptions():
    dataset, network = random_texts(), First()
    found = measure(network, dataset)
    assert set(found.metrics) == {"clean_accuracy", "corruption_accuracy"} == set(measured(dataset))
    assert set(found.vectors) == {"corruption_accuracy.missing_words", "corruption_accuracy.misspelt_words"}
    assert found.metrics["corruption_accuracy"] == pytest.approx(np.mean(list(found.vectors.values())))
    tokens = dataset.test.images.take(torch.arange(12))
    right = (network(tokens).logits.argmax(1) == dataset.test.labels).float().mean()
    assert found.metrics["clean_accuracy"] == pytest.approx(float(right))
