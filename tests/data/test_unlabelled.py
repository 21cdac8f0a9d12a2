"""Images without labels: where they come from, what is kept of them, what is refused, and batches with them."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench.data import load
from kdbench.data.base import Joined, MemoryImages
from kdbench.data.catalog import parse
from kdbench.data.collect import check, collect, told, transfer_fingerprint
from kdbench.data.imagefolder import to_grey
from kdbench.data.load import FileImages, load_dataset
from kdbench.data.stream import BatchStream
from kdbench.errors import UserError
from kdbench.method import NO_LABEL
from kdbench.spec import Recipe, Transfer

CPU = torch.device("cpu")
REST = Transfer(images="rest")


def recipe(**changes) -> Recipe:
    return Recipe.model_validate({"epochs": 1, "batch_size": 8, "image_size": 16, "lr": 0.1, **changes})


def files(root, count=5, size=(16, 16), mode="RGB", seed=0):
    """Random images in nested folders."""
    random = np.random.RandomState(seed)
    for i in range(count):
        place = root / "deep" / str(i % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.randint(0, 256, (*size, 3)).astype(np.uint8)).convert(mode).save(place / f"{i}.png")
    return Transfer(images=f"imagefolder:{root}")


def pixels(part) -> set[bytes]:
    return {part.images[i].tobytes() for i in part.index}


def loaded(tmp_path, transfer, name="synthetic", **changes):
    return load_dataset(name, recipe(**{"train_size": 100, **changes}), tmp_path / "data", CPU, transfer)


# What is left over of the training split.

@pytest.mark.parametrize("name", ["synthetic", "synthetic+longtail(5)"])
def test_the_rest_is_the_training_split_less_the_labelled_images_and_holds_none_of_validation_or_test(name, tmp_path):
    whole, found = collect(parse(name), tmp_path), collect(parse(name), tmp_path, 100, REST)
    train, rest = pixels(found.splits["train"]), pixels(found.unlabelled)
    assert not train & rest and train | rest == pixels(whole.splits["train"])
    for split in ("validation", "test"):
        assert not rest & pixels(found.splits[split]), split
    for split, part in collect(parse(name), tmp_path, 100).splits.items():
        assert pixels(found.splits[split]) == pixels(part)


def test_nothing_but_the_pixels_is_kept_of_images_without_labels(tmp_path):
    found = collect(parse("synthetic+skew(0.9)"), tmp_path, 100, REST).unlabelled
    assert set(found.labels) == {-1} and not found.groups
    assert len(set(found.tints)) == 2  # tinted as the labelled ones are


def test_the_rest_is_tinted_by_the_share_of_the_training_split(tmp_path):
    whole, rest = (collect(parse("synthetic+skew(0.9)"), tmp_path, *size) for size in ((), (100, REST)))
    true = {whole.splits["train"].index[i]: label for i, label in enumerate(whole.splits["train"].labels)}
    aligned = [tint == true[i] % 2 for i, tint in zip(rest.unlabelled.index, rest.unlabelled.tints, strict=True)]
    assert np.mean(aligned) == pytest.approx(.9, abs=.01)


def test_fewer_of_them_are_the_first_of_all_and_a_random_sample(tmp_path):
    every, some = (collect(parse("synthetic"), tmp_path, 100, REST.model_copy(update={"size": size})).unlabelled
                   for size in (None, 300))
    assert (len(every), len(some)) == (800, 300) and np.array_equal(every.index[:300], some.index)
    train = collect(parse("synthetic"), tmp_path).splits["train"]
    classes = Counter(dict(zip(train.index, train.labels, strict=True))[i] for i in some.index)
    assert len(classes) == 10 and max(classes.values()) > min(classes.values())  # no class is told by their number


@pytest.mark.parametrize("size, transfer, message", [
    (None, REST, "transfer.images: 'rest' is what recipe.train_size leaves over of the training split, and it is not"),
    (900, REST, "transfer.images: 'rest' is what recipe.train_size leaves over of the training split, and that keeps"),
    (100, Transfer(images="rest", size=801), r"transfer.size: 801 is more than the 800 images of rest"),
    (100, Transfer(images="ret"), "unknown source of images without labels 'ret'.*rest"),
    (100, Transfer(images="imagefolder:"), "'imagefolder:': write imagefolder:PATH, a folder of images"),
    (100, Transfer(images="imagefolder:nowhere"), "image folder nowhere: no such folder"),
])
def test_what_cannot_be_had_is_refused_in_a_line(size, transfer, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        collect(parse("synthetic"), tmp_path, size, transfer)
    assert "\n" not in str(error.value)


# A user's folder.

def test_a_folder_needs_no_classes_and_other_files_are_left_out(tmp_path):
    transfer = files(tmp_path / "pool")
    (tmp_path / "pool/notes.txt").write_text("no image")
    (tmp_path / "pool/.hidden.png").write_bytes(b"")
    found = collect(parse("synthetic"), tmp_path, None, transfer).unlabelled
    assert sorted(path.name for path in found.images) == [f"{i}.png" for i in range(5)]
    assert len(found) == 5 and set(found.labels) == {-1}


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "pool").mkdir()
    with pytest.raises(UserError, match="pool: no images"):
        collect(parse("synthetic"), tmp_path, None, Transfer(images=f"imagefolder:{tmp_path / 'pool'}"))


def test_a_folders_images_are_resized_to_those_of_the_dataset_and_get_its_channels(tmp_path):
    transfer = files(tmp_path / "pool", size=(40, 24))
    colour, grey = loaded(tmp_path, transfer), loaded(tmp_path, transfer, "mnist5k")
    shown = colour.unlabelled.take(torch.arange(5))
    assert shown.shape == (5, 3, 16, 16) and shown[:, 0].ne(shown[:, 1]).any()
    assert torch.equal(grey.unlabelled.take(torch.arange(5)), torch.from_numpy(to_grey(shown.numpy())))
    equal = loaded(tmp_path, transfer, "mnist5k", normalise="imagenet")  # to which the labelled ones are made, too
    assert torch.equal(equal.unlabelled.take(torch.arange(5)), shown)


def test_luma_is_that_of_pillow_and_of_grey_images_exact():
    random = np.random.RandomState(0)
    rgb = random.randint(0, 256, (3, 3, 8, 8)).astype(np.uint8)
    pillow = np.stack([np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L")) for image in rgb])
    assert np.abs(to_grey(rgb)[:, 0].astype(int) - pillow).max() <= 1
    grey = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert np.array_equal(to_grey(grey.repeat(3, axis=1)), grey)


def test_on_demand_a_folder_gives_the_same_images(tmp_path, monkeypatch):
    transfer = files(tmp_path / "pool", size=(20, 30))
    datasets = [loaded(tmp_path, transfer, name) for name in ("synthetic", "mnist5k")]
    monkeypatch.setenv("KDBENCH_MEMORY_GB", "0")
    datasets += [loaded(tmp_path, transfer, name) for name in ("synthetic", "mnist5k")]
    memory, demand = ([dataset.unlabelled for dataset in some] for some in (datasets[:2], datasets[2:]))
    assert [dataset.digest for dataset in datasets[:2]] == [dataset.digest for dataset in datasets[2:]]
    assert [type(one) for one in (*memory, *demand)] == [MemoryImages] * 2 + [FileImages] * 2
    index = torch.tensor([3, 0, 4])
    for one, other in zip(memory, demand, strict=True):
        other.prefetch(index)
        assert torch.equal(one.take(index), other.take(index))


def test_of_a_large_folder_the_digest_is_over_its_files_wherever_its_images_are(tmp_path, monkeypatch):
    transfer = files(tmp_path / "pool")
    small = loaded(tmp_path, transfer).digest
    monkeypatch.setattr(load, "DIGESTED_BYTES", 0)
    memory = loaded(tmp_path, transfer).digest
    monkeypatch.setenv("KDBENCH_MEMORY_GB", "0")
    assert loaded(tmp_path, transfer).digest == memory != small


def test_a_folder_that_changes_is_another_one_wherever_it_lies(tmp_path):
    one, same, other = (files(tmp_path / name, size=(size, 8)) for name, size in (("a", 8), ("b", 8), ("c", 9)))
    found = [transfer_fingerprint(one.images) for one in (one, same, other)]
    assert found[0] == found[1] != found[2] and transfer_fingerprint("rest") is None
    (tmp_path / "a/deep/0/0.png").unlink()
    assert transfer_fingerprint(one.images) != found[1]


def test_a_damaged_image_is_named_before_anything_runs(tmp_path):
    transfer = files(tmp_path / "pool")
    (tmp_path / "pool/deep/1/1.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"deep/1/1\.png: cannot be read as an image"):
        check("synthetic", tmp_path / "data", 100, transfer)


# Images that students are judged by.

@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("name", ["synthetic", "mnist5k", "mnist5k+skew(0.9)"])
def test_a_file_with_the_pixels_of_a_validation_or_test_image_is_refused(name, split, tmp_path):
    part = collect(parse(name), tmp_path / "data").splits[split]
    image = part.images[part.index[7]].transpose(1, 2, 0)
    transfer = files(tmp_path / "pool")
    check(name, tmp_path / "data", 100, transfer)
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(tmp_path / "pool/mine.png")
    with pytest.raises(UserError, match=rf"transfer\.images: .*mine\.png is an image of the {split} split of"):
        check(name, tmp_path / "data", 100, transfer)
    (tmp_path / "pool/mine.png").unlink()
    check(name, tmp_path / "data", 100, transfer)


def test_a_copy_of_a_test_image_of_an_image_folder_is_refused(tmp_path):
    root = tmp_path / "photos"
    for place in ("train/a", "train/b", "test/a", "test/b"):
        files(root / place, seed=len(place) + ord(place[-1]))
    with pytest.raises(UserError, match=r"is an image of the test split of .*, and so are"):
        check(f"imagefolder:{root}", tmp_path / "data", None, Transfer(images=f"imagefolder:{root}"))


def test_that_there_are_none_is_looked_for_once(tmp_path, monkeypatch):
    transfer = files(tmp_path / "pool")
    check("synthetic", tmp_path / "data", 100, transfer)
    monkeypatch.setattr("kdbench.data.collect._pixels", None)
    check("synthetic", tmp_path / "data", 100, transfer)


# The dataset.

def test_labelled_images_and_their_statistics_are_those_of_a_dataset_without_further_images(tmp_path):
    plain, more = loaded(tmp_path, None), loaded(tmp_path, REST)
    assert plain.unlabelled is None and len(more.unlabelled) == 800 and len(more.train) == 100
    assert torch.equal(plain.mean, more.mean) and torch.equal(plain.std, more.std)
    assert torch.equal(plain.train.images.images, more.train.images.images)
    digests = {loaded(tmp_path, transfer).digest for transfer in (
        None, REST, REST.model_copy(update={"size": 9}), files(tmp_path / "a"), files(tmp_path / "b", seed=1))}
    assert len(digests) == 5
    assert load.shape_of("synthetic", recipe(train_size=100), tmp_path, REST).num_train == 100


def test_a_line_says_how_many_there_are(tmp_path):
    found = collect(parse("synthetic"), tmp_path, 100, REST)
    assert told("synthetic", found).endswith("for the test; 800 without labels")


def test_joined_stores_give_what_either_gives():
    first, second = (torch.randint(0, 256, (size, 1, 2, 2), dtype=torch.uint8) for size in (4, 3))
    joined, index = Joined(MemoryImages(first), MemoryImages(second)), torch.tensor([5, 0, 6, 3, 4, 5])
    assert len(joined) == 7 and torch.equal(joined.take(index), torch.cat([first, second])[index])
    for part in (torch.tensor([1, 2]), torch.tensor([6])):
        assert torch.equal(joined.take(part), torch.cat([first, second])[part])


# Batches.

def stream(tmp_path, share, transfer=REST, seed=0, updates=1, **changes):
    return BatchStream(loaded(tmp_path, transfer, **changes), recipe(train_size=100, augment=["flip"], **changes), seed,
                       CPU, updates, share)


@pytest.mark.parametrize("share, labelled", [(.25, 6), (.5, 4), (.01, 7), (.99, 1), (1.0, 0)])
def test_a_batch_holds_that_share_of_images_without_labels(share, labelled, tmp_path):
    mixed, plain = stream(tmp_path, share), stream(tmp_path, 0.0)
    batches = list(mixed.epoch(0))
    assert len(batches) == mixed.steps_per_epoch == plain.steps_per_epoch == 12
    true = mixed.dataset.train.labels
    for batch in batches:
        assert len(batch.images) == 8
        positions, labels = batch.positions[:labelled], batch.labels[:labelled]
        assert (positions < 100).all() and torch.equal(labels, true[positions])
        assert (batch.positions[labelled:] >= 100).all() and (batch.labels[labelled:] == NO_LABEL).all()
        assert (batch.positions < 900).all()


def test_the_images_of_a_batch_are_those_at_its_positions(tmp_path):
    mixed = BatchStream(loaded(tmp_path, REST), recipe(train_size=100), 0, CPU, 1, .5)
    data = mixed.dataset
    every = torch.cat([data.train.images.images, data.unlabelled.images])
    for batch in mixed.epoch(0):
        assert torch.equal(batch.images, mixed.normalise(every[batch.positions]))


@pytest.mark.parametrize("share, size", [(.5, 30), (1.0, None), (.5, 1)])
def test_every_image_of_a_kind_comes_before_any_comes_again(share, size, tmp_path):
    mixed = stream(tmp_path, share, Transfer(images="rest", size=size), updates=2)
    positions = torch.cat([batch.positions for epoch in range(9) for batch in mixed.epoch(epoch)])
    for kind in (positions[positions < 100], positions[positions >= 100]):
        counts = torch.bincount(kind)[kind.min() if len(kind) else 0:]
        assert not len(kind) or int(counts.max() - counts.min()) <= 1
    assert len(positions) == 9 * 24 * 8


def test_an_epoch_is_a_function_of_the_seed_and_its_number(tmp_path):
    first, again, other = (stream(tmp_path, .5, seed=seed) for seed in (3, 3, 4))
    list(first.epoch(0))
    for one, same, another in zip(first.epoch(1), again.epoch(1), other.epoch(1), strict=True):
        assert torch.equal(one.images, same.images) and torch.equal(one.positions, same.positions)
        assert not torch.equal(one.positions, another.positions)


def test_methods_without_such_images_have_the_batches_that_they_have_without_any(tmp_path):
    for plain, mixed in zip(stream(tmp_path, 0.0, None).epoch(0), stream(tmp_path, 0.0).epoch(0), strict=True):
        assert torch.equal(plain.images, mixed.images) and torch.equal(plain.labels, mixed.labels)


def test_files_are_decoded_ahead(tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_MEMORY_GB", "0")
    mixed = stream(tmp_path, .5, files(tmp_path / "pool", 40))
    read = FileImages._read
    calls = []
    monkeypatch.setattr(FileImages, "_read", lambda self, positions: calls.append(1) or read(self, positions))
    list(mixed.epoch(0))
    assert len(calls) == 12  # each batch once
