"""Records of trainings: one JSON file each, made once and read from then on."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from jdnas.distill.settings import DistillSettings
from jdnas.distill.teacher import Teacher
from jdnas.models.weights import State
from jdnas.pipeline.context import Context
from jdnas.pipeline.detector_training import evaluate_detector, train_detector
from jdnas.reproduce.provenance import provenance
from jdnas.spec import DetectorSpec
from jdnas.training.checkpoint import has_detector, load_detector, read_json, save_detector, write_json
from jdnas.training.loop import Resume
from jdnas.training.settings import TrainSettings

Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One training or evaluation of an experiment: `make` returns its record, which `path` keeps."""

    path: Path
    what: str
    make: Callable[[], Record]

    @property
    def done(self) -> bool:
        """Whether the record is there."""
        return self.path.exists()

    def record(self) -> Record:
        """Return the record that is there, or make it."""
        return kept(self.path, self.make)


def kept(path: Path, make: Callable[[], Record]) -> Record:
    """Return what an earlier call left at `path`, or make it, with the seconds that it took and what it was made with."""
    if path.exists():
        return read_json(path)
    started = time.monotonic()
    result = make() | {"wall_seconds": round(time.monotonic() - started, 1), "provenance": provenance()}
    write_json(path, result)
    return result


def file_name(*parts: object) -> str:
    """Return a file name of letters, digits and `_` that names a record."""
    return "_".join("".join(c if c.isalnum() else "_" for c in str(part)) for part in parts)


def spread(values: Sequence[float]) -> Record:
    """Return mean and sample standard deviation (None for one value) beside the values."""
    return {"mean": round(mean(values), 4), "std": round(stdev(values), 4) if len(values) > 1 else None, "values": list(values)}


def partial_path(stem: Path) -> Path:
    """Return where an unfinished training of a detector is kept."""
    return stem.with_name(f"{stem.name}.partial.safetensors")


def trained(
    context: Context, stem: Path, spec: DetectorSpec, start: Callable[[], State], settings: TrainSettings, *, seed: int,
    teacher: Teacher | None = None, distill: DistillSettings | None = None,
) -> tuple[State, Record]:  # fmt: skip
    """Train a detector once and keep it at `stem`; return its weights and what is known of them.

    Known are images, skipped steps, seconds, loss curve, and the APs at the context's base resolution. A training that was cut off goes on.
    """
    if not has_detector(stem):
        resume = Resume(partial_path(stem), context.config.checkpoint_seconds)
        state, report = train_detector(context, spec, start(), settings, seed=seed, teacher=teacher, distill=distill, resume=resume)
        metrics = evaluate_detector(context, spec, state, context.base_size_hw)
        known = {"images": report.images, "skipped": report.skipped, "seconds": round(report.seconds, 1), "curve": report.curve,
                 "ap": metrics.ap, "ap50": metrics.ap50, "ap75": metrics.ap75}  # fmt: skip
        save_detector(stem, spec, state, {**known, "classes": list(context.train.classes), "size_hw": list(context.base_size_hw)})
        resume.path.unlink(missing_ok=True)
    _, state, meta = load_detector(stem)
    return state, meta
