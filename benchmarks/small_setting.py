"""The small CPU setting of the teaching benchmarks: synthetic shapes at 96 px, a ResNet-18 of a quarter of the width.

It is sized so that a training takes a minute or two on one core. What holds here need not hold at full scale; tables made with
it say so.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from provenance import provenance

from jdnas.config import RunConfig, parse_overrides, resolve
from jdnas.pipeline.context import Context, load_context
from jdnas.pipeline.run_folder import begin_run, kept_settings, open_run
from jdnas.reproduce import records
from jdnas.training.checkpoint import read_json, write_json
from jdnas.training.settings import TrainSettings

LABEL = "small CPU setting: shapes, 96x96, ResNet-18 at a quarter of its width; not comparable with the paper's COCO figures"
SETTINGS = Path(__file__).with_suffix(".yaml")


def small_config(*more: str) -> RunConfig:
    """Return the settings with some more `KEY=VALUE` on top."""
    return resolve(str(SETTINGS), parse_overrides(list(more)))


def small_context(work: Path, *more: str) -> Context:
    """Read the data and settings of the small setting; `work` keeps them."""
    folder, config = open_run(work, small_config(*more), resume=True)
    context = load_context(config, folder)
    begin_run(folder, config)
    return context


def training(epochs: float, lr: float = 0.002) -> TrainSettings:
    """Return the settings of a training from scratch in this setting."""
    return TrainSettings(epochs=epochs, batch=8, optimizer="adamw", lr=lr, weight_decay=0.05, gamma_penalty=0.0)


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what an earlier call left at `path`, or make it, with the seconds it took, and print it."""
    if path.exists():
        return read_json(path)
    result = records.kept(path, make)
    print(json.dumps({key: value for key, value in result.items() if not isinstance(value, list | dict)}), flush=True)
    return result


def runs_in(work: Path, pattern: str) -> list[dict[str, Any]]:
    """Return what the runs of all seeds left in a folder; `pattern` names their files up to the seed, such as `pool_*_`."""
    return [read_json(path) for path in sorted(work.glob(f"{pattern}*.json")) if path.stem.rpartition("_")[2].isdigit()]


def publish(path: Path, table: dict[str, Any], context: Context, *, label: str = LABEL) -> None:
    """Write a table with its label, the settings that it was made with (where they are not the defaults), and its provenance."""
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = kept_settings(context.folder).model_dump(mode="json", exclude_defaults=True, exclude={"preset"})
    write_json(path, {"setting": label, "settings": settings, "provenance": provenance(), **table})
