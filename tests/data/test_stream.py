"""The batch stream: what depends on what, and each augmentation against a slow version, image by image."""

import pytest
import torch
from torch import Tensor

from kdbench.data.base import Dataset, MemoryImages, Split
from kdbench.data.stream import BatchStream, Normalise, center_crop, random_crop, random_flip, random_resized_crop
from kdbench.spec import Recipe

CPU = torch.device("cpu")
ALL = ("crop", "flip")


def recipe(**changes) -> Recipe:
    return Recipe.model_validate({"epochs": 3, "batch_size": 8, "image_size": 8, "lr": 0.1, **changes})


def random_images(size: int, side: int = 8, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (size, channels, side, side), generator=generator, dtype=torch.uint8)


def dataset(size: int = 30, side: int = 8) -> Dataset:
    images = random_images(size, side)
    split = Split(MemoryImages(images), torch.arange(size) % 10)
    return Dataset("synthetic", tuple("0123456789"), split, split, split, (3, 8, 8), torch.tensor([0.5, 0.4, 0.3]),
                   torch.tensor([0.2, 0.3, 0.4]), "random")


def epoch(number: int = 0, seed: int = 0, of: Recipe | None = None, data: Dataset | None = None) -> list:
    return list(BatchStream(data or dataset(), of or recipe(augment=ALL), seed, CPU).epoch(number))


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for batch, twin in zip(one, other, strict=True) for a, b in zip(batch, twin, strict=True))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# What depends on what.

def test_one_seed_gives_the_same_batches():
    assert same(epoch(), epoch())


def test_other_seeds_and_epochs_give_other_batches():
    assert not same(epoch(), epoch(seed=1))
    assert not same(epoch(), epoch(number=1))


def test_an_epoch_does_not_depend_on_those_before():
    stream = BatchStream(dataset(), recipe(augment=ALL), 5, CPU)
    list(stream.epoch(0))
    next(stream.epoch(1))  # left half way
    assert same(list(stream.epoch(2)), epoch(number=2, seed=5))


def test_an_epoch_of_several_updates_is_as_many_passes_over_the_split():
    single, double = BatchStream(dataset(), recipe(), 0, CPU), BatchStream(dataset(), recipe(), 0, CPU, updates=2)
    assert double.steps_per_epoch == 2 * single.steps_per_epoch
    assert same(list(double.epoch(1)), [*single.epoch(2), *single.epoch(3)])


def test_the_global_random_state_is_neither_read_nor_changed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = epoch()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(one, epoch())


def test_an_epoch_shows_each_image_at_most_once_and_drops_an_incomplete_batch():
    batches = epoch(data=dataset(30))
    assert [len(batch.images) for batch in batches] == [8, 8, 8]
    positions = torch.cat([batch.positions for batch in batches])
    assert len(set(positions.tolist())) == 24 and positions.max() < 30
    assert positions.tolist() != sorted(positions.tolist())


def test_fewer_images_than_a_batch_make_one_batch():
    stream = BatchStream(dataset(5), recipe(), 0, CPU)
    assert stream.steps_per_epoch == 1 and stream.batch_size == 5
    assert sorted(next(stream.epoch(0)).positions.tolist()) == [0, 1, 2, 3, 4]


def test_images_and_labels_are_those_of_the_index():
    data = dataset()
    normalise = Normalise(data, CPU)
    for batch in epoch(of=recipe(), data=data):
        assert torch.equal(batch.labels, data.train.labels[batch.positions])
        assert torch.equal(batch.images, normalise(data.train.images.take(batch.positions)))


def test_images_are_normalised_per_channel():
    data = dataset()
    batch = epoch(of=recipe(), data=data)[0]
    exact = data.train.images.take(batch.positions).double() / 255
    for channel in range(3):
        exact[:, channel] = (exact[:, channel] - data.mean[channel]) / data.std[channel]
    assert batch.images.dtype == torch.float32
    assert torch.allclose(batch.images.double(), exact, atol=1e-5)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_without_augmentation_larger_images_are_cut_to_the_middle():
    batch = epoch(of=recipe(), data=dataset(side=12))[0]
    assert batch.images.shape[2:] == (8, 8)
    assert torch.equal(center_crop(torch.arange(36).view(1, 1, 6, 6), 2), torch.tensor([[[[14, 15], [20, 21]]]]))


def test_augmentations_come_in_the_recipes_order():
    data = dataset()
    stream = BatchStream(data, recipe(augment=("flip", "crop")), 0, CPU)
    images, generator = random_images(8), rng(3)
    expected = random_crop(random_flip(images, generator), 8, generator)
    assert torch.equal(stream.augment(images, rng(3)), expected)


# Crops and flips, image by image.

