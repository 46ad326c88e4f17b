"""What each layer of an engine takes, as its runtime tells it."""

import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from export.artifact import INPUT_NAMES
from export.ort_session import OrtSession
from latency.targets import Target

_WARMUP, _RUNS = 2, 7


@dataclass(frozen=True, slots=True)
class LayerTime:
    """A layer as the runtime fused it: name, operator, and the median of its milliseconds in one run."""

    name: str
    operator: str
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Layers, heaviest first, and the median of whole runs by the runtime's own clock (with the profiler's overhead)."""

    layers: tuple[LayerTime, ...]
    run_ms: float

    def by_operator(self) -> dict[str, float]:
        """Return milliseconds per kind of operator, heaviest first."""
        sums: dict[str, float] = defaultdict(float)
        for layer in self.layers:
            sums[layer.operator] += layer.latency_ms
        return dict(sorted(sums.items(), key=lambda item: -item[1]))


def profile_engine(path: Path, target: Target) -> Profile:
    """Run an artifact some times under the profiler of ONNX Runtime."""
    with tempfile.TemporaryDirectory() as folder:
        session = OrtSession(path, target.runtime, threads=target.threads, where=str(path), profile=Path(folder) / "trace")
        (shape, _), (sizes_shape, _) = (session.inputs[name] for name in INPUT_NAMES)
        images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        sizes = np.broadcast_to(np.array(shape[2:], np.int64), sizes_shape).copy()
        call = session.bind(dict(zip(INPUT_NAMES, (images, sizes), strict=True)))
        for _ in range(_WARMUP + _RUNS):
            call()
        return read_trace(json.loads(session.end_profiling().read_text(encoding="utf-8")), skip=_WARMUP)


def read_trace(events: list[dict[str, Any]], *, skip: int) -> Profile:
    """Read a Chrome trace of ONNX Runtime, leaving out the first `skip` runs."""
    nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
    runs: list[float] = []
    for event in events:
        name, milliseconds = str(event.get("name", "")), float(event.get("dur", 0)) / 1e3
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            nodes[name.removesuffix("_kernel_time"), event["args"]["op_name"]].append(milliseconds)
        elif event.get("cat") == "Session" and name == "model_run":
            runs.append(milliseconds)
    layers = [LayerTime(*key, median(times[skip:])) for key, times in nodes.items() if len(times) > skip]
    return Profile(tuple(sorted(layers, key=lambda layer: -layer.latency_ms)), median(runs[skip:]) if runs[skip:] else 0.0)
