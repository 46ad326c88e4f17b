"""What NVML says of the GPUs of this machine: names, clocks, throttling, and who else runs on them.

The GPU is the first one that CUDA would use.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jdnas.errors import TargetError

# Reasons that lower the clocks below what was asked for; an idle GPU and clocks set by the user are none.
NO_PERMISSION = "this user may not set the clocks of the GPU"
_THROTTLES = ("SwPowerCap", "HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")


@dataclass(frozen=True, slots=True)
class GpuState:
    """One GPU at one moment: clocks in MHz, temperature in C, why its clocks are lowered, and processes of others on it.

    A figure that NVML does not give (no permission, not supported) is None; where it does not say what lowers the clocks,
    `tells_throttling` is false.
    """

    name: str
    driver: str
    graphics_mhz: int | None
    memory_mhz: int | None
    temperature_c: int | None
    throttled_by: tuple[str, ...]
    other_processes: tuple[int, ...]
    tells_throttling: bool = True


def gpu_state() -> GpuState | None:
    """Return the state of the GPU; None where there is no NVIDIA driver or the package nvidia-ml-py is not installed."""
    with _nvml() as nvml:
        handle = None if nvml is None else _handle(nvml)
        if handle is None:
            return None
        reasons = _asked(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
        if reasons is None:  # drivers before 535 know the older name alone
            reasons = _asked(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        throttled = tuple(name for name in _THROTTLES if (reasons or 0) & _bit(nvml, name))
        running = _asked(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) or []
        return GpuState(
            _text(nvml.nvmlDeviceGetName(handle)), _text(nvml.nvmlSystemGetDriverVersion()),
            _asked(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_GRAPHICS),
            _asked(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_MEM),
            _asked(nvml, "nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
            throttled, tuple(process.pid for process in running if process.pid != os.getpid()), reasons is not None,
        )  # fmt: skip


def own_gpu_memory_mib() -> float | None:
    """Return the memory that this process holds on the GPU, in MiB; None where NVML does not say."""
    with _nvml() as nvml:
        handle = None if nvml is None else _handle(nvml)
        running = [] if handle is None else _asked(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) or []
        used = [process.usedGpuMemory for process in running if process.pid == os.getpid()]
        return used[0] / 2**20 if used and used[0] is not None else None


@contextmanager
def locked_clocks(graphics_mhz: int | None) -> Iterator[None]:
    """Hold the GPU's graphics clock at a value; a TargetError where that is not permitted. None leaves the clocks alone."""
    if graphics_mhz is None:
        yield
        return
    with _nvml() as nvml:
        handle = None if nvml is None else _handle(nvml)
        if handle is None:
            raise TargetError(
                f"the target asks for a clock of {graphics_mhz} MHz, and NVML finds no GPU; install: pip install nvidia-ml-py"
            )
        try:
            nvml.nvmlDeviceSetGpuLockedClocks(handle, graphics_mhz, graphics_mhz)
        except nvml.NVMLError as error:
            raise TargetError(f"the target asks for a clock of {graphics_mhz} MHz and {NO_PERMISSION} ({error}); let an administrator run "
                              f"'nvidia-smi -lgc {graphics_mhz}' and take clocks out of the target's file") from error  # fmt: skip
        try:
            yield
        finally:
            nvml.nvmlDeviceResetGpuLockedClocks(handle)


@contextmanager
def _nvml() -> Iterator[Any]:
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _handle(nvml: Any) -> Any:
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        return _asked(nvml, "nvmlDeviceGetHandleByUUID", first)
    return _asked(nvml, "nvmlDeviceGetHandleByIndex", int(first)) if first.isdigit() else None


def _asked(nvml: Any, name: str, *arguments: Any) -> Any:
    # Older drivers lack functions, and containers and other users' devices refuse some.
    try:
        return getattr(nvml, name)(*arguments)
    except (nvml.NVMLError, AttributeError):
        return None


def _bit(nvml: Any, name: str) -> int:
    """Return the bit of a reason; newer bindings name most of them `ClocksEventReason...`, and all keep the older name for some."""
    return int(getattr(nvml, f"nvmlClocksEventReason{name}", 0) or getattr(nvml, f"nvmlClocksThrottleReason{name}", 0))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
