"""The predicted classes that a record keeps: what they hold, how small they are, and what damaged ones are."""

import base64
import zlib

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from kdbench.metrics.answers import MOST, Answers, answers, read_answers


def saved(labels, classes, count, groups=None) -> dict[str, np.ndarray]:
    known = {"test_logits": np.eye(count, dtype=np.float32)[classes], "test_labels": np.asarray(labels)}
    return known if groups is None else known | {"test_groups": np.asarray(groups)}


def packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


def test_images_are_in_the_order_of_their_labels_and_then_of_the_dataset():
    read = read_answers(answers(saved([1, 0, 1, 0], [2, 0, 1, 1], 3)))
    assert read.labels.tolist() == [0, 0, 1, 1] and read.classes.tolist() == [0, 1, 2, 1]
    assert read.groups.shape == (0, 4)


def test_images_of_a_label_are_in_the_order_of_their_groups():
    #                            label  1  0  1  0  1         groups of two attributes
    one = answers(saved([1, 0, 1, 0, 1], [0, 1, 2, 3, 4], 5, [[1, 0, 0, 0, 1], [0, 2, 0, 1, 0]]))
    assert one.images == ((0, 0, 1, 1), (0, 0, 2, 1), (1, 0, 0, 1), (1, 1, 0, 2))
    read = read_answers(one)
    assert read.classes.tolist() == [3, 1, 2, 0, 4] and read.groups.tolist() == [[0, 0, 0, 1, 1], [1, 2, 0, 0, 0]]


@pytest.mark.parametrize("count", [2, 256, 257, 70_000])
def test_every_number_of_classes_is_read_as_it_was(count):
    classes = np.array([0, 1, count - 1, count // 2])
    known = {"test_labels": np.array([0, 0, 1, 1]), "test_logits": np.zeros((4, count), np.float32)}
    known["test_logits"][range(4), classes] = 1
    assert_array_equal(read_answers(answers(known)).classes, classes)


def test_of_equal_logits_the_lowest_class_is_predicted():
    known = {"test_logits": np.zeros((2, 3), np.float32), "test_labels": np.array([0, 1])}
    assert read_answers(answers(known)).classes.tolist() == [0, 0]


def test_ten_thousand_images_take_less_than_three_kilobytes():
    generator = np.random.default_rng(0)
    labels = generator.integers(10, size=10_000)
    classes = np.where(generator.random(10_000) < .9, labels, (labels + generator.integers(1, 4, size=10_000)) % 10)
    assert len(answers(saved(labels, classes, 10)).classes) < 3_000


@pytest.mark.parametrize(("found", "told"), [
    (Answers(((0, 2),), "?"), "base64|padding"),
    (Answers(((0, 2),), "AAAA"), "decompressing"),
    (Answers(((0, 2),), packed(b"\0\0")[:-8]), "cut short"),
    (Answers(((0, 2),), packed(b"\0" * 3)), "3 bytes for 2 images"),
    (Answers(((0, 2),), packed(bytes(10**6))), "longer than the 8 bytes"),
    (Answers(((0, 2), (1, 0, 2)), packed(b"\0" * 4)), "every row"),
    (Answers(((2,),), packed(b"\0\0")), "every row"),
    (Answers((), packed(b"")), "every row"),
    (Answers(((0, 0),), packed(b"")), "0 bytes for 0 images"),
    (Answers(((0, MOST), (1, MOST)), packed(b"")), "at most"),
])
def test_damaged_answers_are_one_line(found, told):
    with pytest.raises(ValueError, match=told) as caught:
        read_answers(found)
    assert "\n" not in str(caught.value)
