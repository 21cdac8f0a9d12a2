"""Arrays that are slow to make are kept in files, and made anew where such a file is damaged."""

import hashlib
import io

import numpy as np
import pytest

from kdbench.data.array_cache import PIECE, cached


def test_an_array_is_built_once_and_kept(tmp_path):
    builds = []

    def build():
        builds.append(1)
        return np.arange(12, dtype=np.uint8).reshape(3, 4).T  # not contiguous

    for _ in range(3):
        assert (cached(tmp_path / "new" / "array", build) == np.arange(12).reshape(3, 4).T).all()
    assert len(builds) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["array"]


@pytest.mark.parametrize("array", [
    np.arange(PIECE + 3, dtype=np.uint8), np.ones((0, 3)), np.arange(6).reshape(2, 3)])
def test_a_file_holds_the_digest_of_the_array_and_then_numpy_s_own_format(tmp_path, array):
    expected = io.BytesIO()
    np.save(expected, array)
    cached(tmp_path / "array", lambda: array)
    digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).digest()
    assert (tmp_path / "array").read_bytes() == digest + expected.getvalue()


@pytest.mark.parametrize("damage", [
    lambda content: content[:-1] + bytes([content[-1] ^ 1]), lambda content: content[:-5], lambda content: b"",
    lambda content: content[:32] + b"no array", lambda content: content[:20],
])
def test_a_damaged_array_is_made_anew(tmp_path, damage):
    file = tmp_path / "array"
    cached(file, lambda: np.arange(5))
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert cached(file, lambda: np.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert file.read_bytes() == whole


def test_an_array_of_another_shape_is_not_taken_for_it(tmp_path):
    file = tmp_path / "array"
    cached(file, lambda: np.zeros((2, 3), np.uint8))
    file.write_bytes(file.read_bytes().replace(b"(2, 3)", b"(3, 2)"))
    assert cached(file, lambda: np.ones(1)).tolist() == [1]


def test_an_array_that_cannot_be_kept_is_still_given(tmp_path):
    (tmp_path / "file").touch()
    assert cached(tmp_path / "file" / "array", lambda: np.ones(1)).tolist() == [1]
