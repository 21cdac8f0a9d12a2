"""Names of datasets, taken apart and refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from kdbench.data import catalog, collect
from kdbench.data.catalog import DATASETS, MODIFIERS, DatasetName, parse
from kdbench.errors import UserError


@pytest.mark.parametrize(("name", "expected"), [
    ("mnist5k", DatasetName("mnist5k", None)),
    ("imagefolder:my photos/all", DatasetName("imagefolder", Path("my photos/all"))),
    ("cifar10+skew(0.95)", DatasetName("cifar10", None, (("skew", 0.95),))),
    ("fashion_mnist+longtail(100)+skew(.9)", DatasetName("fashion_mnist", None, (("longtail", 100.0), ("skew", 0.9)))),
    ("imagefolder:/data/a+b (1)+skew(1)", DatasetName("imagefolder", Path("/data/a+b (1)"), (("skew", 1.0),))),
    ("imagefolder:C:/images", DatasetName("imagefolder", Path("C:/images"))),
])
def test_names_are_taken_apart(name, expected):
    assert parse(name) == expected


@pytest.mark.parametrize("name", ["mnist5k", "imagefolder:/data/a+b", "cifar100+longtail(100)+skew(0.95)"])
def test_names_are_put_together_again(name):
    assert str(parse(name)) == name


def test_equal_variants_have_one_name():
    assert str(parse("cifar10+skew(0.950)+longtail(1e2)")) == "cifar10+skew(0.95)+longtail(100)"


@pytest.mark.parametrize(("name", "message"), [
    ("mnist6k", "unknown dataset 'mnist6k'; did you mean 'mnist5k'"),
    ("fashion-mnist", "did you mean 'fashion_mnist'"),
    ("", "unknown dataset ''"),
    ("imagefolder", "write imagefolder:PATH"),
    ("imagefolder:", "write imagefolder:PATH"),
    ("mnist5k:path", "mnist5k takes no path"),
    ("mnist5k+skew", r"write a modifier as mnist5k\+skew\(0.95\)"),
    ("mnist5k+skew(0.9", "write a modifier as"),
    ("mnist5k+skwe(0.9)", "'skwe'; did you mean 'skew'"),
    ("mnist5k+skew()", "skew expects a number, got ''"),
    ("mnist5k+skew(a)", "skew expects a number, got 'a'"),
    ("mnist5k+skew(0.4)", r"skew\(0.4\) is out of range, allowed: 0.5 to 1"),
    ("mnist5k+skew(nan)", "out of range"),
    ("mnist5k+longtail(0.5)", r"out of range, allowed: 1 to 1e\+06"),
    ("mnist5k+skew(0.9)+skew(0.9)", "a modifier stands twice"),
])
def test_bad_names_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        parse(name)


def test_declarations_agree_with_themselves():
    for name, info in DATASETS.items():
        assert info.name == name and info.description and info.source and info.licence
        if name != "imagefolder":
            assert len(set(info.classes)) == len(info.classes)
            assert info.words or all(size % len(info.classes) == 0 for size in info.sizes)
    assert len(DATASETS["cifar100"].classes) == 100
    assert list(DATASETS["cifar100"].classes) == sorted(DATASETS["cifar100"].classes)
    assert all(modifier.name == name for name, modifier in MODIFIERS.items())


def test_the_list_has_a_row_of_one_form_for_each_dataset_and_variant():
    rows = catalog.rows()
    assert [row["name"] for row in rows] == [*DATASETS, "NAME+skew(VALUE)", "NAME+longtail(VALUE)"]
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    first = {"name": "mnist5k", "train": 3500, "validation": 500, "test": 1000, "classes": 10, "image": "1x28x28"}
    assert first.items() <= rows[0].items() and rows[0]["paper"] == str(DATASETS["mnist5k"].paper)
    assert rows[4]["train"] == rows[4]["classes"] == rows[4]["image"] == ""  # an image folder's depend on the files


def test_only_image_folders_have_a_fingerprint():
    assert collect.fingerprint("mnist5k+skew(0.9)") is None
    with pytest.raises(UserError, match="no such folder"):
        collect.fingerprint("imagefolder:nowhere")


def test_listing_imports_neither_torch_nor_numpy_and_checking_no_torch(cache):
    script = f"""
import sys
from pathlib import Path
from kdbench.data import catalog
catalog.parse("mnist5k+skew(0.9)")
assert not {{"torch", "numpy", "PIL"}} & set(sys.modules)
from kdbench.data import collect
collect.check("synthetic+longtail(10)", Path({str(cache)!r}), train_size=100)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_training_size_beyond_the_variant_is_refused_before_training(cache):
    collect.check("synthetic", cache, train_size=900)
    with pytest.raises(UserError, match=r"train_size: 900 is more than the 2[0-9][0-9] images"):
        collect.check("synthetic+longtail(100)", cache, train_size=900)
