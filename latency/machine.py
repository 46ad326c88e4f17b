"""What a measurement was taken on."""

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jdnas
from export.session import RuntimeInfo
from jdnas.errors import TargetError
from latency.gpus import gpu_state

CPU_PROVIDERS = ("CPUExecutionProvider", "cpu")


def cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        names = [line.split(":", 1)[1].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def provenance(info: RuntimeInfo) -> dict[str, Any]:
    """Return device, runtime version, threads, date, jdnas version and how busy the machine was."""
    state = None if info.provider in CPU_PROVIDERS else gpu_state()
    gpu: dict[str, Any] = {} if info.provider in CPU_PROVIDERS else {"cuda_graph": info.cuda_graph}
    if state is not None:
        gpu |= {"gpu": state.name, "driver": state.driver, "gpu_clocks_mhz": [state.graphics_mhz, state.memory_mhz]}
    return gpu | {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "runtime_version": info.version,
        "provider": info.provider,
        "threads": info.threads,
        "jdnas": jdnas.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def same_machine(known: Mapping[str, Any], here: Mapping[str, Any], what: str) -> None:
    """Raise a TargetError unless `what` was measured on a machine like this one, through the same version of the runtime."""
    for key in ("gpu", "cpu", "threads", "runtime_version"):
        if key == "cpu" and "gpu" in here:  # which processor feeds a GPU matters little
            continue
        if known.get(key) != here.get(key):
            raise TargetError(f"{what} was measured with {key} {known.get(key)!r}, here it is {here.get(key)!r}; "
                              "give another path or delete the file")  # fmt: skip
