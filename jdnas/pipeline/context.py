"""What every step of a run works with: settings, data, resolutions, the base's spec, the device and the cost."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from jdnas.config import RunConfig
from jdnas.data.augment import AugmentSettings
from jdnas.data.batches import eval_batches, train_batches
from jdnas.data.coco import check_splits, load_split
from jdnas.data.images import keep_images
from jdnas.data.records import DetectionSet, Split
from jdnas.data.shapes import make_shapes
from jdnas.data.types import Batch
from jdnas.errors import ConfigError
from jdnas.pipeline.progress import CountCallback
from jdnas.pipeline.run_folder import RunFolder, begin_run
from jdnas.pipeline.scalars import NO_SCALARS, Scalars, check_tensorboard
from jdnas.pipeline.weights import about_weights, check_trained
from jdnas.presets import plain_name, preset, scale_backbone
from jdnas.spec import DetectorSpec, FamilyTraits
from jdnas.teacher.pool import Calibration
from jdnas.training.checkpoint import has_detector
from jdnas.training.distributed import ALONE, Team
from jdnas.training.settings import TrainSettings

SizeHW = tuple[int, int]
STRIDE = 32
BOTH_ORIENTATIONS = 0.1  # share of the rarer orientation from which a square canvas pays
SHAPES = "shapes"
SPLITS: tuple[Split, Split] = ("train", "val")
PRETRAINED = frozenset({"lite0", "lite1", "lite2"})


@dataclass(frozen=True)
class Context:
    """The inputs of a run, read and checked. `sizes_hw` are the resolutions in ascending order; the last is the base's."""

    config: RunConfig
    folder: RunFolder
    train: DetectionSet
    val: DetectionSet
    sizes_hw: tuple[SizeHW, ...]
    base_spec: DetectorSpec
    device: torch.device
    team: Team = ALONE
    scalars: Scalars = NO_SCALARS

    @property
    def base_size_hw(self) -> SizeHW:
        """The resolution that the base is measured at."""
        return self.sizes_hw[-1]

    def described(self, size_hw: SizeHW | None = None, **more: Any) -> dict[str, Any]:
        """Return what the file of a detector of this run says: classes, input size (default: the base's), and `more`."""
        return {"classes": list(self.train.classes), "size_hw": list(size_hw or self.base_size_hw), **more}

    def train_batches(self, settings: TrainSettings, seed: int, start: int) -> Iterator[Batch]:
        """Iterate what the steps of a training are computed in, from part `start` on; each part draws its resolution."""
        traits, data = self.base_spec.traits, self.config.data_settings
        sizes_hw = tuple(dict.fromkeys(scaled(self.base_size_hw, scale) for scale in settings.scales)) or self.sizes_hw
        return train_batches(
            self.train, sizes_hw=sizes_hw, batch=settings.batch // settings.accumulate, seed=seed, start_step=start,
            augment=AugmentSettings(), mean=traits.mean, std=traits.std, workers=data.workers, share=(self.team.rank, self.team.world),
            repeat_threshold=data.repeat_threshold,
        )  # fmt: skip

    def calibration_images(self, count: int, size_hw: SizeHW | None = None, traits: FamilyTraits | None = None) -> Iterator[Tensor]:
        """Iterate the first `count` training images without augmentation, for BN statistics; `traits` normalizes (default: the base's)."""
        traits, left, settings = traits or self.base_spec.traits, count, self.config.data_settings
        size_hw = size_hw or self.base_size_hw
        for item in eval_batches(
            self.train, size_hw=size_hw, batch=settings.eval_batch, mean=traits.mean, std=traits.std, workers=settings.workers
        ):  # fmt: skip
            yield item.images[:left].to(self.device)
            left -= len(item.images)
            if left <= 0:
                return

    def calibration(self, count: int, size_hw: SizeHW, traits: FamilyTraits) -> Calibration:
        """Return where a teacher's BN statistics at one resolution come from: at most `count` training images."""
        count = min(count, len(self.train.records))
        return Calibration(size_hw, count, lambda: self.calibration_images(count, size_hw, traits))


