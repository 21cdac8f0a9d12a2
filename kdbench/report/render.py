"""A leaderboard as text, in the format that is asked for."""

from collections.abc import Callable

from kdbench.analysis.board import Leaderboard
from kdbench.errors import unknown
from kdbench.report.flat import to_csv, to_json
from kdbench.report.markdown import to_markdown

FORMATS: dict[str, Callable[[Leaderboard], str]] = {"md": to_markdown, "csv": to_csv, "json": to_json}


def render(leaderboard: Leaderboard, output_format: str) -> str:
    """The leaderboard in the format "md", "csv" or "json", without a last line break."""
    if output_format not in FORMATS:
        raise unknown("format", output_format, FORMATS)
    return FORMATS[output_format](leaderboard)
