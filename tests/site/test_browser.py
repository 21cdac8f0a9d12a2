"""A site in Chromium: from a folder, and from a server below a path; nothing else is asked for."""

import functools
import http.server
import threading

import pytest
from axe_playwright_python.sync_playwright import Axe
from support.sites import suite_folder

from kdbench.plugins.registry import Registry
from kdbench.site.build import publish

pytestmark = pytest.mark.slow

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 800}
KINDS = ("index.html", "one/index.html", "methods/kd.html", "pairs/big-small.html")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site of two suites, in a folder below another, as on a server that has other things too."""
    place = tmp_path_factory.mktemp("server")
    one = suite_folder(place / "results" / "one", "one", list(Registry())[:20],
                       pairs=("big-small", "a-pair-with-a-rather-long-name-for-a-narrow-screen"), classes=10)
    two = suite_folder(place / "results" / "two", "two", datasets=("fashion_mnist",))
    publish([str(one), str(two)], place / "some" / "where", Registry())
    return place / "some" / "where"


@pytest.fixture(scope="module")
def served(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site.parents[1]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/some/where"
    server.shutdown()


@pytest.fixture(params=["file", "server"])
def base(request, site, served):
    return site.as_uri() if request.param == "file" else served


@pytest.fixture
def visit(browser):
    """Opens a page; afterwards nothing but parts of the site was asked for, all of it was there, and nothing was
    complained about."""
    opened = []

    def open_page(base, path, viewport=DESKTOP, scheme="light"):
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        page, requests, complaints = context.new_page(), [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("response", lambda response: complaints.extend([response.url] * (response.status >= 400)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{base}/{path}")
        opened.append((context, base, requests, complaints))
        return page

    yield open_page
    for context, base, requests, complaints in opened:
        context.close()
        assert complaints == []
        assert [url for url in requests if not url.startswith((f"{base}/", "data:"))] == []


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_kind_of_page_opens_as_the_system_wants_it_and_never_scrolls_sideways(
        visit, base, path, scheme, viewport):
    page = visit(base, path, viewport, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    assert page.get_attribute("html", "data-theme") == scheme
    assert page.locator("#search input:visible").count() == 1 and page.locator("#theme:visible").count() == 1


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_that_keeps_anybody_from_reading(visit, served, path, scheme, viewport):
    page = visit(served, path, viewport, scheme)  # axe reads the style anew, which no browser lets it from a disk
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    if path == KINDS[0]:
        page.fill("#search input", "kd")
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    assert len(results.response["passes"]) > 15


def test_a_reader_goes_from_the_suites_to_a_method_to_its_row_and_back(visit, base):
    page = visit(base, "index.html")
    page.click("article.suite a:text('one')")
    assert page.locator("h1").inner_text() == "Suite one"
    page.locator("#all a", has_text="dist").first.click()
    assert page.locator("h1").inner_text() == "dist"
    page.locator("tbody td a", has_text="one").first.click()
    assert "#dist@" in page.url and page.locator("h1").inner_text() == "Suite one"
    page.click(".bar a:text('Pairs')")
    assert page.url.endswith("index.html#pairs") and page.locator("#pairs a", has_text="big-small").count() == 1


def test_a_link_to_a_row_shows_and_marks_it_though_rows_were_sorted_and_filtered(visit, base):
    page = visit(base, "one/index.html")
    page.locator("#all thead button", has_text="family").click()
    page.select_option("select[name=family]", "logit")
    sign = page.locator("#all tr:visible a.here").last
    sign.click()
    assert "#" in page.url and "@" in page.url
    address = page.url
    again = visit(base, address.removeprefix(f"{base}/"), PHONE)
    row = again.locator("#all tr:target")
    assert row.count() == 1 and row.locator("a.here").get_attribute("href") == address[address.index("#"):]
    again.wait_for_function("""() => {
        const box = document.querySelector("tr:target").getBoundingClientRect();
        return box.top >= 0 && box.bottom <= innerHeight;
    }""")
    plain = again.evaluate("getComputedStyle(document.querySelector('#all tbody tr:not(:target) td')).backgroundColor")
    assert again.evaluate("getComputedStyle(document.querySelector('tr:target td')).backgroundColor") != plain


def test_a_row_that_filters_hide_is_shown_when_a_link_leads_to_it(visit, base):
    page = visit(base, "one/index.html")
    target = page.locator("#all tbody tr[id^=kd]").first.get_attribute("id")
    page.fill("input[name=search]", "nothing is called so")
    assert page.locator("#all tbody tr:visible").count() == 0
    page.evaluate("identifier => { location.hash = identifier; }", target)
    page.locator("#all tbody tr:visible").wait_for()
    assert page.locator("#all tbody tr:visible").get_attribute("id") == target


@pytest.mark.parametrize(("words", "first"), [
    ("kd", "methods/kd.html"), ("hinton distilling", "methods/kd.html"), ("Zagoruyko", "methods/at.html"),
    ("big-small", "pairs/big-small.html"), ("suite two", "two/index.html"), ("dataset-that-is-none", None)])
def test_the_search_finds_methods_pairs_suites_titles_and_authors(visit, base, words, first):
    page = visit(base, "methods/ce.html", PHONE)
    page.fill("#search input", words)
    found = page.locator("#found a")
    if first is None:
        assert found.count() == 0 and page.locator("#found").inner_text() == "Nothing found"
        return
    assert found.first.get_attribute("href") == f"../{first}"
    page.press("#search input", "Enter")
    page.wait_for_url(f"**/{first}")


def test_the_search_can_be_used_with_the_keyboard_and_closed(visit, site):
    page = visit(site.as_uri(), "index.html")
    page.fill("#search input", "distill")
    page.press("#search input", "ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement === document.querySelectorAll('#found a')[1]")
    page.keyboard.press("Escape")
    assert page.locator("#found:visible").count() == 0


def test_the_reader_s_choice_of_light_or_dark_holds_on_the_next_page(visit, base):
    page = visit(base, "index.html", scheme="light")
    page.click("#theme")
    page.click("article.suite a")
    assert page.get_attribute("html", "data-theme") == "dark"


def test_a_click_on_a_header_sorts_the_methods_of_the_first_page(visit, base):
    page = visit(base, "index.html")
    page.locator(".matrix thead button", has_text="one").first.click()
    texts = page.locator(".matrix tbody td:nth-child(3)").all_inner_texts()
    values = [float(text.split()[0]) for text in texts if text]
    assert values == sorted(values, reverse=True) and len(set(values)) > 5


def test_without_a_script_every_page_can_be_read_and_nothing_is_shown_that_does_nothing(browser, site):
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    for path in KINDS:
        page.goto(f"{site.as_uri()}/{path}")
        assert page.locator("button:visible, select:visible, input:visible").count() == 0
        assert page.locator("tbody tr:visible").count() > 2
    context.close()
