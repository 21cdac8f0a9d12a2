"""Records to statistics to tables. Imports no torch and knows nothing of training."""

from kdbench.leaderboard.render import FORMATS, render
from kdbench.leaderboard.table import Cell, Leaderboard, Row, build

__all__ = ["FORMATS", "Cell", "Leaderboard", "Row", "build", "render"]
