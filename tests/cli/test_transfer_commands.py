"""Images without labels from the command line: a user's folder to a table, and one line for what cannot be."""

import numpy as np
import pytest
from PIL import Image

from kdbench.data.catalog import parse
from kdbench.data.collect import collect

SHORT = ("--seeds", 1, "--set", "recipe.epochs=1", "--set", "recipe.train_size=100", "--workers", 2)


@pytest.fixture
def pool(tmp_path):
    folder = tmp_path / "pool/nested"
    folder.mkdir(parents=True)
    for i in range(20):
        pixels = np.random.RandomState(i).randint(0, 256, (20, 20, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "pool"


def test_a_folder_teaches_methods_that_can_learn_from_it_and_plain_training_is_the_control(kdbench, pool):
    code, out, err = kdbench("run", "smoke", "--methods", "ce,kd,sp", *SHORT, "--set",
                             'transfer.images=["none", "imagefolder:pool"]', "--set", "transfer.share=1.0")
    assert code == 0, err
    assert "100 for teachers; 20 without labels" in out and "n/a  sp" in out and "no batch has a labelled image" in out
    assert "5 now, 0 failed, 1 not applicable" in out
    assert "(unlabelled images: imagefolder:pool, 100% of a batch)" in out
    table = out[out.index("What images without labels buy"):].splitlines()
    assert "pool 100%" in table[1]
    (plain,) = (line for line in table if line.startswith("ce "))
    assert plain.split()[-1] == "same"


@pytest.mark.parametrize("command", ["run", "tune"])
def test_a_folder_with_a_test_image_is_refused_in_a_line_before_anything_is_written(command, kdbench, pool, cache,
                                                                                    tmp_path):
    part = collect(parse("synthetic"), cache / "data").splits["test"]
    Image.fromarray(part.images[part.index[0]].transpose(1, 2, 0)).save(pool / "mine.png")
    code, _, err = kdbench(command, "smoke", "--methods", "ce,kd", "--set", "recipe.train_size=100",
                             "--set", "transfer.images=imagefolder:pool")
    assert code == 2 and err.count("\n") == 1 and "mine.png is an image of the test split of synthetic" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("setting, message", [
    ("transfer.images=ret", "settings: transfer.images: unknown source of images without labels 'ret'"),
    ("transfer.images=imagefolder:nowhere", "settings: transfer.images: image folder nowhere: no such folder"),
    ("transfer.share=2", "settings: transfer.share: expected more than 0 and at most 1, got 2"),
    ("transfer.size=0", "settings: transfer.size: expected at least 1, got 0"),
    ("transfer.part=0.5", "settings: transfer.part: unknown key"),
    ("transfer.images=rest", "'rest' is what recipe.train_size leaves over of the training split, and it is not given"),
])
def test_a_mistake_is_one_line(setting, message, kdbench, tmp_path):
    code, _, err = kdbench("run", "smoke", "--methods", "ce,kd", "--set", setting)
    assert code == 2 and err.count("\n") == 1 and message in err
    assert not (tmp_path / "runs").exists()
