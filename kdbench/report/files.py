"""A leaderboard as text in a chosen format, and the report: every format, the plots and one page, as files.

The same records give the same bytes, except for plots that are drawn by another version of matplotlib.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdbench.analysis.board import Leaderboard
from kdbench.analysis.build import build
from kdbench.analysis.details import read_details
from kdbench.disk import atomic_write
from kdbench.errors import unknown
from kdbench.plugins.registry import Registry
from kdbench.report.flat import runs_to_csv, to_csv, to_json
from kdbench.report.latex import to_latex
from kdbench.report.markdown import to_markdown
from kdbench.results.store import Store

FORMATS: dict[str, Callable[[Leaderboard], str]] = {"md": to_markdown, "csv": to_csv, "json": to_json}
PLOTS = "plots"  # the folder of the plots' files
IMAGE = re.compile(rb"<svg .*?</svg>", re.DOTALL)


def render(leaderboard: Leaderboard, output_format: str) -> str:
    """The leaderboard in the format "md", "csv" or "json", without a final line break. UserError for another format."""
    if output_format not in FORMATS:
        raise unknown("format", output_format, FORMATS)
    return FORMATS[output_format](leaderboard)


def report_files(folder: Path, registry: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """The content of every file of the report on a folder of results, by its path in the folder.

    `registry` has the methods by name; by default the installed ones. UserError if the folder has no records.
    """
    from kdbench.report.page import to_html  # here, because matplotlib takes a second to import
    from kdbench.report.plots import plots

    registry = Registry() if registry is None else registry
    leaderboard = build(folder, registry)
    details = read_details(Store(folder), leaderboard)
    drawn = plots(leaderboard, details)
    return {
        **table_files(folder, leaderboard),
        "index.html": (to_html(leaderboard, details, drawn, registry) + "\n").encode(),
        **{f"{PLOTS}/{plot.name}.svg": plot.svg for plot in drawn},
        **{f"{PLOTS}/{plot.name}.png": plot.png for plot in drawn},
    }


def table_files(folder: Path, leaderboard: Leaderboard) -> dict[str, bytes]:
    """The content of the report's files other than the page and the plots, by name. `leaderboard` is the folder's own.
    UserError if the folder has no records."""
    heading = f"# kdbench leaderboard: {', '.join(leaderboard.suites)}\n\n"
    texts = {
        "leaderboard.md": heading + to_markdown(leaderboard), "leaderboard.csv": to_csv(leaderboard),
        "leaderboard.tex": to_latex(leaderboard), "leaderboard.json": to_json(leaderboard),
        "runs.csv": runs_to_csv(Store(folder)),
    }
    return {name: (text + "\n").encode() for name, text in texts.items()}


def write_report(folder: Path, registry: Mapping[str, Any] | None = None) -> list[Path]:
    """Write the report into the folder and return the paths of its files. Files of plots that are no longer part of the
    report are deleted. UserError if the folder has no records."""
    files = report_files(folder, registry)
    for name, content in files.items():
        atomic_write(folder / name, content)
    for old in (folder / PLOTS).glob("*"):
        if f"{PLOTS}/{old.name}" not in files and old.suffix in (".svg", ".png"):
            old.unlink()
    return [folder / name for name in files]


def check_report(folder: Path, registry: Mapping[str, Any] | None = None) -> list[str]:
    """One line for each file of the report that is missing or differs from what the records give.

    Plots must exist, but their content is not compared, neither in their own files nor inside the page: another version
    of matplotlib draws the same plot in other bytes. UserError if the folder has no records.
    """
    complaints = []
    for name, content in report_files(folder, registry).items():
        path = folder / name
        if not path.is_file():
            complaints.append(f"{path}: missing")
        elif not name.startswith(PLOTS) and IMAGE.sub(b"", path.read_bytes()) != IMAGE.sub(b"", content):
            complaints.append(f"{path}: not what the records give; run `kdbench report {folder}`")
    return complaints
