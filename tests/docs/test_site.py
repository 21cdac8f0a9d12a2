"""The site of the documentation: it is built without a fault, needs no network, and leaves nothing out."""

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from support.documents import ROOT, TOP, blocks
from support.programs import program

import kdbench
from kdbench.data import catalog, imagefolder
from kdbench.metrics.catalog import METRICS
from kdbench.plugins.registry import ENTRY_POINTS, Registry
from kdbench.plugins.source import FAMILIES
from kdbench.report.flat import COLUMNS
from kdbench.report.latex import HEAD
from kdbench.results.record import Record
from kdbench.spec import Recipe, RunSpec
from kdbench.suites.suite import Pair, SuiteFile, built_in_pairs, built_in_suites, load_suite
from kdbench.tune.space import check_names

DOCS = ROOT / "docs"
THEMES_OWN = {"landmark-unique"}  # the complaint of axe about its buttons that copy code
sys.path.insert(0, str(DOCS))
import reference  # noqa: E402
import words  # noqa: E402


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, in a folder below another, as on a server that has other things too."""
    root = tmp_path_factory.mktemp("server")
    ended = subprocess.run([sys.executable, DOCS / "make.py", root / "some" / "where"], capture_output=True, text=True,
                           check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return root / "some" / "where"


@pytest.fixture(scope="module")
def pages():
    return reference.pages()


# Links.

def test_the_site_is_built_without_a_fault_and_has_every_page(site, pages):
    nav = re.findall(r": (\S+)\.md$", (DOCS / "mkdocs.yml").read_text(), re.MULTILINE)
    written = {str(page.relative_to(DOCS / "pages")) for page in (DOCS / "pages").rglob("*.md")}
    assert {f"{name}.md" for name in nav} == written | set(pages) | {"index.md", "contributing.md", "changelog.md"}
    assert all((site / f"{name}.html").is_file() for name in nav)


def test_a_broken_link_stops_the_build(tmp_path):
    text = (DOCS / "make.py").read_text().replace("shutil.copytree(DOCS / \"pages\", target)", """
    shutil.copytree(DOCS / "pages", target)
    (target / "faq.md").write_text("[gone](primer.md#no-such-heading)")""")
    code = f"__file__ = {str(DOCS / 'make.py')!r}\nimport sys; sys.path.insert(0, {str(DOCS)!r})\n{text}"
    ended = subprocess.run([sys.executable, "-c", code, "--check"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "faults" in ended.stderr


@pytest.mark.parametrize("page", TOP, ids=lambda page: page.name)
def test_links_of_the_repositorys_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, heading = target.partition("#")
        if not re.match(r"https?://", target):
            linked = page.parent / path if path else page
            assert linked.exists(), target
            if heading:
                headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
                assert heading in {re.sub(r"[^\w -]", "", one).strip().lower().replace(" ", "-") for one in headings}


def test_every_link_inside_the_site_leads_to_a_file_and_a_place_in_it(site):
    found = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html") if page.name != "404.html"}
    names = {page.resolve(): set(re.findall(r'\bid="([^"]+)"', text)) for page, text in found.items()}
    checked = 0
    for page, text in found.items():
        for target in re.findall(r'\b(?:href|src)="([^"]+)"', text):
            if re.match(r"(https?|data|mailto|javascript):", target):
                continue
            path, _, place = target.partition("#")
            linked = (page.parent / path).resolve() if path else page.resolve()
            linked = linked / "index.html" if linked.is_dir() else linked
            assert linked.is_file(), f"{page.name}: {target}"
            assert not place or place == "__skip" or linked not in names or place in names[linked], f"{page}: {target}"
            checked += 1
    assert checked > 1000


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)\b[^>]*?\bsrc="([^"]+)"', text)
        loaded += [re.search(r'href="([^"]*)"', tag)[1] for tag in re.findall(r"<link\b[^>]*>", text)
                   if re.search(r'rel="?(stylesheet|icon|preload|preconnect|modulepreload)', tag)]
        assert loaded and not [one for one in loaded if re.match(r"(https?:)?//", one)], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import\s*)['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style.name


@pytest.mark.slow
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_pages_open_in_a_browser_below_a_path_can_be_read_and_ask_nobody_else(site, width, colours):
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site.parents[1]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here, wrong = f"http://127.0.0.1:{server.server_address[1]}/", []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program("chromium"),
                                              args=["--no-sandbox"] if os.geteuid() == 0 else [])
        page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=colours)
        page.on("request", lambda one: one.url.startswith((here, "data:", "blob:")) or wrong.append(one.url))
        page.on("response", lambda one: one.status < 400 or wrong.append(one.url))
        page.on("pageerror", lambda one: wrong.append(str(one)))
        for name in ("index", "primer", "tutorials/practitioner", "reference/metrics", "reference/methods-logit"):
            page.goto(f"{here}some/where/{name}.html")
            page.wait_for_load_state("networkidle")
            beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert beyond <= 0, f"{name} is {beyond} pixels wider than the window"
            found = {one["id"]: one["nodes"][0]["html"] for one in Axe().run(page).response["violations"]}
            assert not found.keys() - THEMES_OWN, found
        chromium.close()
    server.shutdown()
    assert wrong == []


# What the reference tells of.

def test_every_method_has_a_section_with_its_paper_and_hyperparameters(pages):
    for info in Registry().values():
        page = pages[f"reference/methods-{info.family}.md"]
        section = page.split(f"\n## {info.name}\n")[1].split("\n## ")[0]
        assert " ".join(info.idea.split()[:3]) in section.replace("\\", "")
        assert all(f"| `{name}` |" in section for name in info.hyperparameters)
        assert info.paper is None or not info.paper.url or f"]({info.paper.url})" in section
        assert f"[{info.name}](methods-{info.family}.md#{info.name})" in pages["reference/methods.md"]


@pytest.mark.parametrize(("page", "names"), [
    ("metrics", METRICS), ("datasets", catalog.DATASETS), ("suites", [*built_in_suites(), *built_in_pairs()]),
    ("keys", [*SuiteFile.model_fields, *Recipe.model_fields, *Pair.model_fields]),
    ("record", [*Record.__struct_fields__, *RunSpec.model_fields]), ("columns", [*METRICS]),
])
def test_a_page_names_everything_of_its_kind(page, names, pages):
    text = pages[f"reference/{page}.md"]
    missing = [name for name in names if not re.search(rf"(`|## ){re.escape(name)}(`|\n)", text)]
    assert names and not missing


def test_modifiers_columns_commands_and_functions_are_told(pages):
    assert all(f"`+{name}(VALUE)`" in pages["reference/datasets.md"] for name in catalog.MODIFIERS)
    columns = pages["reference/columns.md"]
    assert all(f"`{name}`" in columns or name.rpartition("_")[0] in METRICS for name in COLUMNS)
    commands = reference.commands()
    assert {"run", "list", "cache", "cache prune"} <= set(commands)
    assert all(f"\n## kdbench {name}\n" in pages["reference/cli.md"] for name in commands)
    assert "--teacher-cache SIZE" in pages["reference/cli.md"]
    assert all(f"## kdbench.{name}\n" in pages["reference/python.md"] for name in kdbench.__all__ if name[0] != "_")


def test_nothing_is_said_twice_or_not_at_all():
    assert reference.described_twice() == []
    assert reference.undescribed() == []
    assert set(words.FAMILY_IDEAS) == set(FAMILIES)


def test_a_comment_goes_to_the_field_that_it_stands_at():
    from declared import source_comments

    found = source_comments("class A:\n    one: int  # of one\n    two: int = 2  # of two,\n    #      and more of it\n"
                            "    # Of three.\n    three: int\n    four: int\n")
    assert found == {("A", "one"): "of one", ("A", "two"): "of two, and more of it", ("A", "three"): "Of three."}


# Blocks that are no commands.

@pytest.mark.parametrize("block", blocks("toml"), ids=lambda block: block.place)
def test_toml_is_a_suite_or_a_part_of_one_or_an_entry_point(block, tmp_path):
    content = tomllib.loads(block.text)
    if "project" in content:
        assert list(content["project"]["entry-points"]) == [ENTRY_POINTS]
        return
    text = block.text if "recipe" in content else built_in_suites()["smoke"].read_text() + "\n" + block.text
    (tmp_path / "mine.toml").write_text(text)
    suite = load_suite(str(tmp_path / "mine.toml"))
    check_names(suite.content.space, Registry(), "mine")
    for owner, values in suite.content.hyperparameters.items():
        Registry()[owner.partition("@")[0]].resolve(values)


def test_the_example_of_groups_is_read(tmp_path):
    (block,) = blocks("csv")
    (tmp_path / "groups.csv").write_text(block.text)
    listed = [line.partition(",")[0] for line in block.text.splitlines()[1:]]
    table = imagefolder._read_table(tmp_path / "groups.csv", set(listed))
    assert list(table) == listed and table["test/cat/2.jpg"] == {"lighting": "night", "camera": "phone"}


def test_the_preamble_has_the_packages_that_tables_need():
    (block,) = blocks("latex")
    assert all(package in block.text for package in re.findall(r"\\usepackage(?:\[.*?\])?\{.*?\}", HEAD))


def test_pictures_are_small():
    pictures = list((DOCS / "pages" / "images").iterdir())
    assert pictures and all(picture.stat().st_size < 200_000 for picture in pictures)


def test_the_search_finds_a_method(site):
    found = json.dumps(json.loads((Path(site) / "search.json").read_text(encoding="utf-8")))
    assert "mse_logits" in found