@pytest.mark.parametrize(("size", "padding"), [(8, 1), (32, 4), (28, 4), (4, 1)])
def test_each_image_is_cropped_at_a_place_of_its_own(size, padding):
    images = random_images(50, size)
    cropped = random_crop(images, size, rng())
    top, left = torch.randint(2 * padding + 1, (2, 50), generator=rng())
    for image, result, y, x in zip(images, cropped, top, left, strict=True):
        padded = torch.zeros(3, size + 2 * padding, size + 2 * padding, dtype=torch.uint8)
        padded[:, padding:padding + size, padding:padding + size] = image
        assert torch.equal(result, padded[:, y:y + size, x:x + size])
    assert top.unique().tolist() == left.unique().tolist() == list(range(2 * padding + 1))


def test_half_of_the_images_are_mirrored():
    images = random_images(2000, 4)
    flipped = random_flip(images, rng())
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 930 < mirrored.sum() < 1070


def test_flips_are_those_of_the_drawn_numbers():
    images = random_images(20)
    draws = torch.rand(20, generator=rng())
    expected = torch.stack([image.flip(-1) if draw < 0.5 else image for image, draw in zip(images, draws, strict=True)])
    assert torch.equal(random_flip(images, rng()), expected)


# Random resized crops.

def coordinates(side: int, copies: int) -> Tensor:
    """Images whose first channel is each pixel's column and whose second is its row."""
    row = torch.arange(side, dtype=torch.uint8)
    image = torch.stack([row.expand(side, side), row.view(-1, 1).expand(side, side)])
    return image.expand(copies, -1, -1, -1)


def windows(side: int, size: int, copies: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Left, top, width and height, in pixels, of the windows that random crops showed, to about a pixel."""
    crops = random_resized_crop(coordinates(side, copies), size, rng()).float()
    column, row = crops[:, 0, size // 2], crops[:, 1, :, size // 2]
    scale = size / (size - 1)
    width, height = (column[:, -1] - column[:, 0]) * scale, (row[:, -1] - row[:, 0]) * scale
    return column[:, 0] - width / size / 2, row[:, 0] - height / size / 2, width, height


def test_windows_have_the_areas_and_shapes_of_the_paper_and_lie_in_the_image():
    side, size = 200, 50
    left, top, width, height = windows(side, size, 3000)
    area, aspect = width * height / side**2, width / height
    assert 0.06 < area.min() < 0.10 and area.max() > 0.9
    assert 0.7 < aspect.min() < 0.8 and 1.25 < aspect.max() < 1.42
    assert abs(aspect.log().mean()) < 0.02  # as often wide as high
    assert 0.45 < area.mean() < 0.55        # uniform from 0.08 to 1, a little clipped
    assert min(left.min(), top.min()) > -3 and max((left + width).max(), (top + height).max()) < side + 3
    for start, length in ((left, width), (top, height)):
        small = length < side / 2
        place = start[small] / (side - length[small])
        assert place.min() < 0.05 and place.max() > 0.95 and abs(place.mean() - 0.5) < 0.05


def test_windows_are_sampled_bilinearly():
    images = random_images(6, 16)
    crops = random_resized_crop(images, 8, rng(4))
    area, ratio, x, y = torch.rand(4, 6, generator=rng(4)).double()
    area, aspect = 0.08 + 0.92 * area, torch.exp((2 * ratio - 1) * torch.log(torch.tensor(4 / 3)))
    for i, image in enumerate(images.double()):
        width = min(1.0, float((area[i] * aspect[i]).sqrt())) * 16
        height = min(1.0, float((area[i] / aspect[i]).sqrt())) * 16
        left, top = float(x[i]) * (16 - width), float(y[i]) * (16 - height)
        for row in range(8):
            for column in range(8):
                v = min(max(top + (row + 0.5) * height / 8 - 0.5, 0), 15)
                u = min(max(left + (column + 0.5) * width / 8 - 0.5, 0), 15)
                v0, u0 = int(v), int(u)
                v1, u1 = min(v0 + 1, 15), min(u0 + 1, 15)
                upper = (1 - u + u0) * image[:, v0, u0] + (u - u0) * image[:, v0, u1]
                lower = (1 - u + u0) * image[:, v1, u0] + (u - u0) * image[:, v1, u1]
                expected = (1 - v + v0) * upper + (v - v0) * lower
                assert (crops[i, :, row, column] - expected).abs().max() < 0.51  # rounded to whole levels


def test_windows_of_plain_images_are_plain():
    images = torch.full((20, 1, 9, 9), 255, dtype=torch.uint8)
    assert (random_resized_crop(images, 8, rng()) == 255).all()  # no black from beyond the border, no overflow


def test_augmented_images_stay_8_bit_and_of_the_networks_size():
    for augment in ((), ("crop",), ("flip",), ("crop", "flip"), ("random_resized_crop", "flip")):
        stream = BatchStream(dataset(side=9), recipe(augment=augment), 0, CPU)
        if augment and augment[0] == "crop":
            stream = BatchStream(dataset(), recipe(augment=augment), 0, CPU)
        images = stream.augment(stream.dataset.train.images.take(torch.arange(6)), rng())
        assert images.dtype == torch.uint8 and images.shape == (6, 3, 8, 8)
