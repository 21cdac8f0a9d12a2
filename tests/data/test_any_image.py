"""Image files of any content, kind and size are decoded, or refused in one line that names them."""

import io
import os
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image
from support.mutations import MUTATED, mutations

from kdbench.data import imagefolder
from kdbench.data.imagefolder import MAX_PIXELS, check_images, decode, scan
from kdbench.errors import UserError

PIXELS = np.random.RandomState(0).randint(0, 256, (12, 10, 4)).astype(np.uint8)


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert("RGB" if kind in ("JPEG", "BMP", "PPM") else "RGBA").save(file, kind)
    return file.getvalue()


def announcing(width: int, height: int) -> bytes:
    """A PNG whose header announces that many pixels."""
    content = encoded("PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_any_bytes_are_an_image_or_one_line(tmp_path, kind):
    path = tmp_path / "image.png"

    @settings(MUTATED, max_examples=150)
    @given(mutations(encoded(kind), focus=64))
    def check(damaged):
        path.write_bytes(damaged)
        try:
            assert decode(path, 6).shape == (3, 6, 6)
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error) and len(str(error)) < 1000

    check()


@pytest.fixture
def pets(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for i in range(2):
                (tmp_path / "pets" / split / name / f"{i}.png").write_bytes(encoded("PNG"))
    return tmp_path / "pets"


def test_a_pipe_or_device_among_images_is_named_and_not_waited_for(pets):
    os.mkfifo(pets / "train/cat/a.png")
    with pytest.raises(UserError, match=r"train/cat/a\.png: cannot be read as an image: it is a pipe"):
        scan(pets)
    (pets / "train/cat/a.png").unlink()
    (pets / "train/cat/a.png").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"train/cat/a\.png: cannot be read as an image: it is a pipe"):
        scan(pets)


def test_hidden_pipes_and_loops_of_folders_are_passed_over(pets):
    os.mkfifo(pets / "train/cat/.a.png")
    (pets / "train/cat/again").symlink_to(pets / "train")
    (pets / "train/cat/self").symlink_to("self")
    assert len(scan(pets).splits["train"]) == 4


@pytest.mark.parametrize("size", [(13_000, 13_000), (10_000, 10_000), (60_000, 60_000)])
def test_an_image_of_too_many_pixels_is_refused_by_name_and_size_before_it_is_decoded(pets, tmp_path, size):
    (pets / "train/cat/0.png").write_bytes(announcing(*size))
    with pytest.raises(UserError, match=r"train/cat/0\.png: cannot be read as an image: .*pixels") as error:
        check_images(scan(pets), tmp_path / "seen")
    assert "\n" not in str(error.value)
    assert str(MAX_PIXELS) in str(error.value) or size[0] == 60_000  # there Pillow refuses first


def test_large_images_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    running, most, to_rgb = [], [], imagefolder._to_rgb

    def slow(image):
        running.append(1)
        most.append(len(running))
        time.sleep(.02)
        running.pop()
        return to_rgb(image)

    monkeypatch.setattr(imagefolder, "_to_rgb", slow)
    for limit, at_once in ((PIXELS[..., 0].size, range(2, 9)), (PIXELS[..., 0].size - 1, range(1, 2))):
        monkeypatch.setattr(imagefolder, "LARGE_PIXELS", limit)
        most.clear()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: decode(tmp_path / "a.png", 4), range(16)))
        assert max(most) in at_once


MEASURE = """
import resource, sys
from pathlib import Path
from kdbench.data.imagefolder import decode
small, large = map(Path, sys.argv[1:])
decode(small, 32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode(large, 32)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16"])
def test_decoding_takes_at_most_16_bytes_for_each_pixel(tmp_path, mode):
    side, turned = 2048, Image.Exif()
    turned[0x0112] = 6  # a quarter turn, which takes a copy
    for name, size in (("small", 8), ("large", side)):
        more = {"transparency": 0} if mode == "P" else {}
        Image.new(mode, (size, size)).save(tmp_path / f"{name}.png", exif=turned, **more)
    taken = subprocess.run([sys.executable, "-c", MEASURE, tmp_path / "small.png", tmp_path / "large.png"], check=True,
                           capture_output=True, text=True).stdout
    assert int(taken) <= 16 * side**2 + (4 << 20)  # MAX_PIXELS are a gigabyte, and one at a time


def test_a_file_of_another_format_than_those_of_the_suffixes_is_refused(tmp_path):
    for kind in ("EPS", "PDF", "ICO", "TGA"):
        file = io.BytesIO()
        Image.fromarray(PIXELS[..., :3]).save(file, kind)
        (tmp_path / "a.png").write_bytes(file.getvalue())
        with pytest.raises(UserError, match="cannot identify"):
            decode(tmp_path / "a.png", 4)
    assert set(imagefolder.FORMATS) <= set(Image.registered_extensions().values())
