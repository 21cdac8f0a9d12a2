"""The report of `kdbench doctor`, which holds what a bug report needs."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path

from kdbench.disk import need_locks
from kdbench.environment import PACKAGES, cpu_name, git_commit, gpu_names, version
from kdbench.folders import CacheFolder
from kdbench.plugins.registry import Registry
from kdbench.plugins.source import FAMILIES
from kdbench.results.cached import measure


def report() -> Iterator[tuple[str, str]]:
    """Yield the lines of the report as pairs: what was examined, and what was found."""
    yield "python", platform.python_version()
    for package in PACKAGES:
        yield package, version(package) or "not installed"
    yield "git commit", git_commit() or "not a checkout"
    yield "cpu", f"{cpu_name()}, {os.cpu_count()} cores"
    yield "gpu", ", ".join(gpu_names()) or "none found"
    yield "threads", f"1 per run, {os.cpu_count()} runs at a time (--workers)"
    cache = CacheFolder.of_user()
    yield "cache", f"{cache.root} ({_state(cache.root)}; set KDBENCH_CACHE to move it)"
    for name, folder in (("data", cache.data), ("teachers", cache.teachers)):
        yield name, f"{folder} ({_state(folder)})"
    results = Path("runs").resolve()
    yield "results", f"{results} (run --out DIR moves it)"
    yield "file locks", f"{_locks(cache.root)} in the cache, {_locks(results)} in the results"
    methods = list(Registry().values())
    yield "methods", f"{len(methods)} in {len({m.family for m in methods})} of {len(FAMILIES)} families"


def _locks(folder: Path) -> str:
    try:
        need_locks(folder)
    except OSError as error:
        return f"none ({error.strerror})"
    return "work"


def _state(folder: Path) -> str:
    if not folder.exists():
        return "not there yet"
    return f"{measure([folder])[0] / 2**20:.0f} MiB"
