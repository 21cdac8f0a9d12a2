"""How the wishes of `kdbench advise` are read, and its answer in words."""

import re
import textwrap

from kdbench.analysis.answers.advice import Advice
from kdbench.errors import UserError, plain

WIDTH = 100


def read_cost(text: str | None) -> dict[str, float]:
    """What training may cost, by its unit: "2x" or "90s". UserError for anything else."""
    if text is None:
        return {}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(x|s)", text.strip())
    if found is None or float(found[1]) <= 0:
        raise UserError(f"--max-train {text}: expected 2x (of plain training's steps) or 90s (a run)")
    return {found[2]: float(found[1])}


def read_milliseconds(text: str | None) -> float | None:
    """The milliseconds of a time such as "1ms", "500us" or "0.2s". UserError for anything else."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(us|ms|s)", text.strip())
    if found is None or float(found[1]) <= 0:
        raise UserError(f"--max-latency {text}: expected a time such as 1ms, 500us or 0.2s")
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]


def advice_to_text(title: str, advice: Advice) -> str:
    """The advice for a cell, its reasons, and what was ruled out."""
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
