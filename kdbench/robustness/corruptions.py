"""Common corruptions of images after Hendrycks and Dietterich (2019).

A corruption maps images [B, C, H, W] uint8, their positions in the test split [B] and a strength to corrupted images
[B, C, H, W] uint8, each of which depends on its own image and position only. The strengths are those of CIFAR-C, or for
larger images of ImageNet-C, at severities 1, 3 and 5.
"""

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from kdbench.data.array_cache import cached
from kdbench.environment import version
from kdbench.folders import DataFolder
from kdbench.seeds import fixed_randoms

SMALL = 64  # pixels a side, up to which images get CIFAR-C's strengths; larger ones get ImageNet-C's


@dataclass(frozen=True)
class Corruption:
    """A corruption and its strengths at severities 1, 3 and 5 for small and for large images."""

    apply: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    small: tuple[float, float, float]
    large: tuple[float, float, float]

    def strengths(self, size: int) -> tuple[float, float, float]:
        """The strengths at severities 1, 3 and 5 for images of `size` pixels a side."""
        return self.small if size <= SMALL else self.large


def gaussian_noise(images: np.ndarray, positions: np.ndarray, deviation: float) -> np.ndarray:
    """Add independent Gaussian noise to every pixel, with standard deviation `deviation` for pixels scaled to 0..1. The
    noise of an image depends on its position only."""
    noise = np.stack([random.normal(scale=deviation, size=images.shape[1:])
                      for random in fixed_randoms("noise", positions)])
    return _to_8_bit(images / 255 + noise)


def gaussian_blur(images: np.ndarray, positions: np.ndarray, sigma: float) -> np.ndarray:
    """Blur with a Gaussian of standard deviation `sigma` pixels; beyond the edge the nearest pixel is repeated."""
    from scipy.ndimage import gaussian_filter  # takes 0.2 s, and is rarely needed: corrupted images are cached

    return _to_8_bit(gaussian_filter(images / 255, (0, 0, sigma, sigma), mode="nearest"))


def contrast(images: np.ndarray, positions: np.ndarray, factor: float) -> np.ndarray:
    """Scale the difference between each pixel and its channel's mean over the image by `factor`."""
    pixels = images / 255
    mean = pixels.mean(axis=(2, 3), keepdims=True)
    return _to_8_bit((pixels - mean) * factor + mean)


def brightness(images: np.ndarray, positions: np.ndarray, shift: float) -> np.ndarray:
    """Add `shift` to the value (V) of each pixel in HSV, for pixels scaled to 0..1, up to a value of 1. Hue and
    saturation are kept, because all channels of a pixel are multiplied by the same factor."""
    pixels = images / 255
    value = pixels.max(axis=1, keepdims=True)
    raised = np.minimum(value + shift, 1)
    hue = np.divide(pixels, value, out=np.ones_like(pixels), where=value > 0)  # black has no hue and turns grey
    return _to_8_bit(hue * raised)


def jpeg(images: np.ndarray, positions: np.ndarray, quality: float) -> np.ndarray:
    """Compress to JPEG of quality `quality` and decode again."""
    return np.stack([_through_jpeg(image, int(quality)) for image in images])


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """One image [C, H, W] uint8, with one or three channels, compressed and decoded."""
    buffer = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, "JPEG", quality=quality)
    pixels = np.asarray(Image.open(buffer))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """Convert pixels in 0..1 to uint8 in 0..255; values outside are clipped."""
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)


CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": Corruption(gaussian_noise, (.04, .08, .10), (.08, .18, .38)),
    "gaussian_blur": Corruption(gaussian_blur, (.4, .7, 1), (1, 3, 6)),
    "contrast": Corruption(contrast, (.75, .4, .15), (.4, .2, .05)),
    "brightness": Corruption(brightness, (.05, .15, .3), (.1, .3, .5)),
    "jpeg": Corruption(jpeg, (80, 58, 40), (25, 15, 7)),
}


def corrupted(name: str, images: np.ndarray, positions: np.ndarray, folder: Path | None) -> np.ndarray:
    """The images [M, C, H, W] uint8 with the corruption `name` at each severity: [3, M, C, H, W] uint8. Images of up to
    SMALL pixels a side are cached in the data folder `folder`, unless that is None, because all runs on a dataset share
    them."""
    strengths = CORRUPTIONS[name].strengths(images.shape[-1])

    def corrupt() -> np.ndarray:
        return np.stack([CORRUPTIONS[name].apply(images, positions, strength) for strength in strengths])

    if folder is None or images.shape[-1] > SMALL:
        return corrupt()
    made_of = hashlib.sha256(f"{_makers()} {name} {images.shape} {positions.tolist()}".encode())
    made_of.update(np.ascontiguousarray(images).data)
    return cached(DataFolder(folder).corrupted(f"{name}-{made_of.hexdigest()[:16]}"), corrupt)


@cache
def _makers() -> str:
    """What corrupted images depend on besides the images, as text: this file, and the versions of the packages that it
    calls."""
    packages = {package: version(package) for package in ("numpy", "scipy", "pillow")}
    return f"{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()} {packages}"
