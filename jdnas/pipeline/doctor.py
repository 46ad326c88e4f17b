"""`jdnas doctor`: what this machine can do, and what is missing for the rest."""

import os
import platform
import re
import shutil
import subprocess
import sysconfig
from collections import defaultdict
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from packaging.requirements import Requirement

from export.runtimes import RUNTIMES, require
from export.session import physical_cores
from jdnas import __version__
from jdnas.errors import InputError
from latency.gpus import gpu_state
from latency.here import standing
from latency.machine import cpu_model
from latency.sources import knowledge
from latency.targets import known, load_target

Json = dict[str, Any]
GIB = 2**30
_FOR_DEVELOPERS = frozenset({"dev", "docs"})
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def examine(folder: Path) -> Json:
    """Return all that `jdnas doctor` prints as plain JSON; `folder` is where runs would be kept, whose disk is looked at."""
    return {
        "jdnas": __version__, "python": platform.python_version(), "platform": platform.platform(), "cpu": _cpu(), "gpus": _gpus(),
        "memory_gib": _memory(), "disk_gib": _disk(folder), "runtimes": _runtimes(), "compilers": _compilers(), "extras": extras(),
        "targets": _targets(),
    }  # fmt: skip


def _cpu() -> Json:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "name": cpu_model(), "logical_cores": os.cpu_count(), "usable_cores": usable, "physical_cores": physical_cores(),
        "threads_of_torch": torch.get_num_threads(), "threads_of_engines": physical_cores(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }  # fmt: skip


def _gpus() -> list[Json]:
    """Describe the GPUs that PyTorch can use; NVML adds driver and clocks of the first one."""
    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        found.append({"name": facts.name, "memory_gib": round(facts.total_memory / GIB, 1),
                      "compute_capability": f"{facts.major}.{facts.minor}"})  # fmt: skip
    state = gpu_state()
    if state is not None:
        found[0] |= {"driver": state.driver, "throttled_by": list(state.throttled_by), "other_processes": len(state.other_processes)}
    return found


def _memory() -> Json:
    memory = psutil.virtual_memory()
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.is_file() else "max"
    total = min(memory.total, int(limit)) if limit.isdigit() else memory.total
    return {"total": round(total / GIB, 1), "free": round(min(memory.available, total) / GIB, 1)}


def _disk(folder: Path) -> Json:
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    usage = shutil.disk_usage(place)
    return {"folder": str(folder), "free": round(usage.free / GIB, 1)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _runtimes() -> list[Json]:
    """List PyTorch and the runtimes of engines: the package and version of each, and whether it runs here, else why not."""
    cuda = f"CUDA {torch.version.cuda}" if torch.cuda.is_available() else "CPU only"
    rows: list[Json] = [{"runtime": "PyTorch", "package": "torch", "version": _version("torch"), "runs_here": True, "note": cuda}]
    for runtime in RUNTIMES.values():
        row: Json = {
            "runtime": runtime.name,
            "package": runtime.package,
            "version": _version(runtime.package),
            "runs_here": True,
            "note": "",
        }
        try:
            require(runtime.name, runtime.processor or ("gpu" if torch.cuda.is_available() else "cpu"))
        except InputError as error:
            row |= {"runs_here": False, "note": str(error)}
        rows.append(row)
    return rows


def _compilers() -> list[Json]:
    """Say what AOTInductor would compile with: a C++ compiler with Python's headers, and nvcc for GPUs."""
    named = os.environ.get("CXX")
    compilers = [(named or "c++", named or next(filter(shutil.which, ("g++", "clang++", "c++")), None)), ("nvcc", "nvcc")]
    rows: list[Json] = []
    for name, program in compilers:
        path = shutil.which(program) if program else None
        rows.append({"name": name, "path": path, "version": _first_version(path) if path else None})
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return [*rows, {"name": "Python.h", "path": str(headers) if headers.is_file() else None, "version": None}]


def _first_version(program: str) -> str | None:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False)
    found = re.search(r"\d+\.\d+(\.\d+)*", done.stdout)
    return found[0] if found else None


def extras() -> list[Json]:
    """List jdnas's extras with their packages: the installed version or None, and the command that installs what is missing."""
    packages: dict[str, dict[str, str | None]] = defaultdict(dict)
    for line in metadata.requires("jdnas") or []:
        requirement = Requirement(line)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", line)
        if extra and requirement.name != "jdnas" and extra[1] not in _FOR_DEVELOPERS:
            packages[extra[1]][requirement.name] = _version(requirement.name)
    return [
        {"extra": extra, "installed": all(found.values()), "packages": found, "command": f"pip install 'jdnas[{extra}]'"}
        for extra, found in packages.items()
    ]  # fmt: skip


def _targets() -> list[Json]:
    rows: list[Json] = []
    for target in map(load_target, known()):
        here = standing(target)
        row = {"target": target.name, "device": target.device, "runtime": target.runtime, "precision": target.precision}
        known_of_it = {"latencies_known": knowledge(target), "this_machine": here.measurable, "why": here.why, "reason": here.reason}
        rows.append(row | known_of_it)
    return rows
