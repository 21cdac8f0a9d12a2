"""Everything that a folder's records give, as files: tables, plots and one page. The same records, the same bytes."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdbench.analysis.build import build
from kdbench.analysis.details import read_details
from kdbench.disk import atomic_write
from kdbench.plugins.registry import Registry
from kdbench.report.flat import to_csv, to_json
from kdbench.report.latex import to_latex
from kdbench.report.markdown import to_markdown
from kdbench.report.page import to_html
from kdbench.report.plots import plots
from kdbench.results.store import Store

PLOTS = "plots"  # the folder of the plots' files


IMAGE = re.compile(rb"data:image/[^\"]*")


def report_files(folder: Path, registry: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """The files of the report by name. UserError if there are no records."""
    registry = Registry() if registry is None else registry
    leaderboard = build(folder, registry)
    details = read_details(Store(folder), leaderboard)
    drawn = plots(leaderboard, details)
    heading = f"# kdbench leaderboard: {', '.join(leaderboard.suites)}\n\n"
    texts = {
        "leaderboard.md": heading + to_markdown(leaderboard), "leaderboard.csv": to_csv(leaderboard),
        "leaderboard.tex": to_latex(leaderboard), "leaderboard.json": to_json(leaderboard),
        "index.html": to_html(leaderboard, details, drawn, registry),
    }
    return {
        **{name: (text + "\n").encode() for name, text in texts.items()},
        **{f"{PLOTS}/{plot.name}.svg": plot.svg for plot in drawn},
        **{f"{PLOTS}/{plot.name}.png": plot.png for plot in drawn},
    }


def write_report(folder: Path, registry: Mapping[str, Any] | None = None) -> list[Path]:
    """Write the report into the folder, and remove plots of an earlier one that it no longer has."""
    files = report_files(folder, registry)
    for name, content in files.items():
        atomic_write(folder / name, content)
    for old in (folder / PLOTS).glob("*"):
        if f"{PLOTS}/{old.name}" not in files and old.suffix in (".svg", ".png"):
            old.unlink()
    return [folder / name for name in files]


def check_report(folder: Path, registry: Mapping[str, Any] | None = None) -> list[str]:
    """What in the folder is not what its records give, in one line each; none if all is.

    Plots are only looked for: other versions of matplotlib draw the same figures in other bytes.
    """
    complaints = []
    for name, content in report_files(folder, registry).items():
        path = folder / name
        if not path.is_file():
            complaints.append(f"{path}: missing")
        elif not name.startswith(PLOTS) and IMAGE.sub(b"", path.read_bytes()) != IMAGE.sub(b"", content):
            complaints.append(f"{path}: not what the records give; run `kdbench report {folder}`")
    return complaints
