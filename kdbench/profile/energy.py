"""Energy counters, each with the name of its source. Only differences of readings mean something."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, Protocol

Source = Literal["nvml", "rapl", "estimate"]
WATTS_PER_CORE = 10.0  # of a busy core, with its share of caches and memory: between a server's and a desktop's
POWERCAP = Path("/sys/class/powercap")


class Meter(Protocol):
    source: Source
    least_seconds: float  # of work, at least, between two readings: in less time the counter hardly moves

    def joules(self) -> float:
        """The counter's reading in joules; only differences of readings mean something."""


class CpuTime(Meter):
    """An estimate of energy: the CPU seconds of this process, over all its threads, times a wattage per core."""

    source: Source = "estimate"
    least_seconds = 0.0

    def __init__(self, watts_per_core: float = WATTS_PER_CORE, cpu_seconds: Callable[[], float] = time.process_time):
        self.watts_per_core, self._cpu_seconds = watts_per_core, cpu_seconds

    def joules(self) -> float:
        return self._cpu_seconds() * self.watts_per_core


class Rapl(Meter):
    """The energy of all processor packages, and of memory that has a counter beside theirs, from Linux's powercap.

    Raises OSError if there are no counters, or if they cannot be read: since 2020 that takes root's permission. A
    counter that wraps around once between two readings is corrected; one that does so twice, which takes half an hour
    or more, is not.
    """

    source: Source = "rapl"
    least_seconds = 0.1  # the counter is renewed every millisecond

    def __init__(self, folder: Path = POWERCAP):
        zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if _is_counted(_text(zone / "name"))]
        if not zones:
            raise FileNotFoundError(f"{folder}: no energy counter of a processor package")
        self._counters = [zone / "energy_uj" for zone in zones]
        self._ranges = [int(_text(zone / "max_energy_range_uj")) for zone in zones]
        self._last = self._read()
        self._microjoules = 0

    def joules(self) -> float:
        now = self._read()
        for value, last, size in zip(now, self._last, self._ranges, strict=True):
            self._microjoules += value - last + (size if value < last else 0)
        self._last = now
        return self._microjoules / 1e6

    def _read(self) -> list[int]:
        return [int(_text(counter)) for counter in self._counters]


def _is_counted(zone: str) -> bool:
    """Whether the energy of a zone counts: packages do, which include their cores, and memory beside them. `psys` would
    count both again."""
    return zone.startswith("package") or zone == "dram"


def _text(file: Path) -> str:
    return file.read_text().strip()


class Nvml(Meter):
    """The total-energy counter of torch's current GPU. Raises ImportError without pynvml, and NVMLError if the GPU has
    no such counter."""

    source: Source = "nvml"
    least_seconds = 2.0  # the driver renews it every 20 to 100 ms

    def __init__(self) -> None:
        import pynvml
        import torch

        pynvml.nvmlInit()
        name = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
        self._handle, self._read = pynvml.nvmlDeviceGetHandleByUUID(name), pynvml.nvmlDeviceGetTotalEnergyConsumption
        self.joules()

    def joules(self) -> float:
        return self._read(self._handle) / 1000


def find_meter(device: str, watts_per_core: float = WATTS_PER_CORE, powercap: Path = POWERCAP) -> Meter | None:
    """The best energy meter for a device: for "cuda" the GPU's own counter, or None if it cannot be read; otherwise the
    processor's counters, or an estimate from CPU time if they cannot be read."""
    if device == "cuda":
        with suppress(Exception):  # whatever NVML raises: no package, no driver, a GPU without the counter
            return Nvml()
        return None
    with suppress(OSError, ValueError):
        return Rapl(powercap)
    return CpuTime(watts_per_core)
