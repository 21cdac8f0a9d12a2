"""A user's own images: what is found, what is refused, and how files of every kind become pixels."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench.data import imagefolder
from kdbench.data.catalog import parse
from kdbench.data.collect import check, collect, fingerprint, told
from kdbench.data.imagefolder import decode, scan
from kdbench.errors import UserError


def make(root: Path, counts: dict[str, dict[str, int]], size=(8, 8)) -> Path:
    """An image folder with this many random images by split and class."""
    random = np.random.RandomState(0)
    for split, classes in counts.items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.randint(0, 256, (*size, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i:03}.png")
    return root


@pytest.fixture
def pets(tmp_path):
    return make(tmp_path / "pets", {"train": {"cat": 20, "dog": 10}, "test": {"cat": 3, "dog": 2}})


def collected(root, cache, modifiers=""):
    return collect(parse(f"imagefolder:{root}{modifiers}"), cache)


def paths(part) -> list[str]:
    return [str(part.images[i]) for i in part.index]


# What is found.

def test_a_stratified_tenth_of_train_becomes_validation(pets, tmp_path):
    found = collected(pets, tmp_path)
    assert found.classes == ("cat", "dog")
    assert {split: np.bincount(part.labels).tolist() for split, part in found.splits.items()} == {
        "train": [18, 9], "validation": [2, 1], "test": [3, 2]}
    train, validation = paths(found.splits["train"]), paths(found.splits["validation"])
    assert len({*train, *validation}) == 30 and all("/train/" in path for path in train + validation)


def test_labels_are_those_of_the_files_folders(pets, tmp_path):
    for part in collected(pets, tmp_path).splits.values():
        assert [Path(path).parent.name for path in paths(part)] == [("cat", "dog")[label] for label in part.labels]


def test_val_beside_test_is_the_validation_split(pets, tmp_path):
    make(pets, {"val": {"cat": 1, "dog": 4}})
    splits = collected(pets, tmp_path).splits
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [30, 5, 5]
    assert all("/val/" in path for path in paths(splits["validation"]))
    assert all("/test/" in path for path in paths(splits["test"]))


def test_val_alone_is_the_test_split(pets, tmp_path):
    (pets / "test").rename(pets / "val")
    splits = collected(pets, tmp_path).splits
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [27, 3, 5]
    assert all("/val/" in path for path in paths(splits["test"]))


def test_the_first_test_images_are_of_all_classes(tmp_path):
    root = make(tmp_path / "many", {"train": {"a": 2, "b": 2}, "test": {"a": 40, "b": 40}}, size=(1, 1))
    assert 10 < collected(root, tmp_path).splits["test"].labels[:40].sum() < 30


def test_other_files_and_hidden_ones_are_passed_over(pets, tmp_path):
    before = fingerprint(f"imagefolder:{pets}")
    (pets / "train/cat/notes.txt").write_text("x")
    (pets / "train/cat/.hidden.png").write_text("x")
    (pets / "train/.cache").mkdir()
    (pets / "README").write_text("x")
    assert fingerprint(f"imagefolder:{pets}") == before
    check(f"imagefolder:{pets}", tmp_path)


def test_what_was_found_is_told_in_a_line_with_the_files_that_were_passed_over(pets, tmp_path):
    name = f"imagefolder:{pets}"
    assert told(name, check(name, tmp_path)) == (
        f"{name}: 27 training images, 9 to 18 of each of 2 classes, 3 for validation, 5 for the test")
    for file in ("a.txt", "b.txt", "c.txt", "d.txt", ".hidden"):
        (pets / "train" / "cat" / file).touch()
    assert told(name, check(name, tmp_path)).endswith(
        "; 4 files with no image's name skipped: train/cat/a.txt, train/cat/b.txt, train/cat/c.txt, ...")
    few = check(name, tmp_path, 4)
    assert told(name, few).startswith(f"{name}: 4 training images, 1 to 3 of each of 2 classes, ")
    assert " for the test, 9 or 2,000 or all for teachers; 4 files " in told(name, few, [9, 2000, None])


def test_images_in_folders_below_the_class_count(pets):
    (pets / "train/cat/more").mkdir()
    shutil.copy(pets / "train/cat/000.png", pets / "train/cat/more/000.PNG")
    assert [file.path for file in scan(pets).splits["train"] if "more" in file.path] == ["train/cat/more/000.PNG"]
    assert len(scan(pets).splits["train"]) == 31


def test_the_fingerprint_tells_names_sizes_and_attributes_but_not_places(pets, tmp_path):
    before = fingerprint(f"imagefolder:{pets}")
    copied = shutil.copytree(pets, tmp_path / "copied")
    assert fingerprint(f"imagefolder:{copied}+skew(0.9)") == before
    seen = {before}
    for change in (
        lambda: (copied / "test/cat/000.png").rename(copied / "test/cat/x.png"),
        lambda: (copied / "test/cat/x.png").write_bytes(b"longer" * 1000),
        lambda: (copied / "groups.csv").write_text("file,a\n" + "".join(
            f"{file.path},{file.label}\n" for file in scan(copied).splits["test"])),
        lambda: (copied / "groups.csv").write_text((copied / "groups.csv").read_text().replace(",0\n", ",2\n")),
    ):
        change()
        seen.add(fingerprint(f"imagefolder:{copied}"))
    assert len(seen) == 5


# What is refused.

def remove(*names):
    return lambda root: [shutil.rmtree(root / name) for name in names]


@pytest.mark.parametrize(("change", "message"), [
    (remove(""), "image folder .*pets: no such folder"),
    (remove("train"), r"pets: expected train/ and test/ or val/ in it, found test"),
    (remove("test"), r"pets: expected train/ and test/ or val/ in it, found train"),
    (remove("train", "test"), "found no folders"),
    (remove("train/cat", "train/dog"), "for each of two or more classes, found none"),
    (remove("train/dog"), "two or more classes, found cat"),
    (remove("test/dog"), "test: class folder 'dog' is missing; every split must have the classes of train/"),
    (lambda root: (root / "test/fox").mkdir(), "test: class folder 'fox' is only here"),
    (lambda root: make(root, {"val": {"cat": 1}}), "val: class folder 'dog' is missing"),
    (lambda root: [path.unlink() for path in root.glob("test/*/*")], r"test: no images \(.bmp"),
    (lambda root: [path.unlink() for path in root.glob("train/dog/*")], "train/dog: 0 images, expected at least 2"),
    (lambda root: [path.unlink() for path in root.glob("train/dog/*[1-9].png")],
     "train/dog: 1 images, expected at least 2, one of them for validation"),
    (lambda root: (root / "test/cat/link.png").symlink_to("nowhere"), "link.png: cannot be read as an image"),
])
def test_folders_that_are_no_dataset_are_refused(pets, tmp_path, change, message):
    change(pets)
    with pytest.raises(UserError, match=message):
        check(f"imagefolder:{pets}", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_one_image_of_a_class_is_enough_where_validation_comes_along(pets, tmp_path):
    make(pets, {"val": {"cat": 1, "dog": 1}})
    for path in pets.glob("train/dog/*[1-9].png"):
        path.unlink()
    check(f"imagefolder:{pets}", tmp_path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize("damage", [truncate, lambda path: path.write_bytes(b""),
                                    lambda path: path.write_text("no image")])
@pytest.mark.parametrize("name", ["train/cat/007.png", "test/dog/001.png"])
def test_a_broken_image_is_named_before_anything_trains(pets, tmp_path, damage, name):
    damage(pets / name)
    with pytest.raises(UserError, match=f"{name}: cannot be read as an image"):
        check(f"imagefolder:{pets}", tmp_path)


def test_several_broken_images_are_named_at_once_in_their_order_each_with_what_is_wrong(pets, tmp_path):
    (pets / "test/dog/000.png").write_text("no image")
    for i in (9, 3):
        truncate(pets / f"train/cat/00{i}.png")
    with pytest.raises(UserError) as error:
        check(f"imagefolder:{pets}", tmp_path)
    said = str(error.value)
    assert said.startswith(f"image folder {pets}: 3 images cannot be read: {pets}/train/cat/003.png: cannot be read as")
    assert [said.index(name) for name in ("cat/003.png", "cat/009.png", "dog/000.png")] == sorted(
        said.index(name) for name in ("cat/003.png", "cat/009.png", "dog/000.png"))
    assert said.count("cannot be read as an image: ") == 3 and "more" not in said and "\n" not in said


@pytest.mark.parametrize("damage", [truncate, lambda path: (path.unlink(), path.symlink_to("nowhere"))])
def test_of_many_broken_images_five_are_named_and_the_others_counted(pets, tmp_path, damage):
    for i in range(7):
        damage(pets / f"train/cat/00{i}.png")
    with pytest.raises(UserError, match=r"7 images cannot be read: .*; and 2 more$") as error:
        check(f"imagefolder:{pets}", tmp_path)
    assert [f"cat/00{i}.png" in str(error.value) for i in range(7)] == [True] * 5 + [False] * 2
    assert not list(tmp_path.glob("checked/*")), "they are looked at again"


def test_images_that_were_mended_are_no_longer_named(pets, tmp_path):
    for i in (3, 5):
        truncate(pets / f"train/cat/00{i}.png")
    with pytest.raises(UserError, match="2 images"):
        check(f"imagefolder:{pets}", tmp_path)
    for i in (3, 5):
        shutil.copy(pets / "train/cat/000.png", pets / f"train/cat/00{i}.png")
    check(f"imagefolder:{pets}", tmp_path)


def test_of_large_folders_only_the_heads_are_read(pets, tmp_path, monkeypatch):
    monkeypatch.setattr(imagefolder, "DECODE_ALL", 0)
    truncate(pets / "train/cat/003.png")
    check(f"imagefolder:{pets}", tmp_path)
    (pets / "train/cat/004.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="cat/004"):
        check(f"imagefolder:{pets}", tmp_path)


def test_images_are_checked_once_until_they_change(pets, tmp_path, monkeypatch):
    check(f"imagefolder:{pets}", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(imagefolder, "decode", None)
        check(f"imagefolder:{pets}", tmp_path)
    path = pets / "train/cat/003.png"
    content = path.read_bytes()
    path.write_bytes(content[:-30] + bytes(30))  # as long as before
    os.utime(path, ns=(0, 0))
    with pytest.raises(UserError, match="cat/003"):
        check(f"imagefolder:{pets}", tmp_path)


# Attributes.

def write_groups(root, text):
    (root / "groups.csv").write_text(text)


TEST_FILES = [f"test/cat/00{i}.png" for i in range(3)] + [f"test/dog/00{i}.png" for i in range(2)]
TEST_ROWS = "".join(f"{file},{'red' if file[-5] == '0' else 'blue'},{file[-5]}\n" for file in TEST_FILES)


def test_attributes_come_with_their_images(pets, tmp_path):
    write_groups(pets, "file,collar,number\n" + TEST_ROWS)
    found = collected(pets, tmp_path)
    assert found.group_names == {"collar": ("blue", "red"), "number": ("0", "1", "2")}
    test = found.splits["test"]
    for path, collar, number in zip(paths(test), test.groups["collar"], test.groups["number"], strict=True):
        assert ("blue", "red")[collar] == ("red" if path[-5] == "0" else "blue")
        assert path[-5] == str(number)
    assert found.splits["train"].groups == found.splits["validation"].groups == {}


def test_attributes_of_train_reach_validation(pets, tmp_path):
    rows = "".join(f"train/{path.parent.name}/{path.name},{path.stem},x\n" for path in pets.glob("train/*/*"))
    write_groups(pets, "file,collar,number\n" + TEST_ROWS + rows)
    found = collected(pets, tmp_path)
    for split in ("train", "validation"):
        part = found.splits[split]
        assert [Path(path).stem for path in paths(part)] == \
               [found.group_names["collar"][code] for code in part.groups["collar"]]


@pytest.mark.parametrize(("text", "message"), [
    ("", r"groups.csv:1: expected the column 'file' and then attributes, each once, found nothing"),
    ("path,a\n", "groups.csv:1: expected the column 'file'"),
    ("file\n", "expected the column 'file' and then attributes"),
    ("file,a,a\n", "each once"),
    ("file,a,\n", "each once"),
    ("file,a\n", "lists no images"),
    ("file,a\ntest/cat/000.png,x\ntest/cat/9.png,x\n", "groups.csv:3: no image 'test/cat/9.png' in .*pets"),
    ("file,a\ntest/cat/000.png,x\ntest/cat/000.png,y\n", "groups.csv:3: 'test/cat/000.png' is listed twice"),
    ("file,a\ntest/cat/000.png,\n", "groups.csv:2: expected a value for each of file, a"),
    ("file,a\ntest/cat/000.png\n", "groups.csv:2: expected a value for each"),
    ("file,a\ntest/cat/000.png,x,y\n", "groups.csv:2: expected a value for each"),
    ("file,a\ntest/cat/000.png,x\n", "'test/cat/001.png' is not listed, nor are 3 other images"),
    ("file,a,b\n" + TEST_ROWS + "train/cat/000.png,x,x\n", "'train/cat/001.png' is not listed, nor are 28 other"),
    ('file,a\n"test/cat/000.png,x\n', "cannot be read as a table"),
])
def test_bad_tables_of_attributes_are_refused(pets, tmp_path, text, message):
    write_groups(pets, text)
    with pytest.raises(UserError, match=message):
        check(f"imagefolder:{pets}", tmp_path)


def test_an_attribute_named_tint_cannot_be_skewed(pets, tmp_path):
    write_groups(pets, "file,tint,number\n" + TEST_ROWS)
    check(f"imagefolder:{pets}", tmp_path)
    with pytest.raises(UserError, match="has a column 'tint', which skew adds"):
        check(f"imagefolder:{pets}+skew(0.9)", tmp_path)


# Pixels.

def saved(tmp_path, image, name="image.png", **options) -> Path:
    image.save(tmp_path / name, **options)
    return tmp_path / name


def grey(level: int, mode: str, size=(6, 6)) -> Image.Image:
    return Image.new("L", size, level).convert(mode)


@pytest.mark.parametrize("image", [
    grey(255, "1"), grey(200, "L"), grey(200, "P"), grey(200, "RGB"), grey(200, "CMYK"),
    Image.new("LA", (6, 6), (200, 255)), Image.new("RGBA", (6, 6), (200, 200, 200, 255)),
    Image.fromarray(np.full((6, 6), 200 * 256 + 77, np.uint16)),
], ids=["1", "L", "P", "RGB", "CMYK", "LA", "RGBA", "16-bit"])
def test_every_mode_becomes_rgb(tmp_path, image):
    name = "image.tif" if image.mode == "CMYK" else "image.png"
    pixels = decode(saved(tmp_path, image, name), 6)
    assert pixels.shape == (3, 6, 6) and pixels.dtype == np.uint8
    assert (pixels == (255 if image.mode == "1" else 200)).all()


def test_16_bit_ramps_keep_their_order(tmp_path):
    ramp = np.tile(np.arange(0, 65536, 256, np.uint16), (256, 1))
    assert (decode(saved(tmp_path, Image.fromarray(ramp)), 256)[0, 0] == np.arange(256)).all()


def test_what_is_transparent_is_white(tmp_path):
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert (decode(saved(tmp_path, image), 4) == 255).all()
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 128))  # half of it and half of white
    assert np.abs(decode(saved(tmp_path, image), 4)[:, 0, 0].astype(int) - [132, 137, 142]).max() <= 1
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30])
    assert (decode(saved(tmp_path, palette, transparency=0), 4) == 255).all()


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    file = saved(tmp_path, grey(50, "L"), "image.gif", save_all=True, append_images=[grey(200, "L")])
    assert (decode(file, 6) == 50).all()


def test_images_are_turned_upright(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0] = 255  # a white top row
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to view": the top comes to the right
    turned = decode(saved(tmp_path, image, exif=exif), 4)
    assert (turned[0, :, -1] == 255).all() and (turned[0, :, :-1] == 0).all()


@pytest.mark.parametrize("shape", [(4, 10), (10, 4), (5, 4)])
def test_the_middle_is_cut_out(tmp_path, shape):
    pixels = np.random.RandomState(0).randint(0, 256, (*shape, 3)).astype(np.uint8)
    pixels = np.repeat(np.repeat(pixels, 2, 0), 2, 1)
    top, left = shape[0] - 4, shape[1] - 4
    middle = pixels[top:top + 8, left:left + 8].transpose(2, 0, 1)
    assert (decode(saved(tmp_path, Image.fromarray(pixels)), 8) == middle).all()


def test_shrinking_averages_over_the_pixels_it_leaves_out(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    assert np.abs(decode(saved(tmp_path, Image.fromarray(stripes)), 8).astype(int) - 127.5).max() < 8


def test_any_shape_comes_out_square(tmp_path):
    for size in ((1, 1), (3, 50), (300, 7)):
        assert decode(saved(tmp_path, grey(9, "RGB", size)), 16).shape == (3, 16, 16)


def test_pixels_without_a_known_range_are_refused(tmp_path):
    file = saved(tmp_path, Image.fromarray(np.ones((4, 4), np.float32)), "image.tif")
    with pytest.raises(UserError, match=r"image\.tif: cannot be read as an image: 32 bits per pixel"):
        decode(file, 4)


def test_a_long_tail_is_the_same_share_of_each_class_where_a_split_lacks_the_last_one(tmp_path):
    classes = {"cat": 8, "dog": 8}
    root = make(tmp_path / "pets", {"train": {**classes, "eel": 8}, "val": {**classes, "eel": 0},
                                    "test": {**classes, "eel": 8}})
    splits = collect(parse(f"imagefolder:{root}+longtail(4)"), tmp_path).splits
    assert {name: np.bincount(part.labels).tolist() for name, part in splits.items()} == {
        "train": [8, 4, 2], "validation": [8, 4], "test": [8, 8, 8]}
