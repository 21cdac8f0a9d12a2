"""Parses the options of `kdbench advise` and formats its answer as text."""

import re
import textwrap

from kdbench.analysis.answers.advice import Advice
from kdbench.errors import UserError, plain

WIDTH = 100


def read_cost(text: str | None) -> dict[str, float]:
    """The budget that --max-train gives, by its unit: {"x": 2.0} for "2x" (times a step of plain training), {"s": 90.0}
    for "90s" (seconds of a run), and {} for None. UserError for any other text and for zero."""
    if text is None:
        return {}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(x|s)", text.strip())
    if found is None or float(found[1]) <= 0:
        raise UserError(f"--max-train {text}: expected 2x (of plain training's steps) or 90s (a run)")
    return {found[2]: float(found[1])}


def read_milliseconds(text: str | None) -> float | None:
    """The time that --max-latency gives ("1ms", "500us" or "0.2s") in milliseconds; None for None. UserError for any
    other text and for zero."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(us|ms|s)", text.strip())
    if found is None or float(found[1]) <= 0:
        raise UserError(f"--max-latency {text}: expected a time such as 1ms, 500us or 0.2s")
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]


def advice_to_text(title: str, advice: Advice) -> str:
    """The advice for a cell as text: a line with the title and the recommended method, then the reasons and the methods
    that were ruled out, each with why."""
    lines = [f"{title}: {f'take {plain(advice.method)}' if advice.method else 'no advice'}",
             *(_item(reason) for reason in advice.reasons)]
    alike: dict[str, list[str]] = {}
    for label, why in advice.excluded.items():
        alike.setdefault(why, []).append(label)
    lines += [_item(f"Left out: {', '.join(labels)}: {why}.") for why, labels in alike.items()]
    return "\n".join(lines)


def _item(text: str) -> str:
    return textwrap.fill(f"- {plain(text)}", WIDTH, subsequent_indent="  ", break_long_words=False,
                         break_on_hyphens=False)
