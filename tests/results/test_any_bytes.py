"""Records and predictions of any content are read, or refused in one line."""

import io
import json
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from support.mutations import MUTATED, mutations
from support.records import record, spec

from kdbench.errors import UserError
from kdbench.results.record import Record, decode
from kdbench.results.store import Store

RECORD = record(spec("kd"), 0.9, curves={"loss": [1.0, 0.5]}, vectors={"class_accuracy": [0.5, None]}).to_json()
UNSIGNED = json.dumps({k: v for k, v in json.loads(RECORD).items() if k != "sha256"}).encode()  # damage gets further
ARRAYS = {
    "validation_logits": np.zeros((3, 2), np.float32), "validation_labels": np.array([0, 1, 1]),
    "test_logits": np.ones((4, 2), np.float32), "test_labels": np.array([0, 1, 0, 1]),
    "train_class_counts": np.array([5, 6]), "group_attributes": np.array(["tint"]),
    "group_names": np.array([["red", "blue"]]), "test_groups": np.array([[0, 1, 1, 0]]),
    "train_group_counts": np.ones((1, 2, 2), np.int64),
}


def npz(arrays=None, compression=zipfile.ZIP_STORED, **members) -> bytes:
    """An npz file of arrays, of which `members` replace some by raw bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, array in (ARRAYS if arrays is None else arrays).items():
            file = io.BytesIO()
            np.lib.format.write_array(file, array, version=(1, 0))
            archive.writestr(f"{name}.npy", members.get(name, file.getvalue()))
    return buffer.getvalue()


def npy(header: str, content=b"") -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def read(folder, content: bytes):
    """The predictions in a file of that content, or the message that refuses it."""
    store = Store(folder)
    path = store.files.predictions("run")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    try:
        return store.read_predictions("run")
    except UserError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error) and len(str(error)) < 1000
        return str(error)


@pytest.mark.parametrize("content", [RECORD, UNSIGNED], ids=["signed", "unsigned"])
def test_any_bytes_are_a_record_or_one_line(content):
    @settings(MUTATED, max_examples=500)
    @given(mutations(content))
    def check(damaged):
        try:
            entry = decode(Record, damaged)
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
        else:
            assert decode(Record, entry.to_json()) == entry

    check()


def test_any_bytes_are_predictions_or_one_line(tmp_path):
    assert isinstance(read(tmp_path, npz()), dict)

    @settings(MUTATED, max_examples=300)
    @given(mutations(npz()))
    def check(damaged):
        read(tmp_path, damaged)

    check()


@settings(MUTATED, max_examples=300)
@given(mutations(npz({"x": ARRAYS["test_logits"]})[31 + 5:31 + 5 + 128 + 32]))
def test_any_bytes_of_an_array_are_predictions_or_one_line(tmp_path, damaged):
    read(tmp_path, npz(test_logits=damaged))  # the checksums of the zip are right


@pytest.mark.parametrize("header", [
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 10), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 10**30), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 1" + "0" * 30 + "), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 10), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -4), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }",
    "{'descr': '<U1000000000', 'fortran_order': False, 'shape': (1, 1), }",
    "(" * 5000,
])
def test_an_array_that_announces_more_than_there_is_is_refused_before_memory_is_taken(tmp_path, header):
    content = npz(test_logits=npy(header, b"\x00" * 32))
    tracemalloc.start()
    started = time.process_time()
    assert isinstance(read(tmp_path, content), str)
    assert tracemalloc.get_traced_memory()[1] < 20e6 and time.process_time() - started < 5
    tracemalloc.stop()


def test_a_compression_bomb_is_refused_before_memory_is_taken(tmp_path):
    bomb = npz({**ARRAYS, "test_logits": np.zeros((10**7, 2), np.float32)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 10**6
    tracemalloc.start()
    assert "compressed" in read(tmp_path, bomb)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_labels_without_a_logit_are_refused(tmp_path):
    assert "there are 2 classes" in read(tmp_path, npz({**ARRAYS, "test_labels": np.array([0, 1, 2, 1])}))


@pytest.mark.parametrize("depth", [100, 100_000])
def test_a_deeply_nested_record_is_one_line(depth):
    for name in ("metrics", "environment", "spec"):
        content = RECORD.replace(f'"{name}": {{'.encode(), f'"{name}": '.encode() + b'{"a":' * depth + b"{", 1)
        with pytest.raises(ValueError) as error:
            decode(Record, content)
        assert "\n" not in str(error.value)
