"""The device "cpu-portable": a CPU that computes the same bits whatever x86-64 processor with AVX2 it is.

By default each library takes the widest instructions that it finds, and MKL other code by the processor's maker, so
that two kinds of processor end with slightly other weights. Here each is held to code that all of these processors run
alike.
"""

import os
import warnings

import numpy as np
import torch
from torch import Tensor

from kdbench.errors import UserError

# Read when the library computes for the first time in the process.
LIMITS = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",   # convolutions
    "MKL_CBWR": "COMPATIBLE",       # products of matrices and linear algebra: the one code that MKL has for all makers
}
_overrides: list[torch.library.Library] = []  # a library's kernels last as long as it does


def need_portable() -> None:
    """UserError if this machine cannot compute as "cpu-portable" says."""
    instructions, has_mkl = torch.backends.cpu.get_cpu_capability(), torch.backends.mkl.is_available()
    if instructions not in ("AVX2", "AVX512") or not has_mkl:
        raise UserError("--device cpu-portable: takes an x86-64 processor with AVX2 and a torch with MKL; torch has "
                        f"{instructions} instructions here and MKL is {'there' if has_mkl else 'missing'}, allowed: "
                        "cpu")


def make_portable() -> None:
    """Hold this process to the portable code. RuntimeError if torch has computed in it by wider instructions."""
    os.environ.update(LIMITS)
    if (found := torch.backends.cpu.get_cpu_capability()) != "AVX2":
        raise RuntimeError(f"this process computes by {found} instructions, not by AVX2 as cpu-portable says")
    if not _overrides:
        _overrides.append(_exact_square_roots())


def _exact_square_roots() -> torch.library.Library:
    """Replace torch's square roots of dense tensors of the CPU, which AdamW takes. MKL's portable ones start from the
    processor's estimate of 1 / sqrt(x), which each maker rounds in its own way; the instruction that NumPy uses rounds
    as IEEE 754 says. `x ** 0.5` and `torch.atan` have no such replacement."""
    kernels = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is replaced
        kernels.impl("sqrt", _sqrt, "CPU")
        kernels.impl("sqrt_", lambda x: x.copy_(_sqrt(x)), "CPU")
        kernels.impl("sqrt.out", lambda x, *, out: out.resize_(x.shape).copy_(_sqrt(x)), "CPU")
    return kernels


def _sqrt(x: Tensor) -> Tensor:
    """The square root of each element; of integers in torch's default type, of 16 bits by way of float32."""
    if not (x.is_floating_point() or x.is_complex()):
        x = x.to(torch.get_default_dtype())
    if x.dtype in (torch.bfloat16, torch.float16):
        return _sqrt(x.float()).to(x.dtype)
    with np.errstate(invalid="ignore"):  # NaN of negative numbers, as in torch
        return torch.from_numpy(np.asarray(np.sqrt(x.detach().resolve_conj().resolve_neg().numpy())))
