"""Programs of the system, and instructions of the processor, that some tests take."""

import os
import shutil

import pytest
import torch


def program(name: str, folder: str = "") -> str:
    """Its path, in PATH or in a further folder. Where it is not installed the test skips; CI, which installs it, sets
    KDBENCH_CI and fails instead."""
    path = shutil.which(name) or shutil.which(name, path=folder)
    if path is None:
        (pytest.fail if os.environ.get("KDBENCH_CI") else pytest.skip)(f"{name} is not installed")
    return path


needs_avx2 = pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
                                reason="cpu-portable takes an x86-64 processor with AVX2")
