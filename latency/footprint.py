"""Peak memory of a subject, seen in a process of its own: `python -m latency.footprint REQUEST` prints JSON.

That process holds the runtime and the engine, and PyTorch only where that is what runs.
"""

import json
import sys
from pathlib import Path
from typing import Any

import psutil

from latency.fresh import run_fresh

_RUNS = 3


def peak_memory_mib(path: Path, runs_in: str, target: str, size_hw: tuple[int, int], batch: int) -> dict[str, float | None]:
    """Return the peak resident memory (`host`) and the memory on the GPU (`gpu`), in MiB, of a fresh process that runs a subject.

    None stands for what cannot be had.
    """
    request = json.dumps({"path": str(path), "runs_in": runs_in, "target": target, "size_hw": size_hw, "batch": batch})
    done = run_fresh("latency.footprint", request)
    found: dict[str, float | None] = json.loads(done.stdout) if done.returncode == 0 else {"host": None, "gpu": None}
    return found


def _own_peak_mib() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # Linux: ru_maxrss would start at the size of the process that this one was forked from
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) / 1024
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 2**20
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def main(request: str) -> None:
    """Run a subject three times and print the peaks."""
    from latency.gpus import own_gpu_memory_mib
    from latency.subjects import TORCH, open_engine, open_model
    from latency.targets import load_target

    asked: dict[str, Any] = json.loads(request)
    target, path, batch = load_target(asked["target"]), Path(asked["path"]), asked["batch"]
    height, width = asked["size_hw"]
    subject = open_model(path, target, (height, width), batch) if asked["runs_in"] == TORCH else open_engine(path, target)
    for _ in range(_RUNS):
        subject.call()
    print(json.dumps({"host": round(_own_peak_mib(), 1), "gpu": own_gpu_memory_mib() if target.processor == "gpu" else None}))


if __name__ == "__main__":
    main(*sys.argv[1:])
