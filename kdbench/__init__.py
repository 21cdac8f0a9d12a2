"""kdbench: a reproducible benchmark of knowledge distillation for image classification.

    kdbench.run("quick", methods=["ce", "kd"])      train what is not trained yet
    kdbench.plan("quick", methods=["ce", "kd"])     how long that would take, on how much memory and disk
    kdbench.leaderboard("runs/quick")               a pandas DataFrame, one row per method and cell
    kdbench.runs("runs/quick")                      a pandas DataFrame, one row per run
    kdbench.load_student("runs/quick", RUN)         a trained torch module

A plugin imports what it needs from `kdbench.method` and `kdbench.parts`.
"""

from typing import TYPE_CHECKING, Any

from kdbench.version import __version__

if TYPE_CHECKING:
    from kdbench.api import leaderboard, load_student, plan, run, runs

__all__ = ["__version__", "leaderboard", "load_student", "plan", "run", "runs"]


def __getattr__(name: str) -> Any:
    """Import `kdbench.api` when one of its functions is first used: the command line and every worker import this
    package, and rarely need these functions. AttributeError for any other name."""
    if name in __all__:
        from kdbench import api

        return getattr(api, name)
    raise AttributeError(f"module 'kdbench' has no attribute {name!r}")
