"""Latency tables for the search space of a base detector."""

import random
from collections.abc import Callable
from pathlib import Path

from jdnas.config import RunConfig, resolve
from jdnas.pipeline.context import SizeHW, base_spec_of, round_up
from jdnas.spec import DetectorSpec
from jdnas.teacher.space import make_space
from latency.measure import measure_table
from latency.targets import load_target

Progress = Callable[[int, int, str], None]
CLASSES = 7
SAMPLES = 12


def search_cases(config: RunConfig) -> list[tuple[DetectorSpec, SizeHW]]:
    """Return the detectors and canvases whose layers a table for this base should hold: base, pool ends and samples, each size.

    Canvases are those of large images and those of the synthetic set.
    """
    largest = max(config.data_settings.long_sides)
    reductions = (1.0, min(1.0, config.data_settings.shapes_size / largest))
    sides = sorted({round_up(side * reduction) for side in config.data_settings.long_sides for reduction in reductions}, reverse=True)
    spec = base_spec_of(config, CLASSES, max(sides))
    space, rng = make_space(spec, config.pool), random.Random(0)
    specs = [spec, space.largest, space.smallest, *(space.sample(rng) for _ in range(SAMPLES))]
    return [(one, (side, side)) for one in dict.fromkeys(specs) for side in sides]


def measure_for(
    target_name: str, base: str, preset: str, seconds: float, out: Path | None, progress: Progress | None = None
) -> tuple[Path, int]:
    """Measure (or go on measuring) the table of a target for a base's search space; return its file and number of rows."""
    target = load_target(target_name)
    path = out or target.table_path
    table = measure_table(target, search_cases(resolve(preset, {"base": base})), budget_s=seconds, path=path, on_progress=progress)
    return path, len(table.blocks) + len(table.engines)
