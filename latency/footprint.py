"""Peak memory of an artifact, seen in a process of its own: `python -m latency.footprint ENGINE TARGET` prints MiB."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]


def peak_rss_mib(engine: Path, target: str) -> float | None:
    """Return the peak resident memory, in MiB, of a fresh process that loads and runs `engine`; None where that cannot be had."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "latency.footprint", str(engine), target]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None


def _own_peak_mib() -> float:
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 2**20
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def main(engine: str, target: str) -> None:
    """Run an artifact three times and print the peak."""
    from latency.engines import open_bound
    from latency.targets import load_target

    _, call = open_bound(Path(engine), load_target(target))
    for _ in range(3):
        call()
    print(f"{_own_peak_mib():.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
