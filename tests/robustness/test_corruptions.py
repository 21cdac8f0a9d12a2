import numpy as np
import pytest
import torch
from torchvision.transforms.functional import adjust_brightness, gaussian_blur

from kdbench.robustness.corruptions import CORRUPTIONS, corrupted

GENERATOR = np.random.RandomState(0)
POSITIONS = np.array([3, 11, 40, 41])


def images(channels=3, size=16):
    coarse = np.random.RandomState(1).randint(30, 220, (4, channels, 4, 4))
    return coarse.repeat(size // 4, 2).repeat(size // 4, 3).astype(np.uint8)


def apply(name, some, strength, positions=POSITIONS):
    return CORRUPTIONS[name].apply(some, positions, strength)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_corruption_is_of_each_image_alone_whatever_its_batch_and_the_random_state(name, channels):
    some, strength = images(channels), CORRUPTIONS[name].small[1]
    untouched = some.copy()
    whole = apply(name, some, strength)
    np.random.seed(1)
    for i in range(4):
        assert np.array_equal(apply(name, some[i:i + 1], strength, POSITIONS[i:i + 1])[0], whole[i])
    assert whole.dtype == np.uint8 and whole.shape == some.shape and np.array_equal(some, untouched)
    assert not np.array_equal(whole, some)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [32, 128])
def test_a_corruption_changes_more_with_each_severity(name, size):
    some, corruption = images(3, size), CORRUPTIONS[name]
    distances = [np.abs(corruption.apply(some, POSITIONS, strength) - some.astype(float)).mean()
                 for strength in corruption.strengths(size)]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_strengths_are_those_of_the_reference_for_small_and_large_images():
    noise = CORRUPTIONS["gaussian_noise"]
    assert noise.strengths(32) == noise.strengths(64) == (.04, .08, .10)
    assert noise.strengths(65) == (.08, .18, .38)


def test_noise_has_its_deviation_and_other_images_have_other_noise():
    grey = np.full((4, 3, 64, 64), 128, np.uint8)
    noise = apply("gaussian_noise", grey, .08) / 255 - 128 / 255
    assert noise.std() == pytest.approx(.08, rel=.02) and abs(noise.mean()) < .001
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < .05


def test_contrast_and_brightness_by_hand():
    two = np.array([[[[50, 150]]]], np.uint8)
    assert apply("contrast", two, .4, [0]).ravel().tolist() == [80, 120]  # around 100
    colour = np.array([100, 50, 0], np.uint8).reshape(1, 3, 1, 1)
    assert apply("brightness", colour, .2, [0]).ravel().tolist() == [151, 76, 0]  # value 100 + 51: times 1.51
    assert apply("brightness", np.zeros((1, 3, 1, 1), np.uint8), .2, [0]).ravel().tolist() == [51, 51, 51]
    assert apply("brightness", colour * 2, .5, [0]).ravel().tolist() == [255, 128, 0]  # no more than white


def test_brightness_of_one_colour_scales_it_as_torchvision_does():
    colour = torch.tensor([100, 50, 20], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = adjust_brightness(colour.float() / 255, 1.51).mul(255).round()
    assert np.abs(apply("brightness", colour.numpy(), .2, [0]) - expected.numpy()).max() <= 1


def test_blur_equals_torchvision_s_away_from_the_edge():
    some = np.random.RandomState(2).randint(0, 255, (2, 3, 40, 40)).astype(np.uint8)
    ours = apply("gaussian_blur", some, 1.0, [0, 1])
    theirs = gaussian_blur(torch.from_numpy(some).double() / 255, 9, 1.0).mul(255).round().numpy()
    assert np.abs(ours - theirs)[..., 6:-6, 6:-6].max() <= 1
    assert np.all(apply("gaussian_blur", np.full((1, 1, 8, 8), 77, np.uint8), 6, [0]) == 77)


def test_jpeg_keeps_a_plain_image_and_blurs_a_busy_one_the_more_the_lower_its_quality():
    assert np.abs(apply("jpeg", np.full((1, 3, 16, 16), 99, np.uint8), 40, [0]).astype(int) - 99).max() <= 2
    busy = GENERATOR.randint(0, 255, (1, 1, 16, 16)).astype(np.uint8)
    errors = [np.abs(apply("jpeg", busy, quality, [0]).astype(int) - busy).mean() for quality in (80, 40, 7)]
    assert errors[0] < errors[1] < errors[2]


# What is kept.

@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corrupted_images_are_made_once_for_each_set_of_images_and_positions(tmp_path, monkeypatch, name):
    expected = [apply(name, images(), strength) for strength in CORRUPTIONS[name].small]
    first = corrupted(name, images(), POSITIONS, tmp_path)
    others = [corrupted(name, 255 - images(), POSITIONS, tmp_path), corrupted(name, images(), POSITIONS + 1, tmp_path)]
    assert np.array_equal(others[0][0], apply(name, 255 - images(), CORRUPTIONS[name].small[0]))
    assert len(list((tmp_path / "corrupted").iterdir())) == 3
    monkeypatch.setitem(CORRUPTIONS, name, CORRUPTIONS[name].__class__(None, *[CORRUPTIONS[name].small] * 2))
    for found in (first, corrupted(name, images(), POSITIONS, tmp_path)):
        assert np.array_equal(found, expected) and found.dtype == np.uint8


def test_large_corrupted_images_are_not_kept(tmp_path):
    large = images(3, 128)
    found = corrupted("contrast", large, POSITIONS, tmp_path)
    assert np.array_equal(found[2], apply("contrast", large, .05)) and not list(tmp_path.iterdir())


def test_images_that_another_version_of_a_package_corrupted_are_not_taken(tmp_path, monkeypatch):
    from kdbench.robustness import corruptions

    corrupted("jpeg", images(), POSITIONS, tmp_path)
    corruptions._makers.cache_clear()
    monkeypatch.setattr(corruptions, "version", lambda package: "0")
    try:
        corrupted("jpeg", images(), POSITIONS, tmp_path)
    finally:
        corruptions._makers.cache_clear()
    assert len(list((tmp_path / "corrupted").iterdir())) == 2
