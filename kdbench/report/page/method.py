"""The description of a method on the page."""

import html

from kdbench.errors import printable
from kdbench.plugins.source import Facts, MethodInfo
from kdbench.report.formatting import Table
from kdbench.report.page.pieces import escape, sortable


def of_method(name: str, known: Facts, info: MethodInfo | None) -> str:
    """The paper and hyperparameters of a method as HTML, below its docstring if the method is installed. `info` is None
    if it is not."""
    paper = ""
    if known.paper:
        address = escape(known.paper.url or "")
        paper = f"<p>{escape(str(known.paper))}" + (f' <a href="{address}">{address}</a>' if address else "") + "</p>"
    ranges = {p.name: (p.type, p.allowed) for p in info.hyperparameters.values()} if info else {}
    lines = [[one, str(default), *ranges.get(one, ("", ""))] for one, default in known.defaults.items()]
    parameters = sortable(Table(f"Hyperparameters of {name}", ["name", "default", "type", "range"], lines, 4)) \
        if lines else "<p>No hyperparameters.</p>"
    doc = f"<pre>{html.escape(printable(info.doc))}</pre>" if info else ""
    return f"{doc}{paper}{parameters}"