def pick_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda` names on this machine."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for, but PyTorch finds no CUDA device; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def round_up(pixels: float) -> int:
    """Round a side up to a multiple of the largest stride."""
    return max(STRIDE, -(-round(pixels) // STRIDE) * STRIDE)


def scaled(size_hw: SizeHW, scale: float) -> SizeHW:
    """Return the canvas for images that are `scale` times as large."""
    return round_up(size_hw[0] * scale), round_up(size_hw[1] * scale)


def is_pretrained(base: str) -> bool:
    """Tell whether ImageNet weights of a named base (with whatever extras) come with a package."""
    return plain_name(base) in PRETRAINED


def canvas_sizes(data: DetectionSet, long_sides: tuple[int, ...]) -> tuple[SizeHW, ...]:
    """Return the canvases for `long_sides` that suit a data set: its usual orientation, square where both are common.

    Where the largest exceeds the images, all are reduced in proportion, since enlarging adds computation and no detail.
    """
    usual = median(max(record.height, record.width) for record in data.records)
    tall = sum(record.height > record.width for record in data.records) / len(data.records)
    wide = sum(record.width > record.height for record in data.records) / len(data.records)
    ratio = median(min(r.height, r.width) / max(r.height, r.width) for r in data.records)
    short = 1.0 if min(tall, wide) > BOTH_ORIENTATIONS else ratio
    reduction = min(1.0, round_up(usual) / max(long_sides))
    sizes = set()
    for long_side in long_sides:
        side = round_up(long_side * reduction)
        other = round_up(side * short)
        sizes.add((side, other) if tall > wide else (other, side))
    return tuple(sorted(sizes, key=lambda size: size[0] * size[1]))


def base_spec_of(config: RunConfig, num_classes: int, long_side: int) -> DetectorSpec:
    """Return the spec of the configured base detector for canvases up to `long_side` pixels.

    Where the user gives weights, the file decides on the architecture, and on widths, anchors and conventions of the heads that it has.
    """
    model = config.model
    if config.weights is None:
        spec, has_heads = preset(config.base, num_classes), False
        if not is_pretrained(config.base):
            spec = scale_backbone(spec, model.scratch_width, config.width_step)
    else:
        about = about_weights(Path(config.weights))
        spec, has_heads = about.spec, about.has_heads
    head = replace(
        spec.head, proposals=model.proposals, candidates=model.candidates, train_proposals=model.train_proposals,
        train_candidates=model.train_candidates, roi_samples=model.roi_samples,
        roi_sampling=spec.head.roi_sampling if model.roi_sampling is None else model.roi_sampling,
    )  # fmt: skip
    if has_heads:
        return replace(spec, num_classes=num_classes, head=head)
    shrink = min(1.0, long_side / model.anchor_reference)
    sizes = tuple(max(4, round(size * shrink)) for size in spec.head.anchor_sizes)
    head = replace(head, width=model.head_width, rpn_width=model.rpn_width, anchor_sizes=sizes)
    return replace(spec, num_classes=num_classes, neck=model.neck, head=head)


def data_folder(config: RunConfig, folder: RunFolder) -> Path:
    """Return the folder of the run's data set; the synthetic one is made inside the run folder, which begins a new run."""
    if config.data != SHAPES:
        return Path(config.data)
    settings = config.data_settings
    root = folder.root / SHAPES
    if not folder.config_file.exists():
        begin_run(folder, config)
    make_shapes(root, train=settings.shapes_train, val=settings.shapes_val, size=settings.shapes_size, seed=config.seed)
    return root


def for_trained_weights(config: RunConfig) -> RunConfig:
    """Return the settings with their learning rates as they hold for a base that starts from trained weights."""
    factor = config.pretrained_lr_factor

    def scaled(train: TrainSettings) -> TrainSettings:
        return train.model_copy(update={"lr": train.lr * factor})

    pool = config.pool.model_copy(update={"train": scaled(config.pool.train)})
    return config.model_copy(
        update={"base_train": scaled(config.base_train), "candidate_train": scaled(config.candidate_train), "pool": pool}
    )


def _counted(count: CountCallback | None, split: str) -> Callable[[int, int], None] | None:
    return None if count is None else lambda done, total: count(f"checking {split} images", done, total)


def load_context(config: RunConfig, folder: RunFolder, count: CountCallback | None = None) -> Context:
    """Read and check the data, and derive resolutions, spec and device from the settings; `count` is told how far that is."""
    device = pick_device(config.device)
    if config.tensorboard:
        check_tensorboard()
    root = data_folder(config, folder)
    train, val = (load_split(root, split, _counted(count, split)) for split in SPLITS)
    check_splits(train, val)
    sizes = canvas_sizes(train, config.data_settings.long_sides)
    if has_detector(folder.base):  # whatever became of the weights that it was made from
        spec = about_weights(folder.base.with_suffix(".json")).spec
    else:
        if config.weights is not None and not config.train_base:
            check_trained(Path(config.weights), train.classes)
        spec = base_spec_of(config, len(train.classes), max(sizes[-1]))
    if is_pretrained(config.base) or config.weights is not None:
        config = for_trained_weights(config)
    for split in (train, val):
        keep_images(split, config.data_settings.cache, folder.root / "cache")
    scalars = Scalars(folder.root / "tensorboard") if config.tensorboard else NO_SCALARS
    return Context(config, folder, train, val, sizes, spec, device, scalars=scalars)
