"""What each layer of an engine takes, as its runtime tells it."""

import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from export.artifact import INPUT_NAMES, ArtifactInfo
from export.feeding import noise
from export.openvino_session import OpenVinoSession
from export.ort_session import OrtSession
from export.session import Array, Session
from jdnas.errors import TargetError
from latency.targets import Target

_WARMUP, _RUNS = 2, 7
_PROFILED = ("ort-cpu", "ort-cuda", "openvino")


@dataclass(frozen=True, slots=True)
class LayerTime:
    """A layer as the runtime fused it: name, operator, and milliseconds in one run (the median of some, with OpenVINO the mean)."""

    name: str
    operator: str
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Layers, heaviest first, and a whole run by the runtime's own clock: the median of some, with the profiler's overhead.

    OpenVINO tells no whole run; there it is the sum of the layers.
    """

    layers: tuple[LayerTime, ...]
    run_ms: float

    def by_operator(self) -> dict[str, float]:
        """Return milliseconds per kind of operator, heaviest first."""
        sums: dict[str, float] = defaultdict(float)
        for layer in self.layers:
            sums[layer.operator] += layer.latency_ms
        return dict(sorted(sums.items(), key=lambda item: -item[1]))


def profile_engine(path: Path, target: Target) -> Profile:
    """Run an artifact some times under the profiler of its runtime; a TargetError for a runtime without one."""
    if target.runtime == "openvino":
        return _openvino_profile(path, target)
    check_profiler(target)
    with tempfile.TemporaryDirectory() as folder:
        session = OrtSession(path, target.runtime, threads=target.threads, where=str(path), profile=Path(folder) / "trace")
        call = session.bind(_feeds(session))
        for _ in range(_WARMUP + _RUNS):
            call()
        return read_trace(json.loads(session.end_profiling().read_text(encoding="utf-8")), skip=_WARMUP)


def check_profiler(target: Target) -> None:
    """Raise a TargetError for a runtime whose layers cannot be timed here."""
    if target.runtime not in _PROFILED:
        raise TargetError(f"--profile knows the layers of {', '.join(_PROFILED)}, not those of {target.runtime}; leave it out")


def _openvino_profile(path: Path, target: Target) -> Profile:
    session = OpenVinoSession(path, threads=target.threads, where=str(path), profile=True)
    rows = [LayerTime(*row) for row in session.layers(_feeds(session), _RUNS)]
    return Profile(tuple(sorted(rows, key=lambda layer: -layer.latency_ms)), sum(row.latency_ms for row in rows))


def _feeds(session: Session) -> dict[str, Array]:
    info = ArtifactInfo.from_properties(session.properties, "the artifact")
    given = dict(zip(INPUT_NAMES, noise(info), strict=True))
    return {name: given[name] for name in session.inputs}


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
