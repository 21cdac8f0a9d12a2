"""Programs of the system that some slow tests run."""

import os
import shutil

import pytest


def program(name: str) -> str:
    """Its path. Where it is not installed the test skips; CI, which installs it, sets KDBENCH_CI and fails instead."""
    path = shutil.which(name)
    if path is None:
        (pytest.fail if os.environ.get("KDBENCH_CI") else pytest.skip)(f"{name} is not installed")
    return path
