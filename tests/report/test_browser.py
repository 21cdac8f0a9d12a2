"""The report's page in Chromium, without a network."""

from dataclasses import replace

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from support.records import info, record, spec

from kdbench.plugins.registry import Registry
from kdbench.report.files import write_report
from kdbench.results.store import Store
from kdbench.spec import Architecture

pytestmark = pytest.mark.slow

ATTACK = "<img src=x onerror=\"window.attacked=1\"><script>window.attacked=1</script>"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """A report of four methods on two pairs and two datasets, a failure, and one method that is all markup."""
    folder = tmp_path_factory.mktemp("report")
    store, random = Store(folder), np.random.default_rng(0)
    for place, method in enumerate(("ce", "kd", "at", ATTACK)):
        for seed in range(2):
            for pair in ("big-small", "a-pair-with-a-rather-long-name-for-a-narrow-screen"):
                for dataset in ("fashion_mnist", "mnist5k"):
                    accuracy = .8 + place / 100 + random.uniform(0, .005)
                    run = spec(method, seed, dataset=dataset, pair=pair)
                    run = run.model_copy(update={"student": Architecture(model=pair)})  # a pair's name alone is a label
                    store.write(record(
                        run, accuracy,
                        metrics={"agreement": accuracy, "ece": .1, "worst_class_accuracy": accuracy / 2},
                        vectors={"class_accuracy": list(random.uniform(size=10)), "reliability_images": [4.0, 6.0],
                                 "reliability_correct": [2.0, 6.0], "reliability_confidence": [2.5, 5.5]},
                        curves={"validation_accuracy": [.5, accuracy]},
                        environment={"python": "3.11", "git_commit": "0123456789" * (4 + seed)}))
    store.write(record(spec("rkd"), status="crashed", reason=f"memory {ATTACK}"))
    registry = {name: replace(one, doc=f"{ATTACK} {one.doc}") for name, one in Registry().items()}
    registry[ATTACK] = info(ATTACK, "logit", doc=ATTACK)
    write_report(folder, registry)
    return folder / "index.html"


