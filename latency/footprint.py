"""Peak memory of an artifact, seen in a process of its own: `python -m latency.footprint ENGINE TARGET` prints MiB.

That process holds the runtime and the engine, not PyTorch.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]


def peak_rss_mib(engine: Path, target: str) -> float | None:
    """Return the peak resident memory, in MiB, of a fresh process that loads and runs `engine`; None where that cannot be had."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "latency.footprint", str(engine), target]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None


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


def main(engine: str, target: str) -> None:
    """Run an artifact three times and print the peak."""
    from export.artifact import INPUT_NAMES
    from export.ort_session import OrtSession
    from latency.targets import load_target

    where = load_target(target)
    session = OrtSession(Path(engine), where.runtime, threads=where.threads)
    (images_shape, _), (sizes_shape, _) = (session.inputs[name] for name in INPUT_NAMES)
    images = np.random.default_rng(0).standard_normal(images_shape).astype(np.float32)
    sizes = np.broadcast_to(np.array(images_shape[2:], np.int64), sizes_shape).copy()
    for _ in range(3):
        session.run(dict(zip(INPUT_NAMES, (images, sizes), strict=True)))
    print(f"{_own_peak_mib():.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
