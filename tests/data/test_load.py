"""Names and recipes to datasets: sizes, exactness, statistics, and images decoded on demand."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kdbench.data import files, load
from kdbench.data.base import Dataset, MemoryImages, Split, in_order
from kdbench.data.catalog import DATASETS
from kdbench.data.imagefolder import scan
from kdbench.data.load import FileImages, load_dataset, mean_and_std, resize
from kdbench.data.stream import BatchStream
from kdbench.errors import UserError
from kdbench.spec import Recipe

CPU = torch.device("cpu")
GOLDEN = {"synthetic": "406004352303", "synthetic+longtail(10)+skew(0.9)": "9264584e028b", "mnist5k": "c33d88ec6860"}
SKEW = {"tint": ("warm", "cool"), "bias": ("aligned", "conflicting")}
SPLITS = ("train", "validation", "test")


def recipe(**changes) -> Recipe:
    return Recipe.model_validate({"epochs": 1, "batch_size": 8, "image_size": 16, "lr": 0.1, **changes})


def splits(dataset: Dataset) -> list[Split]:
    return [getattr(dataset, name) for name in SPLITS]


def pixels(split: Split) -> Tensor:
    return split.images.take(torch.arange(len(split)))


@pytest.fixture
def data(cache):
    return cache / "data"


@pytest.fixture
def photos(tmp_path):
    """Forty images of two classes, in several sizes and modes, in a folder of their own."""
    random = np.random.RandomState(0)
    for i in range(40):
        shape = (random.randint(10, 40), random.randint(10, 40), 3)
        image = Image.fromarray(random.randint(0, 256, shape).astype(np.uint8))
        place = tmp_path / "photos" / ("test" if i % 4 == 0 else "train") / f"class {i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        image.convert(("RGB", "L", "P")[i % 3]).save(place / f"{i}.png")
    for i in range(4):
        place = tmp_path / "photos/test/class 1"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (i, 2 * i, 3 * i)).save(place / f"plain {i}.png")
    return tmp_path / "photos"


# Shapes.

@pytest.mark.parametrize("name", ["synthetic", "mnist5k", "mnist5k+skew(0.9)", "synthetic+longtail(10)", "photos"])
@pytest.mark.parametrize("changes", [{}, {"normalise": "imagenet"}, {"augment": ["random_resized_crop"]}])
def test_the_shape_of_a_dataset_is_that_of_what_is_loaded(data, photos, name, changes):
    name = f"imagefolder:{photos}" if name == "photos" else name
    dataset = load_dataset(name, recipe(**changes), data, CPU)
    assert load.shape_of(name, recipe(**changes), data) == (
        len(dataset.classes), dataset.image_shape, len(dataset.train), tuple(dataset.train.groups))


def test_the_shape_of_a_published_dataset_takes_none_of_its_pixels_but_refuses_what_cannot_be_chosen(data, monkeypatch):
    monkeypatch.setattr(load, "_pixels", None)
    assert load.shape_of("synthetic", recipe(), data) == (10, (3, 16, 16), 900, ())
    assert load.shape_of("synthetic+skew(0.9)", recipe(), data).attributes == ("tint", "bias")
    with pytest.raises(UserError, match="more than the 900 images"):
        load.shape_of("synthetic", recipe(train_size=901), data)


# Splits.

def test_mnist5k_has_stratified_disjoint_splits_of_the_stated_sizes(data):
    dataset = load_dataset("mnist5k", recipe(image_size=28), data, CPU)
    assert [np.bincount(split.labels).tolist() for split in splits(dataset)] == [[350] * 10, [50] * 10, [100] * 10]
    assert dataset.image_shape == (1, 28, 28) and dataset.classes == tuple("0123456789")
    images, labels = files.mnist5k(data)
    rows = sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))
    found = sorted((image.numpy().tobytes(), int(label)) for split in splits(dataset)
                   for image, label in zip(pixels(split), split.labels, strict=True))
    assert found == rows  # each image once, with its label


@pytest.mark.parametrize("name", ["synthetic", "mnist5k"])
def test_splits_have_the_sizes_of_the_catalog(data, name):
    dataset = load_dataset(name, recipe(), data, CPU)
    assert tuple(map(len, splits(dataset))) == DATASETS[name].sizes
    assert all(split.labels.dtype == torch.int64 for split in splits(dataset))


@pytest.mark.skipif(not files.PUBLISHED["fashion_mnist"].elsewhere.is_dir(),
                    reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_keeps_its_test_split_and_sets_a_tenth_aside(data):
    dataset = load_dataset("fashion_mnist", recipe(image_size=28, train_size=1000), data, CPU)
    assert [np.bincount(split.labels).tolist() for split in splits(dataset)] == [[100] * 10, [600] * 10, [1000] * 10]
    images, labels = files.fashion_mnist(data)["test"]
    assert (pixels(dataset.test).numpy() == images).all() and (dataset.test.labels.numpy() == labels).all()


def test_a_training_size_takes_a_stratified_part_and_leaves_the_other_splits(data):
    whole, part = (load_dataset("mnist5k", recipe(train_size=size), data, CPU) for size in (None, 200))
    assert np.bincount(part.train.labels).tolist() == [20] * 10
    rows = {image.numpy().tobytes() for image in pixels(whole.train)}
    assert all(image.numpy().tobytes() in rows for image in pixels(part.train))
    assert torch.equal(pixels(whole.validation), pixels(part.validation))
    assert torch.equal(pixels(whole.test), pixels(part.test))
    assert whole.digest != part.digest


@pytest.mark.parametrize(("size", "message"), [(901, "more than the 900 images"), (9, "for each of the 10 classes")])
def test_impossible_training_sizes_are_refused(data, size, message):
    with pytest.raises(UserError, match=message):
        load_dataset("synthetic", recipe(train_size=size), data, CPU)


def test_synthetic_images_can_be_learned(data):
    dataset = load_dataset("synthetic", recipe(), data, CPU)
    train, test = (pixels(split).float().flatten(1) for split in (dataset.train, dataset.test))
    means = torch.stack([train[dataset.train.labels == label].mean(0) for label in range(10)])
    assert (torch.cdist(test, means).argmin(1) == dataset.test.labels).float().mean() > 0.9
    assert not torch.equal(train[:500], test)


# Exactness.

def test_more_threads_give_the_same_bits(data):
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(load_dataset("synthetic+skew(0.9)", recipe(image_size=19), data, CPU))
    finally:
        torch.set_num_threads(before)
    one, other = found
    assert one.digest == other.digest
    assert torch.equal(one.mean, other.mean) and torch.equal(one.std, other.std)


def test_datasets_never_change(data):
    # golden: records made at different times are compared; a change of these needs a new PROTOCOL
    assert {name: load_dataset(name, recipe(image_size=size), data, CPU).digest[:12] for name, size in (
        ("synthetic", 16), ("synthetic+longtail(10)+skew(0.9)", 16), ("mnist5k", 28))} == GOLDEN


def test_the_digest_tells_pixels_labels_and_attributes(data):
    digests = {load_dataset(name, recipe(**changes), data, CPU).digest for name, changes in (
        ("synthetic", {}), ("synthetic", {"image_size": 15}), ("synthetic", {"train_size": 100}),
        ("synthetic+skew(0.9)", {}), ("synthetic+longtail(10)", {}), ("mnist5k", {}),
    )}
    assert len(digests) == 6


# Sizes and channels.

def test_resizing_is_antialiased_bilinear_as_pillows():
    images = np.random.RandomState(0).randint(0, 256, (20, 3, 28, 28)).astype(np.uint8)
    for size in (9, 14, 16, 24, 32, 45):
        theirs = np.stack([np.asarray(Image.fromarray(image.transpose(1, 2, 0)).resize((size, size), 2))
                           for image in images]).transpose(0, 3, 1, 2)
        difference = np.abs(resize(images, size).astype(int) - theirs)
        assert difference.max() <= 2 and difference.mean() < 0.05  # they round the weights differently


def test_images_of_the_right_size_are_left_alone(data):
    images, _ = files.mnist5k(data)
    assert resize(images, 28) is images


def test_random_resized_crops_leave_a_margin_in_training_alone(data):
    dataset = load_dataset("synthetic", recipe(image_size=56, augment=("random_resized_crop",)), data, CPU)
    assert [pixels(split).shape[2:] for split in splits(dataset)] == [(64, 64), (56, 56), (56, 56)]
    assert dataset.image_shape == (3, 56, 56)


def test_grey_images_become_three_channels_for_imagenets_statistics(data):
    dataset = load_dataset("mnist5k", recipe(normalise="imagenet"), data, CPU)
    grey = load_dataset("mnist5k", recipe(), data, CPU)
    assert dataset.image_shape == (3, 16, 16) and grey.image_shape == (1, 16, 16)
    assert torch.equal(pixels(dataset.test), pixels(grey.test).expand(-1, 3, -1, -1))
    assert torch.allclose(dataset.mean, torch.tensor([0.485, 0.456, 0.406]))
    assert torch.allclose(dataset.std, torch.tensor([0.229, 0.224, 0.225]))


def test_mean_and_deviation_are_those_of_the_images_trained_on(data):
    dataset = load_dataset("synthetic", recipe(train_size=50), data, CPU)
    images = pixels(dataset.train).double() / 255
    assert torch.allclose(dataset.mean.double(), images.mean((0, 2, 3)), atol=1e-7)
    assert torch.allclose(dataset.std.double(), images.std((0, 2, 3), correction=0), atol=1e-7)
    assert dataset.mean.dtype == dataset.std.dtype == torch.float32


def test_a_channel_without_contrast_has_a_deviation_that_can_be_divided_by():
    counts = np.zeros((1, 256), np.int64)
    counts[0, 200] = 10**12
    mean, std = mean_and_std(counts)
    assert mean == [200 / 255] and std[0] > 0


# Image folders, in memory and on demand.

@pytest.mark.parametrize(("modifiers", "changes"), [
    ("", {}), ("", {"augment": ("random_resized_crop", "flip")}), ("+skew(0.9)", {"augment": ("crop",)}),
    ("+longtail(2)", {"normalise": "imagenet"}), ("", {"train_size": 9, "batch_size": 4}),
])
def test_decoding_on_demand_gives_the_same_bits_as_memory(photos, tmp_path, monkeypatch, modifiers, changes):
    name, of = f"imagefolder:{photos}{modifiers}", recipe(**changes)
    memory = load_dataset(name, of, tmp_path / "one", CPU)
    monkeypatch.setenv("KDBENCH_MEMORY_GB", "0")
    demand = load_dataset(name, of, tmp_path / "other", CPU)
    for ours, theirs in zip(splits(memory), splits(demand), strict=True):
        assert isinstance(ours.images, MemoryImages) and isinstance(theirs.images, FileImages)
        assert torch.equal(pixels(ours), pixels(theirs)) and torch.equal(ours.labels, theirs.labels)
    assert torch.equal(memory.mean, demand.mean) and torch.equal(memory.std, demand.std)
    assert memory.digest == demand.digest
    for batch, same in zip(*(BatchStream(dataset, of, 3, CPU).epoch(1) for dataset in (memory, demand)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, same, strict=True))


def test_of_a_large_folder_the_digest_is_over_its_files_wherever_its_images_are(photos, tmp_path, monkeypatch):
    name = f"imagefolder:{photos}"
    small = load_dataset(name, recipe(), tmp_path, CPU).digest
    monkeypatch.setattr(load, "DIGESTED_BYTES", 44 * 768)  # exactly as many as its images take
    assert load_dataset(name, recipe(), tmp_path, CPU).digest == small
    monkeypatch.setattr(load, "DIGESTED_BYTES", 44 * 768 - 1)
    memory = load_dataset(name, recipe(), tmp_path, CPU).digest
    monkeypatch.setenv("KDBENCH_MEMORY_GB", "0")
    assert load_dataset(name, recipe(), tmp_path, CPU).digest == memory == scan(photos).fingerprint != small


def test_a_folder_on_demand_is_decoded_once_for_its_digest(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_MEMORY_GB", "0")
    names = [f"imagefolder:{photos}{modifiers}" for modifiers in ("", "+skew(0.9)", "+longtail(2)")]
    first = [load_dataset(name, recipe(), tmp_path, CPU).digest for name in names]
    assert len(set(first)) == 3
    monkeypatch.setattr(load, "decode", None)
    assert [load_dataset(name, recipe(), tmp_path, CPU).digest for name in names] == first


def test_images_on_demand_are_those_asked_for_whatever_was_announced(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_MEMORY_GB", "0")
    images = load_dataset(f"imagefolder:{photos}", recipe(), tmp_path, CPU).train.images
    whole = images.take(torch.arange(len(images)))
    images.prefetch(torch.tensor([3, 4]))
    assert torch.equal(images.take(torch.tensor([4, 3])), whole[[4, 3]])
    assert torch.equal(images.take(torch.tensor([3, 4])), whole[[3, 4]])
    assert torch.equal(images.take(torch.tensor([3, 4])), whole[[3, 4]])


def test_an_epoch_announces_each_batch_before_it_takes_it(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_MEMORY_GB", "0")
    dataset = load_dataset(f"imagefolder:{photos}", recipe(), tmp_path, CPU)
    announced, read = [], []
    images = dataset.train.images
    prefetch, decode_now = images.prefetch, images._read
    monkeypatch.setattr(images, "prefetch", lambda index: (announced.append(index.tolist()), prefetch(index)))
    monkeypatch.setattr(images, "_read", lambda positions: (read.append(positions.tolist()), decode_now(positions))[1])
    indices = [batch.positions.tolist() for batch in BatchStream(dataset, recipe(), 0, CPU).epoch(0)]
    assert len(indices) == 3 and announced == indices[1:]
    assert read == indices  # nothing is decoded twice


def test_statistics_on_demand_are_kept_for_each_variant(photos, tmp_path, monkeypatch):
    names = [f"imagefolder:{photos}{modifier}" for modifier in ("", "+skew(0.9)", "+skew(1)")]
    memory = [load_dataset(name, recipe(), tmp_path / "memory", CPU).mean for name in names]
    monkeypatch.setenv("KDBENCH_MEMORY_GB", "0")
    for _ in range(2):
        demand = [load_dataset(name, recipe(), tmp_path / "demand", CPU).mean for name in names]
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(memory, demand, strict=True))
    assert len({tuple(mean.tolist()) for mean in memory}) == 3


def test_images_in_order_come_in_batches_and_are_announced(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_MEMORY_GB", "0")
    images = load_dataset(f"imagefolder:{photos}", recipe(), tmp_path, CPU).train.images
    whole, announced, prefetch = images.take(torch.arange(len(images))), [], images.prefetch
    monkeypatch.setattr(images, "prefetch", lambda index: (announced.append(index.tolist()), prefetch(index)))
    batches = list(in_order(images, 10, 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat(batches), whole[:10])
    assert announced == [[4, 5, 6, 7], [8, 9]]


def test_a_folder_is_decoded_once_for_all_processes(photos, tmp_path, monkeypatch):
    first = load_dataset(f"imagefolder:{photos}", recipe(), tmp_path, CPU)
    monkeypatch.setattr(load, "decode", None)
    again = load_dataset(f"imagefolder:{photos}+skew(0.9)", recipe(), tmp_path, CPU)
    assert first.digest != again.digest
    with pytest.raises(TypeError):
        load_dataset(f"imagefolder:{photos}", recipe(image_size=17), tmp_path, CPU)


def test_a_changed_folder_is_decoded_anew(photos, tmp_path):
    before = load_dataset(f"imagefolder:{photos}", recipe(), tmp_path, CPU)
    file = next((photos / "test/class 1").glob("plain 3.png"))
    Image.new("RGB", (20, 20), "white").save(file)
    after = load_dataset(f"imagefolder:{photos}", recipe(), tmp_path, CPU)
    assert torch.equal(pixels(before.train), pixels(after.train))
    assert (pixels(before.test) != pixels(after.test)).flatten(1).any(1).sum() == 1


def test_the_budget_counts_all_splits_at_their_sizes(photos, tmp_path, monkeypatch):
    # 30 training images (27 and 3 for validation) and 14 test images of 16 x 16 x 3 bytes
    for budget, kind in ((44 * 768, MemoryImages), (44 * 768 - 1, FileImages)):
        monkeypatch.setenv("KDBENCH_MEMORY_GB", str(budget / 1e9))
        assert isinstance(load_dataset(f"imagefolder:{photos}", recipe(), tmp_path, CPU).train.images, kind)


def test_a_budget_that_is_no_number_is_refused(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_MEMORY_GB", "much")
    with pytest.raises(UserError, match="KDBENCH_MEMORY_GB: expected a number, got 'much'"):
        load_dataset(f"imagefolder:{photos}", recipe(), tmp_path, CPU)


def test_an_image_that_breaks_later_is_named(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_MEMORY_GB", "0")
    dataset = load_dataset(f"imagefolder:{photos}", recipe(normalise="imagenet"), tmp_path, CPU)
    (photos / "train/class 1/7.png").write_text("no image")
    with pytest.raises(UserError, match=r"class 1/7\.png: cannot be read as an image"):
        list(BatchStream(dataset, recipe(batch_size=30), 0, CPU).epoch(0))


# Variants.

def test_a_skewed_dataset_is_biased_in_training_and_balanced_in_test(data):
    dataset = load_dataset("mnist5k+skew(0.95)", recipe(), data, CPU)
    assert dataset.group_names == SKEW and dataset.image_shape == (3, 16, 16)
    shares = {
        name: [(split.groups["tint"][split.labels == label] == label % 2).float().mean().item() for label in range(10)]
        for name, split in zip(SPLITS, splits(dataset), strict=True)
    }
    assert shares["train"] == pytest.approx([0.95] * 10, abs=0.003)
    assert shares["validation"] == pytest.approx([0.94] * 10)  # 47 of 50
    assert shares["test"] == [0.5] * 10
    for split in splits(dataset):
        assert torch.equal(split.groups["bias"], (split.groups["tint"] != split.labels % 2).long())


def test_tints_can_be_seen_in_the_images_that_have_them(data):
    dataset = load_dataset("mnist5k+skew(0.95)", recipe(train_size=100), data, CPU)
    grey = load_dataset("mnist5k", recipe(train_size=100), data, CPU)
    for split, plain in zip(splits(dataset), splits(grey), strict=True):
        images, tints = pixels(split).int(), split.groups["tint"]
        assert torch.equal(images.amax(1, keepdim=True), pixels(plain).int())  # the brightest channel is untouched
        red, blue = images[:, 0].flatten(1).sum(1), images[:, 2].flatten(1).sum(1)
        assert torch.equal((blue > red).long(), tints)


def test_a_skewed_part_of_train_is_as_skewed(data):
    dataset = load_dataset("mnist5k+skew(0.9)", recipe(train_size=200), data, CPU)
    against = dataset.train.groups["tint"] != dataset.train.labels % 2
    assert np.bincount(dataset.train.labels[against]).tolist() == [2] * 10


def test_a_long_tail_is_in_train_and_validation_and_not_in_test(data):
    dataset = load_dataset("synthetic+longtail(10)", recipe(), data, CPU)
    expected = [max(1, int(90 * 10 ** (-c / 9) + 1e-6)) for c in range(10)]
    assert np.bincount(dataset.train.labels).tolist() == expected
    assert np.bincount(dataset.validation.labels).tolist() == [10, 7, 5, 4, 3, 2, 2, 1, 1, 1]
    assert np.bincount(dataset.test.labels).tolist() == [20] * 10


def test_variants_combine(data):
    dataset = load_dataset("synthetic+longtail(10)+skew(0.9)", recipe(), data, CPU)
    assert np.bincount(dataset.train.labels)[0] == 90
    assert (dataset.train.groups["tint"][dataset.train.labels == 0] == 1).sum() == 9


def test_a_plain_dataset_has_no_attributes(data):
    dataset = load_dataset("synthetic", recipe(), data, CPU)
    assert dataset.group_names == {} and all(split.groups == {} for split in splits(dataset))


def test_attributes_of_a_folder_reach_its_splits(photos, tmp_path):
    rows = [path.relative_to(photos).as_posix() for path in sorted(photos.glob("test/*/*"))]
    (photos / "groups.csv").write_text("file,kind\n" + "".join(
        f"{row},{'plain' if 'plain' in row else 'noise'}\n" for row in rows))
    dataset = load_dataset(f"imagefolder:{photos}+skew(0.9)", recipe(normalise="imagenet"), tmp_path, CPU)
    assert dataset.group_names == {"kind": ("noise", "plain"), **SKEW}
    assert set(dataset.train.groups) == set(SKEW) and set(dataset.test.groups) == {"kind", *SKEW}
    flat = pixels(dataset.test).flatten(2).float().std(2).max(1).values < 5
    assert torch.equal(flat.long(), dataset.test.groups["kind"])
