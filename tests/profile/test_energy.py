"""Energy counters, on imagined machines."""

import sys
from types import SimpleNamespace

import pytest
import torch

from kdbench.profile.energy import WATTS_PER_CORE, CpuTime, Nvml, Rapl, find_meter


def zone(folder, number, name, energy=0, size=1_000_000):
    path = folder / f"intel-rapl:{number}"
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{size}\n")
    (path / "energy_uj").write_text(f"{energy}\n")
    return path / "energy_uj"


def test_an_estimate_is_cpu_seconds_times_watts():
    seconds = iter([2.0, 5.5])
    meter = CpuTime(8.0, lambda: next(seconds))
    before = meter.joules()
    assert meter.joules() - before == 3.5 * 8
    assert meter.source == "estimate"


def test_packages_and_memory_are_counted_but_not_what_holds_them_or_lies_in_them(tmp_path):
    counters = [zone(tmp_path, "0", "package-0"), zone(tmp_path, "0:0", "core"), zone(tmp_path, "0:1", "dram"),
                zone(tmp_path, "1", "package-1"), zone(tmp_path, "2", "psys")]
    meter = Rapl(tmp_path)
    assert meter.joules() == 0
    for place, counter in enumerate(counters):
        counter.write_text(str(10**place))
    assert meter.joules() == pytest.approx((1 + 100 + 1000) / 1e6)
    assert meter.source == "rapl"


def test_a_counter_that_wraps_around_goes_on_counting(tmp_path):
    counter = zone(tmp_path, "0", "package-0", energy=900_000, size=1_000_000)
    meter = Rapl(tmp_path)
    readings = []
    for value in (950_000, 20_000, 500_000, 100_000):
        counter.write_text(str(value))
        readings.append(meter.joules())
    assert readings == pytest.approx([.05, .12, .6, 1.2])


def test_the_best_counter_that_can_be_read_is_taken(tmp_path):
    counter = zone(tmp_path / "good", "0", "package-0")
    assert find_meter("cpu", powercap=tmp_path / "good").source == "rapl"
    assert find_meter("cpu", powercap=tmp_path / "none").source == "estimate"
    counter.unlink()
    counter.mkdir()  # a file that cannot be read, even by root
    meter = find_meter("cpu", 7.0, powercap=tmp_path / "good")
    assert (meter.source, meter.watts_per_core) == ("estimate", 7.0)
    zone(tmp_path / "odd", "0", "package-0").write_text("no number")
    meter = find_meter("cpu", powercap=tmp_path / "odd")
    assert (meter.source, meter.watts_per_core) == ("estimate", WATTS_PER_CORE)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU whose counter stands at 2.5 J."""
    fake = SimpleNamespace(nvmlInit=lambda: None, nvmlDeviceGetHandleByUUID=lambda name: name,
                           nvmlDeviceGetTotalEnergyConsumption={"GPU-12": 2500}.__getitem__)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="12"))
    return fake


def test_a_gpu_is_read_by_its_own_counter_in_millijoules(gpu):
    assert isinstance(find_meter("cuda"), Nvml)
    assert find_meter("cuda").joules() == 2.5


def test_a_gpu_without_a_counter_gives_no_energy_rather_than_the_processor_s(gpu, tmp_path):
    def refuse(handle):
        raise RuntimeError("not supported")

    gpu.nvmlDeviceGetTotalEnergyConsumption = refuse
    zone(tmp_path, "0", "package-0")
    assert find_meter("cuda", powercap=tmp_path) is None
