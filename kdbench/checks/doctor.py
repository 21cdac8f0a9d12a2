"""What `kdbench doctor` tells: enough for a bug report, without importing torch unless a GPU may be there."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kdbench import folders
from kdbench.environment import PACKAGES, cpu_name, git_commit, version
from kdbench.plugins.registry import Registry
from kdbench.plugins.source import FAMILIES


def report() -> Iterator[tuple[str, str]]:
    """Pairs of what was looked at and what was found."""
    import platform

    yield "python", platform.python_version()
    for package in PACKAGES:
        yield package, version(package) or "not installed"
    yield "git commit", git_commit() or "not a checkout"
    yield "cpu", f"{cpu_name()}, {os.cpu_count()} cores"
    yield "gpu", _gpus()
    yield "threads", f"1 per run, {os.cpu_count()} runs at a time (--workers)"
    cache = folders.cache_folder()
    yield "cache", f"{cache} ({_state(cache)}; set KDBENCH_CACHE to move it)"
    for name, folder in (("data", folders.data_folder(cache)), ("teachers", folders.teachers_folder(cache))):
        yield name, f"{folder} ({_state(folder)})"
    yield "results", f"{Path('runs').resolve()} (run --out DIR moves it)"
    methods = list(Registry().values())
    yield "methods", f"{len(methods)} in {len({m.family for m in methods})} of {len(FAMILIES)} families"


def _gpus() -> str:
    if not shutil.which("nvidia-smi"):
        return "none found"
    import torch

    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none that torch sees"


def _state(folder: Path) -> str:
    if not folder.exists():
        return "not there yet"
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return f"{size / 2**20:.0f} MiB"
