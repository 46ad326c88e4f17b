"""The paper's detectors on the device at hand, beside what the paper measured (Joint-DetNAS, Table 4: PyTorch on a V100, batch 1).

Weights are random: with static shapes the time of an engine does not depend on them. What compares across devices is the ratio to R50.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from jdnas.atomic import write_atomically
from jdnas.errors import ConfigError, InputError
from jdnas.models.complexity import multiply_adds
from jdnas.presets import preset, scale_backbone
from jdnas.spec import DetectorSpec
from latency.bench_report import BenchmarkReport, text_table
from latency.blocks import SizeHW
from latency.here import standing
from latency.machine import same_machine
from latency.measure import probe
from latency.sources import MEASURED_LABEL, LatencySource, open_source
from latency.targets import load_target

CLASSES = 80
CANVAS_STEP = 32
REFERENCE = "r50"
_HEADINGS = ("model", "input", "GMAC", "paper GMAC", "PyTorch ms", "x R50", "engine ms", "x R50", "paper FPS", "x R50")


@dataclass(frozen=True, slots=True)
class Published:
    """A row of the paper's Table 4: base, whether searched, input (height, width), G multiply-adds, FPS on a V100."""

    base: str
    searched: bool
    size_hw: SizeHW
    gmac: float
    fps: float

    @property
    def name(self) -> str:
        """The base, and whether it is a student of that base's searched complexity."""
        return f"{self.base}-student" if self.searched else self.base

    @property
    def canvas_hw(self) -> SizeHW:
        """The input padded to whole strides."""
        height, width = (-(-side // CANVAS_STEP) * CANVAS_STEP for side in self.size_hw)
        return height, width


PAPER = (
    Published("r18", False, (800, 1333), 160.5, 28.2), Published("r50", False, (800, 1333), 215.8, 20.5),
    Published("r101", False, (800, 1333), 295.7, 15.9), Published("x101_32x4d", False, (800, 1333), 286.9, 13.2),
    Published("r18", True, (720, 1080), 117.3, 33.0), Published("r50", True, (720, 1080), 145.7, 25.4),
    Published("r101", True, (720, 1080), 153.9, 23.3), Published("x101_32x4d", True, (800, 1333), 266.3, 14.0),
)  # fmt: skip


def spec_of(row: Published) -> DetectorSpec:
    """Return the base, or for a searched row the base with a narrower backbone of the paper's multiply-adds."""
    base = preset(row.base, CLASSES)
    return scaled_to(base, row.size_hw, row.gmac) if row.searched else base


def scaled_to(base: DetectorSpec, size_hw: SizeHW, gmac: float) -> DetectorSpec:
    """Return `base` with its backbone scaled so that multiply-adds at `size_hw` come as near to `gmac` as width steps allow."""
    low, high = 0.1, 2.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if multiply_adds(scale_backbone(base, middle), size_hw) < gmac * 1e9 else (low, middle)
    candidates = [scale_backbone(base, factor) for factor in (low - 0.02, low, high, high + 0.02)]
    return min(candidates, key=lambda spec: abs(multiply_adds(spec, size_hw) - gmac * 1e9))


def members() -> list[tuple[Published, DetectorSpec]]:
    """Return the paper's rows with their specs."""
    return [(row, spec_of(row)) for row in PAPER]


def run_suite(target: str, *, seconds: float, folder: Path | None, json_path: Path | None, console: Console) -> dict[str, Any]:
    """Measure the suite in PyTorch and as engines, or predict it where the target is not here; print, and return as JSON data.

    `folder` keeps models and engines for another run. The file of `json_path` is written after every model, and a run that finds it goes
    on behind its last one.
    """
    where = load_target(target)
    source = None if standing(where).measurable else open_source(where)
    head = {"suite": "paper", "target": where.name, "label": source.label if source else MEASURED_LABEL}
    here = None if source else probe(where)
    result: dict[str, Any] = head | {"note": source.describe() if source else {}, "models": _kept(json_path, head, here)}
    found: dict[str, Any] = result["models"]
    with tempfile.TemporaryDirectory() as temporary:
        for row, spec in members():
            if row.name in found:
                continue
            if source:
                timed = _predicted(source, row, spec)
            else:
                timed = _measured(row, spec, target, seconds, folder or Path(temporary)) | {"provenance": here}
            found[row.name] = timed | {"gmac": multiply_adds(spec, row.size_hw) / 1e9}
            if json_path:
                write_atomically(json_path, json.dumps(result, indent=1).encode())
    console.print(text_table(f"Paper suite on {where.name}: {result['label']}; batch 1", _HEADINGS, _lines(found)))
    for name, one in found.items():
        if "why" in one:
            console.print(f"{name}: {one['why'].split(' (')[0]}", highlight=False, markup=False)
    console.print("paper: PyTorch on a V100 (Joint-DetNAS, Table 4); students here are narrower backbones of its searched multiply-adds",
                  highlight=False)  # fmt: skip
    return result


def _predicted(source: LatencySource, row: Published, spec: DetectorSpec) -> dict[str, Any]:
    try:
        return {"engine_ms": source.latency_ms(spec, row.canvas_hw), "torch_ms": None}
    except InputError as error:  # layers of a kind that the source does not know
        return {"engine_ms": None, "torch_ms": None, "why": str(error)}


def _measured(row: Published, spec: DetectorSpec, target: str, seconds: float, folder: Path) -> dict[str, Any]:
    from latency.benchmark import Sweep, benchmark

    path = folder / f"{row.name}.safetensors"
    _save_random(spec, row.canvas_hw, path)
    report: BenchmarkReport = benchmark([path], target, seconds=seconds, sweep=Sweep(batches=(1,), as_engine=True, folder=folder))
    in_torch, engine = report.rows
    return {
        "torch_ms": in_torch.median_ms, "torch_p5_p95_ms": [in_torch.p5_ms, in_torch.p95_ms],
        "engine_ms": engine.median_ms, "engine_p5_p95_ms": [engine.p5_ms, engine.p95_ms], "peak_rss_mib": engine.peak_rss_mib,
        "repeats": [in_torch.repeats, engine.repeats], "disturbances": report.disturbances,
    }  # fmt: skip


def _save_random(spec: DetectorSpec, size_hw: SizeHW, path: Path) -> None:
    import torch

    from jdnas.models.detector import build
    from jdnas.training.checkpoint import has_detector, save_detector

    if not has_detector(path.with_suffix("")):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            save_detector(path.with_suffix(""), spec, build(spec).state_dict(), {"size_hw": list(size_hw), "weights": "random"})


def _kept(path: Path | None, head: dict[str, str], here: dict[str, Any] | None) -> dict[str, Any]:
    if path is None or not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if all(data[key] == value for key, value in head.items()):
            for one in data["models"].values():
                if here is not None and "provenance" in one:
                    same_machine(one["provenance"], here, f"the suite in {path}")
            return dict(data["models"])
    except (ValueError, KeyError, TypeError):
        pass
    raise ConfigError(f"{path} holds something else than the paper suite on {head['target']}, {head['label']}; give another file")


def _lines(found: dict[str, Any]) -> list[list[str]]:
    lines = []
    reference = next(row for row in PAPER if row.name == REFERENCE)
    for row in PAPER:
        if row.name not in found:
            continue
        one, base = found[row.name], found[REFERENCE]
        cells = [row.name, f"{row.size_hw[1]}x{row.size_hw[0]}", f"{one['gmac']:.1f}", f"{row.gmac:.1f}"]
        for key in ("torch_ms", "engine_ms"):
            known = one[key] is not None and base[key] is not None
            cells += [f"{one[key]:.2f}", f"{one[key] / base[key]:.3f}"] if known else ["-", "-"]
        lines.append([*cells, f"{row.fps:.1f}", f"{reference.fps / row.fps:.3f}"])
    return lines
