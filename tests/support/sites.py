"""Folders of results of imaginary suites, to publish; and a site's pages as a browser resolves them."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
from support.records import record, spec, teacher_spec

from kdbench.results.store import Store
from kdbench.spec import Architecture


def suite_folder(folder: Path, suite: str, methods=("ce", "kd", "at"), pairs=("big-small",), datasets=("mnist5k",),
                 seeds=3, classes=0) -> Path:
    """A folder with finished runs of a suite, whose accuracies differ by method; with so many classes, by class too."""
    store, random = Store(folder), np.random.default_rng(0)
    for pair in pairs:
        for dataset in datasets:
            store.write(record(teacher_spec(dataset, pair=pair), .95, role="teacher", suite=suite))
            for place, method in enumerate(methods):
                for seed in range(seeds):
                    accuracy = .8 + place / 400 + random.uniform(0, .01)
                    details = {
                        "vectors": {"class_accuracy": list(random.uniform(.5, 1, classes)),
                                    "reliability_images": list(random.uniform(0, 50, 15)),
                                    "reliability_correct": list(random.uniform(0, 1, 15)),
                                    "reliability_confidence": list(random.uniform(1, 2, 15))},
                        "curves": {"validation_accuracy": list(random.uniform(.5, accuracy, 20))},
                    } if classes else {}
                    run = spec(method, seed, dataset=dataset, pair=pair)  # whose pair's name alone is a label
                    run = run.model_copy(update={"student": Architecture(model=student_of(pair))})
                    store.write(record(
                        run, accuracy, suite=suite,
                        metrics={"agreement": accuracy, "ece": .1, "worst_class_accuracy": accuracy / 2,
                                 "nll": random.uniform(), "brier": random.uniform(0, .5)},
                        environment={"python": "3.11", "cpu": "a CPU"}, **details))
    return folder


def student_of(pair: str) -> str:
    return "small" if pair == "big-small" else f"small_{len(pair)}"


class Page(HTMLParser):
    """What a page links to and loads, and what can be linked to on it."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "a":
            self.links.append(given["href"])
        self.loaded += [given[name] for name in ("src", "srcset", "poster", "data") if name in given]
        if tag != "a" and "href" in given:
            self.loaded.append(given["href"])


def pages(site: Path) -> dict[Path, Page]:
    return {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}


def broken(site: Path) -> list[str]:
    """Every link and address on a site's pages that leads to no file or id of it, but for plain links to the web."""
    found, known = [], pages(site)
    for path, page in known.items():
        for address in (*page.links, *page.loaded):
            parts = urlsplit(address)
            if parts.scheme in ("http", "https") and address in page.links:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            inside = target.is_relative_to(site.resolve())
            fragment = unquote(parts.fragment)
            if parts.scheme or parts.netloc or address.startswith("/") or not inside or not target.is_file():
                if not address.startswith("data:"):
                    found.append(f"{path.name}: {address}")
            elif fragment and fragment not in known[target].ids:
                found.append(f"{path.name}: {address}: no such id")
        found += [f"{path.name}: two of {name}" for name in set(page.ids) if page.ids.count(name) > 1]
    return found


def texts(site: Path) -> dict[str, str]:
    """The text of every file of a site that is text."""
    return {str(path.relative_to(site)): path.read_text(encoding="utf-8") for path in sorted(site.rglob("*"))
            if path.is_file() and not re.search(r"\.(parquet|tar)$", path.name)}
