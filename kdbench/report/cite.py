"""Citations for a paper that shows results of kdbench: BibTeX entries, and a sentence in LaTeX that cites them."""

import unicodedata
from collections.abc import Iterable, Mapping

from kdbench.analysis.board import Leaderboard
from kdbench.data import catalog
from kdbench.errors import UserError, plain
from kdbench.metrics.catalog import METRICS
from kdbench.paper import Paper
from kdbench.plugins.source import Facts
from kdbench.version import __version__, address

CONFERENCES = {  # BibTeX's booktitle by venue; a venue that is not here is written unchanged
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
METRIC = "metric "  # prefix of a metric's title among names of methods and datasets
REPORT = "Technical report, "  # prefix of a technical report's venue, before the institution


def cite(leaderboard: Leaderboard) -> str:
    """The BibTeX entries of kdbench and of a leaderboard's methods, datasets and metrics, then a LaTeX sentence that
    cites them.

    Methods of which nothing is known have no reference in the sentence, and a LaTeX comment below it lists them.
    """
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
    versions = {"kdbench": (__version__,), **leaderboard.packages}  # the installed one if records name none
    packages = ", ".join(f"{name} {escape(' and '.join(versions[name]))}" + ("~\\cite{kdbench}" * (name == "kdbench"))
                         for name in versions)
    version = f"version {escape(leaderboard.version)}, " if leaderboard.version else ""
    sentence = (f"We compare {cited(methods)} on {cited(datasets)}{more} with {packages}, "
                f"suite {', '.join(map(escape, leaderboard.suites))} "
                f"({version}results \\texttt{{{leaderboard.results_hash[:16]}}})."
                + (f" Metrics of other authors: {cited(metrics)}." if metrics else "") + note)
    return "\n\n".join([*entries, sentence])


def _methods(leaderboard: Leaderboard) -> list[str]:
    """The names of the leaderboard's methods that have a finished run, sorted."""
    return sorted({row.method for cell in leaderboard.cells for row in cell.rows if row.runs})


def methods_and_datasets(leaderboard: Leaderboard) -> dict[str, Paper | None]:
    """The papers of a leaderboard's methods that have a finished run, and of its datasets, in the form of `papers`."""
    return papers(_methods(leaderboard), sorted({cell.dataset for cell in leaderboard.cells}), leaderboard.methods)


def measured(leaderboard: Leaderboard) -> dict[str, Paper | None]:
    """The papers of the metrics that some row of a leaderboard has, by the metric's title with the prefix `METRIC`.
    Metrics without a paper and the teachers' own metrics are left out."""
    names = {name for cell in leaderboard.cells for row in cell.rows for name in row.metrics}
    return {f"{METRIC}{metric.title}": metric.reference for name, metric in METRICS.items()
            if name in names and metric.reference is not None and not name.startswith("teacher_")}


def references(found: Mapping[str, Paper | None]) -> tuple[list[str], dict[str, str]]:
    """The BibTeX entries of kdbench and of each distinct paper in `found`, and the BibTeX key of each name in `found`
    that has a paper."""
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
    """The papers of methods, datasets and dataset variants ("+skew"), by name; None where no paper is known.

    `known` has what is known of methods, by name.
    """
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
    """A BibTeX entry of a kind, such as "article", with its key and its fields by name."""
    return f"@{kind}{{{key},\n" + ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items()) + "\n}"


def _key(paper: Paper) -> str:
    """The BibTeX key: first author's family name, year and the title's first word of more than three letters, in
    lower-case ASCII, such as hinton2015distilling."""
    words = [word for word in _ascii(paper.title).split() if len(word) > 3]
    family = (_ascii(paper.authors[0]).split() or ["anonymous"])[-1]  # a name without one letter of ASCII is left out
    return f"{family}{paper.year}{words[0] if words else ''}"


def _ascii(text: str) -> str:
    """The text in lower-case ASCII: letters lose their accents, and any other character that is not an ASCII letter or
    digit becomes a space."""
    plain = unicodedata.normalize("NFKD", text.lower().replace("ß", "ss").replace("ø", "o").replace("ł", "l"))
    return "".join(c if c.isascii() and c.isalnum() else "" if unicodedata.combining(c) else " " for c in plain)


def _unused(key: str, taken: set[str]) -> str:
    """The key itself if it is not taken, else the key with the first of the letters b to z that gives one not taken."""
    return next(key + suffix for suffix in ("", *"bcdefghijklmnopqrstuvwxyz") if key + suffix not in taken)


def escape(text: str) -> str:
    """The text escaped for LaTeX, on one line, with white space collapsed to single spaces."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
               **{c: f"\\{c}" for c in "&%$#_{}"}}
    return "".join(special.get(c, c) for c in plain(text))
