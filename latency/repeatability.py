"""How well a measurement repeats: `python -m latency.repeatability ENGINE TARGET SECONDS` prints the median of one fresh process."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from jdnas.errors import TargetError
from latency.device_lock import held_device
from latency.fresh import run_fresh
from latency.here import check_here
from latency.targets import load_target


@dataclass(frozen=True, slots=True)
class Repeats:
    """Medians in ms of one engine, each of a process of its own."""

    engine: str
    medians_ms: tuple[float, ...]

    @property
    def spread(self) -> float:
        """The range of the medians over their median."""
        return (max(self.medians_ms) - min(self.medians_ms)) / median(self.medians_ms)


def repeat(engines: Sequence[Path], target_name: str, *, times: int, seconds: float) -> list[Repeats]:
    """Measure engines `times` times in turns, each time in a fresh process; a TargetError where one of those fails."""
    target = load_target(target_name)
    check_here(target)
    medians: list[list[float]] = [[] for _ in engines]
    with held_device(target):
        for _ in range(times):
            for path, own in zip(engines, medians, strict=True):
                own.append(_fresh(path, target_name, seconds))
    return [Repeats(str(path), tuple(own)) for path, own in zip(engines, medians, strict=True)]


def _fresh(path: Path, target_name: str, seconds: float) -> float:
    done = run_fresh("latency.repeatability", str(path), target_name, str(seconds))
    if done.returncode:
        raise TargetError(f"{path} could not be measured in a fresh process: {(done.stderr.splitlines() or ['no message'])[-1]}")
    return float(done.stdout)


def main(path: str, target_name: str, seconds: str) -> None:
    """Measure one engine and print its median in ms."""
    from latency.subjects import open_engine
    from latency.timing import time_call

    print(time_call(open_engine(Path(path), load_target(target_name)).call, seconds=float(seconds)).median_ms)


if __name__ == "__main__":
    main(*sys.argv[1:])
