"""The device "cpu-portable": a CPU on which results have the same bits on every x86-64 processor with AVX2.

By default, each library uses the widest instructions that the processor has, and MKL uses different code for different
manufacturers, so that two kinds of processor end with slightly different weights. On this device, each library is
restricted to code that runs alike on all of these processors.
"""

import os
import warnings

import numpy as np
import torch
from torch import Tensor

from kdbench.errors import UserError

# Environment variables that each library reads when it first computes in a process.
LIMITS = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",   # convolutions
    "MKL_CBWR": "COMPATIBLE",       # matrix products and linear algebra: MKL's only code that all manufacturers share
}
_overrides: list[torch.library.Library] = []  # kept alive, since a library's kernels are removed with it


def need_portable() -> None:
    """Raise UserError unless this machine can run "cpu-portable": it takes an x86-64 processor with AVX2 and a torch
    with MKL."""
    instructions, has_mkl = torch.backends.cpu.get_cpu_capability(), torch.backends.mkl.is_available()
    if instructions not in ("AVX2", "AVX512") or not has_mkl:
        raise UserError("--device cpu-portable: takes an x86-64 processor with AVX2 and a torch with MKL; torch has "
                        f"{instructions} instructions here and MKL is {'there' if has_mkl else 'missing'}, allowed: "
                        "cpu")


def make_portable() -> None:
    """Restrict this process to the portable code. RuntimeError if torch has already computed with wider instructions in
    this process."""
    os.environ.update(LIMITS)
    if (found := torch.backends.cpu.get_cpu_capability()) != "AVX2":
        raise RuntimeError(f"this process computes by {found} instructions, not by AVX2 as cpu-portable says")
    if not _overrides:
        _overrides.append(_exact_square_roots())


def _exact_square_roots() -> torch.library.Library:
    """Replace torch's square root of dense CPU tensors, which AdamW uses, by NumPy's, and return the library that holds
    the new kernels. MKL's portable square root starts from the processor's estimate of 1 / sqrt(x), which each
    manufacturer rounds differently; the instruction that NumPy uses rounds as IEEE 754 requires. `x ** 0.5` and
    `torch.atan` are not replaced."""
    kernels = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that a kernel is replaced
        kernels.impl("sqrt", _sqrt, "CPU")
        kernels.impl("sqrt_", lambda x: x.copy_(_sqrt(x)), "CPU")
        kernels.impl("sqrt.out", lambda x, *, out: out.resize_(x.shape).copy_(_sqrt(x)), "CPU")
    return kernels


def _sqrt(x: Tensor) -> Tensor:
    """The square root of each element. That of integers has torch's default type; that of 16-bit floats is computed in
    float32 and rounded."""
    if not (x.is_floating_point() or x.is_complex()):
        x = x.to(torch.get_default_dtype())
    if x.dtype in (torch.bfloat16, torch.float16):
        return _sqrt(x.float()).to(x.dtype)
    with np.errstate(invalid="ignore"):  # negative numbers give NaN, as in torch
        return torch.from_numpy(np.asarray(np.sqrt(x.detach().resolve_conj().resolve_neg().numpy())))
