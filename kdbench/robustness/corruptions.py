"""Common corruptions of 8-bit images after Hendrycks and Dietterich (2019), each image by itself. Free of torch.

A corruption maps images [B, C, H, W] uint8, their positions in the test split [B], and a strength to the same kind of
images. Strengths are the reference's for CIFAR-C or ImageNet-C at severities 1, 3 and 5.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from kdbench.seeds import fixed_random

SMALL = 64  # pixels: up to here CIFAR-C's strengths, ImageNet-C's above


@dataclass(frozen=True)
class Corruption:
    apply: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    small: tuple[float, float, float]
    large: tuple[float, float, float]

    def strengths(self, size: int) -> tuple[float, float, float]:
        """At severities 1, 3 and 5, for images of `size` pixels a side."""
        return self.small if size <= SMALL else self.large


def gaussian_noise(images: np.ndarray, positions: np.ndarray, deviation: float) -> np.ndarray:
    """Independent noise on every pixel, of `deviation` for pixels in 0..1; an image's depends on its position alone."""
    noise = np.stack([fixed_random("noise", str(position)).normal(scale=deviation, size=images.shape[1:])
                      for position in positions])
    return _to_8_bit(images / 255 + noise)


def gaussian_blur(images: np.ndarray, positions: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian window of `sigma` pixels; beyond the edge the nearest pixel goes on."""
    return _to_8_bit(gaussian_filter(images / 255, (0, 0, sigma, sigma), mode="nearest"))


def contrast(images: np.ndarray, positions: np.ndarray, factor: float) -> np.ndarray:
    """Distances to the mean of each channel of an image, times `factor`."""
    pixels = images / 255
    mean = pixels.mean(axis=(2, 3), keepdims=True)
    return _to_8_bit((pixels - mean) * factor + mean)


def brightness(images: np.ndarray, positions: np.ndarray, shift: float) -> np.ndarray:
    """`shift` more of value in HSV, at the same hue and saturation: all channels are scaled alike."""
    pixels = images / 255
    value = pixels.max(axis=1, keepdims=True)
    raised = np.minimum(value + shift, 1)
    hue = np.divide(pixels, value, out=np.ones_like(pixels), where=value > 0)  # black has none: it turns grey
    return _to_8_bit(hue * raised)


def jpeg(images: np.ndarray, positions: np.ndarray, quality: float) -> np.ndarray:
    """To JPEG and back."""
    return np.stack([_through_jpeg(image, int(quality)) for image in images])


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, "JPEG", quality=quality)
    pixels = np.asarray(Image.open(buffer))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _to_8_bit(pixels: np.ndarray) -> np.ndarray:
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)


CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": Corruption(gaussian_noise, (.04, .08, .10), (.08, .18, .38)),
    "gaussian_blur": Corruption(gaussian_blur, (.4, .7, 1), (1, 3, 6)),
    "contrast": Corruption(contrast, (.75, .4, .15), (.4, .2, .05)),
    "brightness": Corruption(brightness, (.05, .15, .3), (.1, .3, .5)),
    "jpeg": Corruption(jpeg, (80, 58, 40), (25, 15, 7)),
}
