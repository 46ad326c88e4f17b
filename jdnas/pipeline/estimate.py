"""What a run would do and take: `jdnas optimize --plan`, and what presets for long runs say before they start."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from jdnas.config import RunConfig
from jdnas.data.images import CACHE_LIMIT_BYTES
from jdnas.models.complexity import multiply_adds, parameters
from jdnas.pipeline.base import check_sources
from jdnas.pipeline.context import Context, load_context
from jdnas.pipeline.probe import Probe, probe
from jdnas.pipeline.progress import CountCallback, counting
from jdnas.pipeline.run_folder import RunFolder
from jdnas.pipeline.speed import check_target
from jdnas.spec import DetectorSpec
from jdnas.teacher.space import SubnetSpace, make_space
from jdnas.training.schedule import steps_of
from jdnas.training.settings import TrainSettings

Json = dict[str, Any]
GIB = 2**30
_MOMENTS = {"sgd": 1, "adamw": 2}
NOT_ESTIMATED = "not estimated"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run: training images, images that are looked at, seconds, and peak memory of its tensors; None: not estimated."""

    name: str
    train_images: int
    look_images: int
    seconds: float | None
    memory_gib: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would do. `notes` say what the figures rest on and what is not in them."""

    steps: tuple[Step, ...]
    device: str
    disk_gib: float
    images_gib: float
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        """All steps with every candidate trained; None where one of them could not be estimated."""
        known = [step.seconds for step in self.steps if step.seconds is not None]
        return sum(known) if len(known) == len(self.steps) else None

    @property
    def memory_gib(self) -> float | None:
        """The most that any step needs; None where one of them could not be estimated."""
        known = [step.memory_gib for step in self.steps if step.memory_gib is not None]
        return max(known) if len(known) == len(self.steps) else None

    def to_dict(self) -> Json:
        """Return plain JSON data."""
        return asdict(self) | {"seconds": self.seconds, "memory_gib": self.memory_gib, "notes": list(self.notes),
                               "steps": [asdict(step) for step in self.steps]}  # fmt: skip

    def line(self) -> str:
        """Return time and memory in one line."""
        memory = NOT_ESTIMATED if self.memory_gib is None else f"{self.memory_gib:.1f} GiB"
        time = NOT_ESTIMATED if self.seconds is None else f"about {time_text(self.seconds)}"
        return f"estimate for {self.device}: {time}, memory {memory}, disk {self.disk_gib:.1f} GiB"


def time_text(seconds: float | None) -> str:
    """Return a time for people, in no more digits than an estimate has."""
    if seconds is None:
        return NOT_ESTIMATED
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.{0 if seconds > 36000 else 1}f} h"


def estimate(config: RunConfig, *, console: Console, quiet: bool = False) -> Estimate:
    """Check what was given as a run would, measure a training step, and add up; nothing is kept.

    The synthetic data set is made in a temporary folder; decoded images that a run would keep on disk stay in memory.
    """
    check_target(config)
    check_sources(config)
    if config.data_settings.cache == "disk":
        config = config.model_copy(update={"data_settings": config.data_settings.model_copy(update={"cache": "ram"})})
    with tempfile.TemporaryDirectory(prefix="jdnas-plan-") as folder, counting(console, quiet=quiet) as count:
        return estimate_of(load_context(config, RunFolder(Path(folder)), count), count)


def estimate_of(context: Context, count: CountCallback) -> Estimate:
    """Measure a training step of the base and of the pool's largest net on the context's device, and add up a run."""
    space = make_space(context.base_spec, context.config.pool)
    count("measuring a training step of the base", 0, 2)
    base = probe(context, context.base_spec)
    count("measuring a training step of the largest teacher", 1, 2)
    largest = probe(context, space.largest)
    count("measuring a training step of the largest teacher", 2, 2)
    return _added_up(context, space, base, largest)


def _added_up(context: Context, space: SubnetSpace, base: Probe, largest: Probe) -> Estimate:
    """Add up the steps; a training step that was not measured is NaN on the way, and None in the result."""
    config, spec, sizes = context.config, context.base_spec, context.sizes_hw
    images, val = len(context.train.records), len(context.val.records)
    smaller = sum(multiply_adds(spec, size) for size in sizes) / len(sizes) / multiply_adds(spec, sizes[-1])
    step_s = _step_seconds(spec, space.largest, base, largest, sizes[-1])

    def seen(train: TrainSettings, epochs: float) -> int:
        return steps_of(epochs, images, train.batch) * train.batch

    def trained(count: int, *nets: DetectorSpec, taught: bool = False) -> float:
        lesson_s = largest.look_s * config.distill.share_taught(count / images) if taught and count else 0.0
        return count * (smaller * (sum(map(step_s, nets)) + lesson_s) + base.load_s)

    look_once, trials = val * base.look_s, config.search.trials
    candidate_images = seen(config.candidate_train, config.candidate_train.epochs)
    base_images = seen(config.base_train, config.base_train.epochs) if config.train_base else 0
    pool_images, pool_s = 0, val * largest.look_s
    for phase in config.pool.phases:
        several = phase.depth_share > 0 or len(phase.widths) > 1
        nets = [space.largest] + ([space.smallest] + [spec] * phase.subnets if several else [])
        count = seen(config.pool.train, phase.epochs)
        pool_images, pool_s = pool_images + count, pool_s + trained(count, *nets)
    candidate_s = trained(candidate_images, spec, taught=True) + len(sizes) * look_once * smaller
    polish = seen(config.candidate_train, config.search.polish_epochs) if config.search.polish_epochs else 0
    polish_s = trained(polish, spec, taught=True) + (len(sizes) * look_once * smaller if polish else 0.0)
    lineage = max(1, trials // 3) * candidate_images + polish
    candidate_memory = _memory(base, config.candidate_train, more=largest.weight_bytes)
    steps = (
        Step("base", base_images, val, _known(trained(base_images, spec) + look_once), _memory(base, config.base_train)),
        Step("teacher pool", pool_images, val, _known(pool_s), _memory(largest, config.pool.train)),
        Step(f"search, up to {trials} candidates", trials * candidate_images, trials * val * len(sizes), _known(trials * candidate_s),
             candidate_memory),
        *([Step("polish", polish, val * len(sizes), _known(polish_s), candidate_memory)] if polish else []),
        Step("control", lineage, val, _known(trained(lineage, spec) + look_once), _memory(base, config.candidate_train)),
        Step("parity check and benchmark", 0, 2 * val, 2 * look_once + 2 * config.benchmark_seconds, 3 * base.weight_bytes / GIB),
    )  # fmt: skip
    return Estimate(steps, str(context.device), _disk(context, space) / GIB, _images(context) / GIB, _notes(context, base, largest))


def _known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds


def _step_seconds(
    base_spec: DetectorSpec, largest_spec: DetectorSpec, base: Probe, largest: Probe, size_hw: tuple[int, int]
) -> Callable[[DetectorSpec], float]:  # fmt: skip
    """Return seconds per image of a training step of any net: the two measured ones, and others by their multiply-adds."""
    base_s, largest_s = (math.nan if one.train_s is None else one.train_s for one in (base, largest))
    low, high = multiply_adds(base_spec, size_hw), multiply_adds(largest_spec, size_hw)
    slope = (largest_s - base_s) / (high - low) if high > low else 0.0

    def seconds(spec: DetectorSpec) -> float:
        if spec == base_spec:
            return base_s
        at = multiply_adds(spec, size_hw)
        return max(base_s + slope * (at - low), base_s * min(1.0, at / low) / 2)

    return seconds


def _memory(one: Probe, train: TrainSettings, more: int = 0) -> float | None:
    """Return GiB of weights, gradients, optimizer state, and the activations of the images that are computed at a time."""
    if one.activation_bytes is None:
        return None
    copies = 2 + _MOMENTS[train.optimizer] + (train.ema > 0)
    return (one.weight_bytes * copies + one.activation_bytes * train.batch // train.accumulate + more) / GIB


def _disk(context: Context, space: SubnetSpace) -> float:
    config, base, largest = context.config, 4 * parameters(context.base_spec), 4 * parameters(space.largest)
    files = 2 if config.student.inherit_optimizer else 1
    return base * files * (config.search.trials + 2) + 3 * base + largest * (len(config.pool.phases) + 1)


def _images(context: Context) -> float:
    """Return the bytes of the decoded images that a run keeps."""
    cache = context.config.data_settings.cache
    if cache == "none":
        return 0.0
    splits = [sum(record.height * record.width * 3 for record in split.records) for split in (context.train, context.val)]
    return sum(size for size in splits if cache != "auto" or size <= CACHE_LIMIT_BYTES)


def _notes(context: Context, base: Probe, largest: Probe) -> tuple[str, ...]:
    height, width = context.base_size_hw
    parts = []
    for name, one in (("base", base), ("largest teacher", largest)):
        train = NOT_ESTIMATED if one.train_s is None else f"{1000 * one.train_s:.0f} ms"
        parts.append(f"{name} {train} training and {1000 * one.look_s:.0f} ms inference per image")
    measured = f"measured now on {context.device} at {width}x{height}: {'; '.join(parts)}"
    notes = [f"{measured}; other nets and sizes in proportion to multiply-adds",
             "not in it: export, reading the data for the first time, and what the allocator adds to the tensors"]  # fmt: skip
    if base.train_s is None or largest.train_s is None:
        notes.append("a training step takes too long on this machine to be measured; plan on the machine that is to do the run")
    return tuple(notes)
