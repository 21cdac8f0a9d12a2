"""Programs of the system that some slow tests run."""

import os
import shutil

import pytest


def program(name: str, folder: str = "") -> str:
    """Its path, in PATH or in a further folder. Where it is not installed the test skips; CI, which installs it, sets
    KDBENCH_CI and fails instead."""
    path = shutil.which(name) or shutil.which(name, path=folder)
    if path is None:
        (pytest.fail if os.environ.get("KDBENCH_CI") else pytest.skip)(f"{name} is not installed")
    return path
