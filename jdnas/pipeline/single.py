"""One detector or engine at a time: load it, evaluate it, let it detect."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from export.feeding import prepare
from export.runners import Runner, open_runner, padded_run, predictor
from export.runtimes import SUFFIXES as ENGINE_SUFFIXES
from jdnas.data.canvas import boxes_in_image, place_on_canvas
from jdnas.data.coco import load_split
from jdnas.errors import CheckpointError, ConfigError, DataError, unknown_name
from jdnas.models.bound import materialize
from jdnas.models.weights import State
from jdnas.pipeline.progress import counting
from jdnas.pipeline.weights import open_weights
from jdnas.sizes import SizeHW, size_hw_from_text
from jdnas.spec import DetectorSpec
from jdnas.training.evaluate import Metrics, evaluate


@dataclass(frozen=True)
class OpenModel:
    """A detector ready to detect: `predict(images, sizes_hw)` on its canvas, its classes and normalization; the runner of an engine."""

    predict: Callable[..., Any]
    spec: DetectorSpec
    classes: tuple[str, ...]
    size_hw: SizeHW
    runner: Runner | None = None


@dataclass(frozen=True)
class Weights:
    """A trained detector and the canvas to run it at."""

    spec: DetectorSpec
    state: State
    classes: tuple[str, ...]
    size_hw: SizeHW


def read_weights(model: Path, size_hw: SizeHW | None) -> Weights:
    """Read the weights of a whole detector, ours or another project's; the file's own canvas holds unless one is given."""
    if model.suffix in ENGINE_SUFFIXES:
        raise CheckpointError(f"{model} is an engine; give the weights that it was made from")
    read = open_weights(model)
    if not read.has_heads:
        raise CheckpointError(f"{model} holds a backbone without detection heads; train it first with: jdnas train --weights {model}")
    size_hw = size_hw or read.size_hw
    if size_hw is None:
        raise ConfigError(f"{model} does not say its input size; give it with --size WIDTHxHEIGHT")
    for line in read.lines:  # beside the results, which may be read by programs
        print(line, file=sys.stderr)
    classes = read.classes or tuple(f"class {i + 1}" for i in range(read.spec.num_classes))
    return Weights(read.spec, read.state, classes, size_hw)


@contextmanager
def open_model(model: Path, size: str | None, runtime: str) -> Iterator[OpenModel]:
    """Open an engine or the weights of a detector, ours or another project's."""
    if model.suffix in ENGINE_SUFFIXES:
        if size is not None:
            raise ConfigError("an engine has its size inside; --size is for weights")
        with open_runner(model, runtime) as runner:
            info = runner.metadata
            yield OpenModel(predictor(runner), info.spec, tuple(info.classes), info.size_hw, runner)
        return
    read = read_weights(model, size_hw_from_text(size) if size else None)
    yield OpenModel(materialize(read.spec, read.state), read.spec, read.classes, read.size_hw)


def evaluate_model(
    model: Path, data: Path, split: str, size: str | None, runtime: str, *, console: Console, quiet: bool = False
) -> Metrics:  # fmt: skip
    """Return the COCO metrics of a model on a split of a data set with the same classes."""
    if split not in ("train", "val"):
        raise ConfigError(unknown_name("split", split, ("train", "val")))
    with counting(console, quiet=quiet) as count:
        images = load_split(data, split, lambda done, total: count("reading images", done, total))  # type: ignore[arg-type]
        with open_model(model, size, runtime) as opened:
            if opened.spec.num_classes != len(images.classes):
                known = ", ".join(images.classes)
                raise DataError(f"{model} knows {opened.spec.num_classes} classes, {data} has {len(images.classes)}: {known}")
            traits, total = opened.spec.traits, len(images.records)
            return evaluate(
                opened.predict, images, size_hw=opened.size_hw, batch=1, mean=traits.mean, std=traits.std,
                on_batch=lambda done: count("evaluating", done, total),
            )  # fmt: skip


def detect_in_image(model: OpenModel, image: Any, score: float) -> tuple[Any, Any, Any]:
    """Detect in one RGB image `[H, W, 3]` uint8; return boxes xyxy in its pixels, labels (1..K) and scores, best first."""
    if model.runner is not None:
        ready = prepare(model.runner.metadata, image)
        outputs = padded_run(model.runner, ready.images, ready.sizes_hw)
        boxes, labels, scores, count = (outputs[name][0] for name in ("boxes", "labels", "scores", "count"))
        boxes = ready.boxes_in_image(boxes)
    else:
        traits = model.spec.traits
        placed = place_on_canvas(image, model.size_hw, traits.mean, traits.std)
        with torch.inference_mode():
            found = model.predict(torch.from_numpy(placed.pixels)[None], torch.tensor([placed.size_hw]))
        boxes, labels, scores, count = (np.asarray(part)[0] for part in (found.boxes_xyxy, found.labels, found.scores, found.count))
        boxes = boxes_in_image(boxes, placed)
    keep = (scores >= score) & (np.arange(len(scores)) < int(count))
    return boxes[keep], labels[keep], scores[keep]
