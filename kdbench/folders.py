"""Where things lie that are not results: data, teachers and checkpoints."""

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """`KDBENCH_CACHE`, or the user's cache folder."""
    given = os.environ.get("KDBENCH_CACHE")
    return Path(given).expanduser() if given else user_cache_path("kdbench")


def data_folder(cache: Path) -> Path:
    return cache / "data"


def teachers_folder(cache: Path) -> Path:
    """A store of its own: trained once, used by every suite."""
    return cache / "teachers"


def checkpoint_folder(cache: Path, run_id: str) -> Path:
    """What an unfinished run keeps: its last checkpoint, its progress and its lock."""
    return cache / "checkpoints" / run_id
