"""What a paper that shows a table has to cite: BibTeX of kdbench, the methods and the datasets, and a sentence."""

import unicodedata
from collections.abc import Iterable, Mapping

from kdbench.analysis.board import Leaderboard
from kdbench.data import catalog
from kdbench.errors import UserError, plain
from kdbench.metrics.catalog import METRICS
from kdbench.paper import Paper
from kdbench.plugins.source import Facts
from kdbench.version import __version__, address

CONFERENCES = {  # as BibTeX's booktitle; any other venue is written as it stands
    "AAAI": "Proceedings of the AAAI Conference on Artificial Intelligence",
    "CVPR": "IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)",
    "ECCV": "European Conference on Computer Vision (ECCV)",
    "ICCV": "IEEE/CVF International Conference on Computer Vision (ICCV)",
    "ICLR": "International Conference on Learning Representations (ICLR)",
    "ICML": "International Conference on Machine Learning (ICML)",
    "IJCAI": "International Joint Conference on Artificial Intelligence (IJCAI)",
    "NeurIPS": "Advances in Neural Information Processing Systems (NeurIPS)",
}
JOURNALS = ("IJCV", "JMLR", "Monthly Weather Review", "Neural Networks", "Neurocomputing", "Proceedings of the IEEE",
            "TMLR", "TPAMI")
METRIC = "metric "  # before the title of a metric, among names of methods and datasets
REPORT = "Technical report, "  # what the venue of a technical report begins with, before its institution


def cite(leaderboard: Leaderboard) -> str:
    """The BibTeX entries of a leaderboard's methods, datasets and metrics, then a sentence in LaTeX that cites them. It
    names methods of which nothing is known without a reference."""
    methods = _methods(leaderboard)
    datasets = sorted({cell.dataset for cell in leaderboard.cells})
    metrics = measured(leaderboard)
    entries, keys = references(methods_and_datasets(leaderboard) | metrics)

    def cited(names: Iterable[str]) -> str:
        return ", ".join(escape(name.removeprefix(METRIC)) + (f"~\\cite{{{keys[name]}}}" if name in keys else "")
                         for name in names)

    absent = [name for name in methods if name not in leaderboard.methods]
    note = f"\n% Not known here, so without a reference: {', '.join(map(escape, absent))}" if absent else ""
    variants = sorted(name for name in keys if name.startswith("+"))
    more = f" (variants: {cited(variants)})" if variants else ""
    versions = {"kdbench": (__version__,), **leaderboard.packages}  # of records that name none: the installed one
    packages = ", ".join(f"{name} {escape(' and '.join(versions[name]))}" + ("~\\cite{kdbench}" * (name == "kdbench"))
                         for name in versions)
    version = f"version {escape(leaderboard.version)}, " if leaderboard.version else ""
    sentence = (f"We compare {cited(methods)} on {cited(datasets)}{more} with {packages}, "
                f"suite {', '.join(map(escape, leaderboard.suites))} "
                f"({version}results \\texttt{{{leaderboard.results_hash[:16]}}})."
                + (f" Metrics of other authors: {cited(metrics)}." if metrics else "") + note)
    return "\n\n".join([*entries, sentence])


def _methods(leaderboard: Leaderboard) -> list[str]:
    """The methods that have a result."""
    return sorted({row.method for cell in leaderboard.cells for row in cell.rows if row.runs})


def methods_and_datasets(leaderboard: Leaderboard) -> dict[str, Paper | None]:
    """The papers of a leaderboard's methods with a result, and of its datasets, as `papers` gives them."""
    return papers(_methods(leaderboard), sorted({cell.dataset for cell in leaderboard.cells}), leaderboard.methods)


def measured(leaderboard: Leaderboard) -> dict[str, Paper | None]:
    """The papers of the metrics that a leaderboard has, by the metric's title behind `METRIC`."""
    names = {name for cell in leaderboard.cells for row in cell.rows for name in row.metrics}
    return {f"{METRIC}{metric.title}": metric.reference for name, metric in METRICS.items()
            if name in names and metric.reference is not None and not name.startswith("teacher_")}


