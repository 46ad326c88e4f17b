"""Whether other work disturbs a measurement."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from latency.gpus import GpuState, gpu_state

_LOOK_S = 0.3
_BUSY_CPU_PERCENT, _STOLEN_PERCENT = 10.0, 2.0
_THROTTLE_COUNTS = "devices/system/cpu/cpu*/thermal_throttle/*_throttle_count"
SYSTEM = Path("/sys")


@dataclass(frozen=True, slots=True)
class Quiet:
    """How busy the machine was before a measurement, while this process only waited."""

    cpu_percent: float
    load_average: float | None
    other_gpu_processes: tuple[int, ...]

    @property
    def warnings(self) -> list[str]:
        """What will disturb a measurement, in words; nothing on a quiet machine."""
        found = []
        if self.cpu_percent > _BUSY_CPU_PERCENT:
            found.append(f"other processes use {self.cpu_percent:.0f} % of the CPU")
        if self.other_gpu_processes:
            found.append(f"other processes are on the GPU: {', '.join(map(str, self.other_gpu_processes))}")
        return found


@dataclass(frozen=True, slots=True)
class Watch:
    """Counters at the start of a measurement."""

    steal_s: float
    total_s: float
    cpu_throttles: int | None
    gpu: GpuState | None


def look_around(gpu: bool) -> Quiet:
    """Watch the machine for a moment in which this process does nothing."""
    state = gpu_state() if gpu else None
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return Quiet(psutil.cpu_percent(interval=_LOOK_S), load, state.other_processes if state else ())


def begin_watch(gpu: bool) -> Watch:
    """Read the counters that `end_watch` compares with."""
    times = psutil.cpu_times()
    return Watch(getattr(times, "steal", 0.0), sum(times), _cpu_throttles(), gpu_state() if gpu else None)


def end_watch(start: Watch, gpu: bool) -> dict[str, Any]:
    """Return, as JSON data, clocks before and after, whether the device throttled, and the share of time that a hypervisor took."""
    end = begin_watch(gpu)
    stolen = 100 * (end.steal_s - start.steal_s) / max(end.total_s - start.total_s, 1e-9)
    reasons = sorted({reason for state in (start.gpu, end.gpu) if state for reason in state.throttled_by})
    if start.cpu_throttles is not None and end.cpu_throttles is not None and end.cpu_throttles > start.cpu_throttles:
        reasons.append("CPU thermal throttling")
    known = start.cpu_throttles is not None or any(state and state.tells_throttling for state in (start.gpu, end.gpu))
    clocks = [None if state is None else [state.graphics_mhz, state.memory_mhz] for state in (start.gpu, end.gpu)]
    frequency = None if gpu else _cpu_mhz()
    facts = {"throttled": bool(reasons) if known else None, "throttled_by": reasons, "stolen_percent": round(stolen, 2)}
    return facts | ({"gpu_clocks_mhz": clocks} if gpu else {"cpu_mhz": frequency})


def disturbances(quiet: Quiet, facts: dict[str, Any]) -> list[str]:
    """Return in words all that speaks against trusting a measurement."""
    found = quiet.warnings
    if facts["throttled"]:
        found.append(f"the device lowered its clocks: {', '.join(facts['throttled_by'])}")
    if facts["stolen_percent"] > _STOLEN_PERCENT:
        found.append(f"the hypervisor took {facts['stolen_percent']:g} % of the CPU's time")
    return found


def _cpu_throttles() -> int | None:
    counts = [int(path.read_text()) for path in SYSTEM.glob(_THROTTLE_COUNTS)]
    return sum(counts) if counts else None


def _cpu_mhz() -> int | None:
    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return round(frequency.current) if frequency else None
