"""Where and when a run took place: versions, hardware, threads, git commit and time."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import psutil

GIT_SECONDS = 10  # that git and nvidia-smi may take; after that, what they would have told is left out
PACKAGES = ("kdbench", "torch", "torchvision", "timm", "numpy", "scipy", "pandas")


def environment(device: str) -> dict[str, Any]:
    """The environment of a run on `device` as its record keeps it: versions, hardware, thread count and git commit."""
    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "device": device,
        "gpu": gpu_name() if device == "cuda" else None,
        "threads": 1,
        "git_commit": git_commit(),
    }


def now() -> str:
    """The current time as records keep it: UTC, in ISO format, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def gpu_name() -> str | None:
    """The name of the GPU that torch uses or, in a process that has not imported torch, of the first GPU that NVIDIA's
    driver lists. None without a GPU."""
    if torch := sys.modules.get("torch"):
        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return next(iter(gpu_names()), None)


@cache
def gpu_names() -> list[str]:
    """The names of the GPUs that NVIDIA's driver lists; empty if `nvidia-smi` is missing, fails or is too slow."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [name.strip() for name in found.splitlines()]


@cache
def git_commit() -> str | None:
    """The commit of the checkout that kdbench runs from, followed by "-dirty" if tracked files were changed. None if it
    does not run from a checkout, or if git is missing, fails or is too slow."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):  # not installed, not a checkout, or too slow
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS).stdout.strip()
