"""The pages of a site: what is on them, that links lead somewhere, and that nothing else is needed or told."""

import re
import shutil
from dataclasses import replace

import pytest
from support.folders import tree
from support.matrices import plugin
from support.records import record, spec
from support.sites import broken, pages, suite_folder, texts

from kdbench.analysis.build import build
from kdbench.plugins.registry import Registry
from kdbench.report.page.pieces import row_anchor
from kdbench.results.store import Store
from kdbench.site.build import publish
from kdbench.site.home import setup_told
from kdbench.site.parts import slug, without_paths
from kdbench.spec import Recipe

REAL = Registry()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the results of two suites, and the site of both."""
    place = tmp_path_factory.mktemp("made")
    one = suite_folder(place / "one", "one", pairs=("big-small", "deep-flat"))
    two = suite_folder(place / "two", "two", methods=("ce", "kd"), datasets=("fashion_mnist",))
    Store(two).write(record(spec("kd", 0, dataset="fashion_mnist", temperature=8.0), .9, suite="two"))
    Store(two).write(record(spec("at", 0, dataset="fashion_mnist"), status="crashed", reason="memory", suite="two"))
    publish([str(one), str(two)], place / "site", REAL)
    return place


def test_a_site_has_a_page_for_each_suite_method_and_pair(made):
    found = {str(path.relative_to((made / "site").resolve())) for path in pages(made / "site")}
    assert found == {"index.html", "one/index.html", "two/index.html", "pairs/big-small.html", "pairs/deep-flat.html",
                     *(f"methods/{name}.html" for name in ("ce", "kd", "at"))}


def test_every_link_and_anchor_leads_somewhere_and_nothing_is_loaded_from_elsewhere(made):
    assert broken(made / "site") == []


def test_every_page_leads_to_the_suites_and_the_first_to_every_page(made):
    known = pages(made / "site")
    home = known[(made / "site" / "index.html").resolve()]
    assert {"one/index.html", "methods/kd.html", "methods/at.html", "pairs/deep-flat.html", "data/rows.parquet"} <= set(
        home.links)
    assert all(any(link.endswith("index.html#suites") for link in page.links) for page in known.values())


def test_a_method_s_page_has_its_rows_in_all_suites_and_links_to_each(made):
    page, text = (made / "site" / "methods" / "kd.html"), (made / "site" / "methods" / "kd.html").read_text()
    board = build(made / "two", REAL)
    links = [link for link in pages(made / "site")[page.resolve()].links if "#kd" in link]
    assert len(links) == 4  # two pairs in one suite; two settings in the other
    assert f"../two/index.html#{row_anchor(board.cells[0], board.cells[0].rows[0])}" in links
    assert "Distilling the Knowledge in a Neural Network" in text and "@" in text and "<svg class=\"difference" in text


def test_a_pair_s_page_has_its_networks_its_teacher_and_a_table_for_each_cell(made):
    text = (made / "site" / "pairs" / "big-small.html").read_text()
    assert text.count("<h2>") == 2 and text.count('class="teacher"') == 2 and "big()" in text and "95.00" in text


def test_a_failed_run_stands_on_the_pages_of_its_method_and_pair(made):
    for name in ("methods/at.html", "pairs/big-small.html"):
        assert "seed 0 crashed: memory" in (made / "site" / name).read_text()


def test_the_first_page_says_which_methods_are_the_best_in_each_suite(made):
    text = (made / "site" / "index.html").read_text()
    assert text.count("With all pairs compared") == 3  # cells
    assert "3 methods on 2 pairs (big-small, deep-flat) with mnist5k: 2 epochs, batches of 8, 3 seeds." in text


def test_training_images_are_told_of_the_cells_whose_recipe_is_told(made):
    board = build(made / "one", REAL)
    compute, plain = board.cells
    compute = replace(compute, spec={**compute.spec, "own_recipe": {"epochs": 1}}, split_sizes={"train": 500})
    cells = (compute, replace(plain, split_sizes={"train": 2000}))
    assert "with mnist5k: 2 epochs, 2,000 training images, batches of 8" in setup_told(replace(board, cells=cells))


# Anchors.

def anchors(folder):
    return [row_anchor(cell, row) for cell in build(folder, REAL).cells for row in cell.rows]


def test_rows_have_anchors_of_their_own_that_further_rows_do_not_change(tmp_path):
    folder = suite_folder(tmp_path / "one", "one")
    before = anchors(folder)
    assert any(re.fullmatch(r"at@big-small@mnist5k@[0-9a-f]{8}", name) for name in before)
    store = Store(folder)
    for temperature in (8.0, 16.0):  # the label of kd's first row would change, and the order
        for seed in range(3):
            store.write(record(spec("kd", seed, dataset="mnist5k", temperature=temperature), .99, suite="one"))
    longer = Recipe(epochs=3, batch_size=8, image_size=8, lr=0.1)
    store.write(record(spec("kd", 0, dataset="mnist5k", recipe=longer), .9, suite="one"))  # a cell of the same name
    after = anchors(folder)
    assert set(before) < set(after) and len(set(after)) == len(after) == len(before) + 3


def test_the_label_of_a_row_with_settings_of_its_own_is_not_its_anchor(tmp_path):
    folder = suite_folder(tmp_path / "one", "one", methods=("ce",))
    Store(folder).write(record(spec("kd", 0, dataset="mnist5k", temperature=8.0), .9, suite="one"))
    (kd,) = (name for name in anchors(folder) if name.startswith("kd"))
    assert kd.startswith("kd(temperature=8.0)@big-small@")  # though the table calls it kd


# The same bytes, and nothing of this machine.

def test_the_same_records_give_the_same_bytes_wherever_they_lie(made, tmp_path, monkeypatch):
    for name in ("one", "two"):
        shutil.copytree(made / name, tmp_path / "elsewhere" / name)
    monkeypatch.chdir(tmp_path)
    publish(["elsewhere/one", "elsewhere/two"], tmp_path / "site", REAL)
    assert tree(tmp_path / "site") == tree(made / "site")


def test_no_path_of_a_machine_is_told(tmp_path):
    folder = suite_folder(tmp_path / "one", "one", datasets=("imagefolder:/home/somebody/photos",))
    store = Store(folder)
    store.write(record(spec("at", 7, dataset="imagefolder:/home/somebody/photos"), status="crashed", suite="one",
                       reason="no file /home/somebody/photos/a.png"))
    publish([str(folder)], tmp_path / "site", REAL)
    found = texts(tmp_path / "site")
    assert not [name for name, text in found.items() if "somebody" in text or str(tmp_path) in text]
    assert b"somebody" not in (tmp_path / "site" / "data" / "rows.parquet").read_bytes()
    assert "imagefolder:photos" in found["index.html"] and "no file a.png" in found["methods/at.html"]
    assert broken(tmp_path / "site") == []


@pytest.mark.parametrize(("text", "told"), [
    ("imagefolder:/home/me/photos+skew(0.9)", "imagefolder:photos+skew(0.9)"), ("~/runs/x/", "x"),
    ("'/tmp/a.py', line 3", "'a.py', line 3"), ("file:///home/me/x", "x"), ("imagefolder:~me/a/b", "imagefolder:b"),
    ("https://arxiv.org/abs/1503.02531", "https://arxiv.org/abs/1503.02531"),
    ("runs/quick/records", "runs/quick/records"),
    ("and/or, 3/4/5 of a/b/c", "and/or, 3/4/5 of a/b/c"), ("s3://bucket/a/b", "s3://bucket/a/b"),
    ("/home/John Doe/photos", "photos"), ("imagefolder:/srv/my,data/x", "imagefolder:x"), ("no /mnt/a=b/c", "no c"),
    ("imagefolder:/data/set(1)/train+skew(0.9)", "imagefolder:train+skew(0.9)"), ("/home/O'Brien/x", "x"),
    ("imagefolder:/data/a:b/train", "imagefolder:train"), ("/home//me/x", "x"), ("~//me/x", "x"), ("~/a b/c d/", "c d"),
    ("'/home/me/a b/c.py', line 3 of \"/home/me/it's/d.py\"", "'c.py', line 3 of \"d.py\""),
    ("copied /home/a/x to /data/b/y", "copied x to y"), ("/a/b.so:/home/me/c.so: no d/e", "b.so:c.so: no d/e"),
    ("a / b, c /d, 5 / 10 images/s", "a / b, c /d, 5 / 10 images/s"),
])
def test_of_a_path_the_last_name_is_told_and_other_texts_stay(text, told):
    assert without_paths(text) == told == without_paths(told)


# Names.

def test_names_give_pages_of_their_own_on_any_disk():
    names = ["kd", "KD", "a b", "a/b", "../x", "con.", "<b>", "é", "", "x" * 300, "x" * 301]
    slugs = [slug(name) for name in names]
    assert slugs[0] == "kd" and len({one.lower() for one in slugs}) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_][a-z0-9_.-]{0,90}", one) for one in slugs)


def test_a_method_that_is_all_markup_is_text_on_every_page(tmp_path):
    attack = "<img src=x onerror=alert(1)>"
    folder = suite_folder(tmp_path / "one", "one", methods=("ce", attack), pairs=(f"a/b {attack}",))
    publish([str(folder)], tmp_path / "site", {name: info for name, info in REAL.items() if name == "ce"})
    assert broken(tmp_path / "site") == []
    found = texts(tmp_path / "site")
    assert not [name for name, text in found.items() if name.endswith(".html") and "<img" in text]
    assert not re.search(r"<img", found["data/README.md"] + found["one/leaderboard.md"])
    assert "not installed here" in next(text for name, text in found.items() if name.startswith("methods/-img") or
                                        name.startswith("methods/img"))


def test_a_plugin_s_method_has_a_page(tmp_path):
    folder = suite_folder(tmp_path / "one", "one", methods=("ce", "mine"))
    publish([str(folder)], tmp_path / "site", Registry([plugin(tmp_path)]))
    assert "A method of the tests." in (tmp_path / "site" / "methods" / "mine.html").read_text()


# Size.

@pytest.mark.slow
def test_three_suites_of_42_methods_take_less_than_10_megabytes(tmp_path):
    methods = list(REAL)[:42]
    folders = [suite_folder(tmp_path / name, name, methods, pairs=(f"{name}-pair", "shared-pair"), classes=10)
               for name in ("one", "two", "three")]
    publish(list(map(str, folders)), tmp_path / "site", REAL)
    assert broken(tmp_path / "site") == []
    sizes = [path.stat().st_size for path in (tmp_path / "site").rglob("*") if path.is_file()]
    assert sum(sizes) < 10e6 and len(sizes) > 42