@pytest.fixture
def visit(browser, page_file):
    """Opens the page offline; afterwards no request left the file and nothing was complained about or executed."""
    opened = []

    def open_page(viewport=DESKTOP, scheme="light", fragment=""):
        context = browser.new_context(viewport=viewport, offline=True, color_scheme=scheme)
        page, requests, complaints = context.new_page(), [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(page_file.as_uri() + fragment)
        opened.append((context, page, requests, complaints))
        return page

    yield open_page
    for context, page, requests, complaints in opened:
        attacked = page.evaluate("window.attacked")
        context.close()
        assert attacked is None and complaints == []
        assert {url.split("#")[0] for url in requests if not url.startswith("data:")} == {page_file.as_uri()}


def shown(page, column):
    """What the main table's visible rows say in the column of that header."""
    return page.evaluate("""column => {
        const table = document.getElementById("all");
        const place = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent === column);
        return [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[place])
            .map(cell => (cell.querySelector("a") ?? cell).textContent.trim());
    }""", column)


def headers(page):
    return page.locator("#all thead th:visible").all_inner_texts()


def test_a_click_on_a_header_sorts_by_number_and_a_second_one_turns_it_round(visit):
    page = visit()
    button = page.locator("#all thead button", has_text="test accuracy")
    button.click()
    values = shown(page, "test accuracy, %")
    assert values[-1] == "n/a"  # of the failed one, whichever the direction
    falling = [float(value.split()[0]) for value in values[:-1]]
    assert falling == sorted(falling, reverse=True) and len(set(falling)) > 4
    button.click()
    assert [float(value.split()[0]) for value in shown(page, "test accuracy, %")[:-1]] == falling[::-1]
    assert page.locator("#all th[aria-sort=ascending]").all_inner_texts() == [button.inner_text()]
    page.locator("#all thead button", has_text="family").click()
    assert shown(page, "family") == sorted(shown(page, "family"))


def test_filters_hide_rows_and_columns_until_they_are_reset(visit):
    page = visit()
    everything, columns = len(shown(page, "method")), headers(page)
    assert everything == 17
    page.select_option("select[name=family]", "logit")
    assert set(shown(page, "family")) == {"logit"}
    page.select_option("select[name=pair]", "big-small")
    page.select_option("select[name=dataset]", "mnist5k")
    page.fill("input[name=search]", "KD")
    assert shown(page, "method") == ["kd"]
    assert page.locator("#count").inner_text() == "1 of 17 rows"
    page.select_option("select[name=metric]", "ece")
    assert "ECE, %" in headers(page) and not {"test accuracy, %", "agreement, %"} & set(headers(page))
    page.select_option("select[name=pair]", "")
    page.fill("input[name=search]", "")
    values = [float(value.split()[0]) for value in shown(page, "ECE, %")]
    assert values == sorted(values)  # the best first
    page.click("button[type=reset]")
    page.evaluate("new Promise(done => setTimeout(done))")  # the page filters anew in a timer of its own, set before
    assert len(shown(page, "method")) == everything and headers(page) == columns


def test_filters_and_order_stand_in_the_address_and_a_link_to_it_shows_them_again(visit):
    page = visit()
    page.select_option("select[name=family]", "logit")
    page.locator("#all thead button", has_text="test accuracy").click()
    fragment, rows = page.evaluate("location.hash"), shown(page, "method")
    assert "family=logit" in fragment and "sort=test_accuracy" in fragment
    again = visit(fragment=fragment)
    assert shown(again, "method") == rows and again.input_value("select[name=family]") == "logit"
    assert again.locator("#all th[aria-sort=descending]").count() == 1


def test_without_a_script_nothing_is_shown_that_does_nothing(browser, page_file):
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator("button:visible, select:visible, input:visible").count() == 0
    assert page.locator("#all tbody tr:visible").count() > 10 and page.locator("details summary:visible").count() > 3
    context.close()


def test_the_page_shows_no_backticks(visit):
    page = visit()
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert "`" not in page.evaluate("""[...document.querySelectorAll('li, dd, td, p, figcaption, caption')]
        .map(element => element.innerText).join('')""")


def test_every_plot_is_drawn(visit, page_file):
    page = visit()
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    sizes = page.evaluate("""[...document.querySelectorAll("figure svg")].map(drawing => {
        const box = drawing.getBoundingClientRect();
        return [box.width, box.height];
    })""")
    assert len(sizes) == len(list((page_file.parent / "plots").glob("*.svg"))) > 20
    assert min(min(size) for size in sizes) > 100


@pytest.mark.parametrize(("scheme", "first", "second"), [("light", "light", "dark"), ("dark", "dark", "light")])
def test_light_and_dark_follow_the_system_until_the_reader_chooses(visit, scheme, first, second):
    page = visit(scheme=scheme)

    def brightness():
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return "light" if max(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) > 127 else "dark"

    assert brightness() == first
    page.click("#theme")
    assert brightness() == second
    assert page.get_attribute("#theme", "aria-pressed") == str(second == "dark").lower()


def test_a_phone_never_scrolls_the_page_sideways(visit):
    page = visit(PHONE)
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert page.evaluate("document.getElementById('all').parentElement.scrollWidth") > PHONE["width"]  # the table does
    name = page.locator("#all tbody th").first
    before = name.bounding_box()["x"]
    page.evaluate("document.getElementById('all').parentElement.scrollLeft = 300")
    assert name.bounding_box()["x"] == before  # and keeps the methods' names in sight


def test_a_link_to_a_method_opens_what_is_said_of_it(visit):
    page = visit()
    assert page.locator("#method-kd").get_attribute("open") is None
    page.locator("#all a", has_text="kd").first.click()
    page.locator("#method-kd[open]").wait_for()
    page = visit(fragment="#method-at")
    assert page.locator("#method-at[open]").count() == 1


def test_markup_in_names_docstrings_and_reasons_is_shown_as_text(visit):
    page = visit()
    assert ATTACK in shown(page, "method")
    assert f"seed 0 crashed: memory {ATTACK}" in shown(page, "without a result")
    assert ATTACK in page.locator("#method-kd pre").text_content()
    assert page.locator("script").count() == 1
    page.locator("#all a", has_text="onerror").first.click()
    opened = page.locator("details[id^=method][open] > summary")
    assert opened.text_content().count(ATTACK) == 2  # its name, and its idea


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_that_keeps_anybody_from_reading_the_page(visit, scheme, viewport):
    page = visit(viewport, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    assert len(results.response["passes"]) > 20