def references(found: Mapping[str, Paper | None]) -> tuple[list[str], dict[str, str]]:
    """The BibTeX entries of kdbench and of each paper once, and the papers' BibTeX keys by the names in `found`."""
    keys: dict[str, tuple[str, Paper]] = {}
    entries = [_software()]
    for name, paper in found.items():
        if paper is not None:
            key = next((k for k, p in keys.values() if p == paper), None)
            if key is None:
                key = _unused(_key(paper), {k for k, _ in keys.values()})
                entries.append(_entry(key, paper))
            keys[name] = key, paper
    return entries, {name: key for name, (key, _) in keys.items()}


def papers(methods: Iterable[str], datasets: Iterable[str], known: Mapping[str, Facts]) -> dict[str, Paper | None]:
    """The papers by name of method, dataset and dataset variant ("+skew"); None where no paper is known."""
    found = {name: known[name].paper if name in known else None for name in methods}
    for dataset in datasets:
        try:
            parsed = catalog.parse(dataset)
        except UserError:
            found[dataset] = None
            continue
        found[dataset] = parsed.info.paper
        found |= {f"+{name}": catalog.MODIFIERS[name].paper for name, _ in parsed.modifiers}
    return found


def _software() -> str:
    """The entry of kdbench itself, the same as in CITATION.cff."""
    home = address()
    return _fields("software", "kdbench", {
        "title": "{kdbench: a reproducible benchmark of knowledge distillation for image classification}",
        "author": "{The kdbench developers}", "version": __version__, "year": "2026",
        **({"url": home} if home else {}),
    })


def _entry(key: str, paper: Paper) -> str:
    kind, venue = "inproceedings", {"booktitle": escape(CONFERENCES.get(paper.venue, paper.venue))}
    if paper.venue == "arXiv":
        kind, venue = "misc", {}
    elif paper.venue in JOURNALS:
        kind, venue = "article", {"journal": escape(paper.venue)}
    elif paper.venue.startswith(REPORT):
        kind, venue = "techreport", {"institution": escape(paper.venue.removeprefix(REPORT))}
    return _fields(kind, key, {
        "title": f"{{{escape(paper.title)}}}",  # the inner braces keep the capitals
        "author": " and ".join(escape(author) for author in paper.authors),
        **venue, "year": str(paper.year),
        **({"eprint": paper.arxiv, "archiveprefix": "arXiv"} if paper.arxiv else {}),
        **({"doi": paper.doi} if paper.doi else {}),
    })


def _fields(kind: str, key: str, fields: Mapping[str, str]) -> str:
    """A BibTeX entry."""
    return f"@{kind}{{{key},\n" + ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items()) + "\n}"


def _key(paper: Paper) -> str:
    """The BibTeX key: first author's family name, year and the title's first word of more than three letters, in
    lower-case ASCII, such as hinton2015distilling."""
    words = [word for word in _ascii(paper.title).split() if len(word) > 3]
    return f"{_ascii(paper.authors[0]).split()[-1]}{paper.year}{words[0] if words else ''}".replace(" ", "")


def _ascii(text: str) -> str:
    """The text in lower-case ASCII, with spaces for characters that are no letters or digits."""
    plain = unicodedata.normalize("NFKD", text.lower().replace("ß", "ss").replace("ø", "o").replace("ł", "l"))
    return "".join(c if c.isascii() and c.isalnum() else "" if unicodedata.combining(c) else " " for c in plain)


def _unused(key: str, taken: set[str]) -> str:
    """The key, with the first of the letters b to z that makes it differ from those taken, if it needs one."""
    return next(key + suffix for suffix in ("", *"bcdefghijklmnopqrstuvwxyz") if key + suffix not in taken)


def escape(text: str) -> str:
    """Any text as LaTeX, with single spaces for white space."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
               **{c: f"\\{c}" for c in "&%$#_{}"}}
    return "".join(special.get(c, c) for c in plain(text))
