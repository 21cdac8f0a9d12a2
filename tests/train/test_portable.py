"""The device cpu-portable. Its limits hold for a process as long as it lives, so that each test computes in another."""

import os
import subprocess
import sys

import pytest
import torch
from support import bits
from support.matrices import smoke
from support.programs import needs_avx2, program

from kdbench import run
from kdbench.checks.preflight import need_device
from kdbench.errors import UserError
from kdbench.results.record import as_recorded
from kdbench.results.store import Store
from kdbench.train import portable

# What cpu-portable holds each library to; and other code, such as another processor would take.
HELD = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}
ELSEWHERE = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "AUTO"}


def python(*words, under=(), **environment):
    """What another Python prints, `under` an emulator."""
    done = subprocess.run([*under, sys.executable, *map(str, words)], env=os.environ | environment, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def in_portable(code):
    """What the code prints in a process that computes portably."""
    return python("-c", "import numpy as np, torch\nfrom kdbench.train.process import make_deterministic\n"
                        f"device = make_deterministic('cpu-portable')\n{code}")


@pytest.mark.slow
@needs_avx2
def test_another_choice_of_instructions_changes_neither_weights_nor_single_operations():
    usual = python(bits.__file__, **HELD)
    assert python(bits.__file__, **ELSEWHERE) == usual
    assert len(usual.splitlines()) == len(bits.NETWORKS) + len(bits.operations())


@needs_avx2
@pytest.mark.slow
@pytest.mark.parametrize("processor", ["Haswell", "EPYC"])  # of Intel, of AMD
def test_an_emulated_processor_of_another_maker_computes_the_same_bits(processor):
    emulated = python(bits.__file__, under=(program("qemu-x86_64"), "-cpu", processor))
    assert emulated == python(bits.__file__)


@needs_avx2
def test_square_roots_are_those_of_ieee_754():
    assert in_portable("""
torch.manual_seed(0)
x = torch.randn(1000).abs()
expected = np.sqrt(x.numpy())
out = torch.empty(0)
torch.sqrt(x, out=out)
print([bool((found.numpy() == expected).all()) for found in (
    x.sqrt(), x.clone().sqrt_(), out, torch._foreach_sqrt([x])[0], x.view(20, 50).T.sqrt().T.reshape(-1))])
print(bool((x.double().sqrt().numpy() == np.sqrt(x.double().numpy())).all()), torch.tensor(2.0).sqrt().shape)
print(torch.tensor([4, 9]).sqrt(), torch.tensor([4.0], dtype=torch.bfloat16).sqrt(), torch.tensor([-1.0]).sqrt())
four = torch.tensor(4.0, requires_grad=True)
four.sqrt().backward()
print(four.grad.item())
""").splitlines() == ["[True, True, True, True, True]", "True torch.Size([])",
                      "tensor([2., 3.]) tensor([2.], dtype=torch.bfloat16) tensor([nan])", "0.25"]


def test_a_process_that_computes_by_wider_instructions_is_not_called_portable(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(portable.os, "environ", {})
    with pytest.raises(RuntimeError, match="this process computes by AVX512 instructions, not by AVX2"):
        portable.make_portable()


def test_a_machine_without_these_instructions_is_refused_in_a_line(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "NEON")
    need_device({"cpu"})
    with pytest.raises(UserError) as error:
        need_device({"cpu", "cpu-portable"})
    assert str(error.value).startswith("--device cpu-portable: takes an x86-64 processor with AVX2")
    assert "torch has NEON instructions here" in str(error.value) and str(error.value).endswith("allowed: cpu")


def test_a_run_on_it_has_an_id_cell_and_teacher_of_its_own():
    (here,), (there,) = (smoke("kd", device=device).students for device in ("cpu", "cpu-portable"))
    assert here.id != there.id and here.cell != there.cell
    assert here.teacher.run.id != there.teacher.run.id and there.teacher.run.device == "cpu-portable"


def test_metrics_keep_ten_digits_there_and_all_elsewhere():
    metrics = {"nll": 0.12345678901234567, "parameters": 1234567.0, "passes": 0.0}
    assert as_recorded(metrics, "cpu-portable") == {"nll": 0.1234567890, "parameters": 1234567.0, "passes": 0.0}
    assert as_recorded(metrics, "cpu") == as_recorded(metrics, "cuda") == metrics


@needs_avx2
def test_runs_have_the_same_weights_predictions_and_metrics_whatever_their_environment_asks_for(tmp_path, monkeypatch):
    def records(folder):
        summary = run("smoke", methods=["ce", "kd"], seeds=1, settings={"recipe.epochs": 1}, device="cpu-portable",
                      out=tmp_path / folder)
        assert summary.trained == 2 and summary.failed == 0
        return {r.run_id: r for r in Store(tmp_path / folder).scan()}

    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    first = records("first")
    for name, value in ELSEWHERE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "other-cache"))
    again = records("again")
    assert first.keys() == again.keys() and len(first) == 3
    for name, record in first.items():
        assert record.environment["device"] == record.spec.device == "cpu-portable"
        assert (record.weights_sha256, record.predictions_sha256, record.metrics) == (
            again[name].weights_sha256, again[name].predictions_sha256, again[name].metrics)
        assert record.metrics == as_recorded(record.metrics, "cpu-portable")
