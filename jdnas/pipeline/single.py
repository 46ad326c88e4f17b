"""One detector or engine at a time: load it, export it, evaluate it, let it detect."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from export.forms import forms_for
from export.graph import export_onnx
from export.parity import compare
from export.runners import open_runner, predictor
from export.runtimes import SUFFIXES as ENGINE_SUFFIXES
from export.triton import write_triton_repository
from jdnas.data.canvas import boxes_in_image, place_on_canvas
from jdnas.data.coco import load_split
from jdnas.errors import CheckpointError, ConfigError, DataError, ParityError, unknown_name
from jdnas.models.bound import materialize
from jdnas.models.weights import State
from jdnas.pipeline.progress import counting
from jdnas.pipeline.weights import TORCH_SUFFIXES, open_weights, write_for_torchvision
from jdnas.sizes import SizeHW, size_hw_from_text
from jdnas.spec import DetectorSpec
from jdnas.training.evaluate import Metrics, evaluate


@dataclass(frozen=True)
class OpenModel:
    """A detector ready to detect: `predict(images, sizes_hw)` on its canvas, with its classes and normalization."""

    predict: Callable[..., Any]
    spec: DetectorSpec
    classes: tuple[str, ...]
    size_hw: SizeHW


def read_weights(model: Path, size: str | None) -> tuple[DetectorSpec, State, tuple[str, ...], SizeHW]:
    """Read weights of a whole detector, ours or another project's, with class names and the canvas to run it at."""
    if model.suffix in ENGINE_SUFFIXES:
        raise CheckpointError(f"{model} is an engine; give the weights that it was made from")
    read = open_weights(model)
    if not read.has_heads:
        raise CheckpointError(f"{model} holds a backbone without detection heads; train it first with: jdnas train --weights {model}")
    if size is None and read.size_hw is None:
        raise ConfigError(f"{model} does not say its input size; give it with --size WIDTHxHEIGHT")
    size_hw = size_hw_from_text(size) if size else read.size_hw
    assert size_hw is not None
    for line in read.lines:  # beside the results, which may be read by programs
        print(line, file=sys.stderr)
    return read.spec, read.state, read.classes or tuple(f"class {i + 1}" for i in range(read.spec.num_classes)), size_hw


@contextmanager
def open_model(model: Path, size: str | None, runtime: str) -> Iterator[OpenModel]:
    """Open an engine or the weights of a detector, ours or another project's."""
    if model.suffix in ENGINE_SUFFIXES:
        if size is not None:
            raise ConfigError("an engine has its size inside; --size is for weights")
        with open_runner(model, runtime) as runner:
            info = runner.metadata
            yield OpenModel(predictor(runner), info.spec, tuple(info.classes), info.size_hw)
        return
    spec, state, classes, size_hw = read_weights(model, size)
    yield OpenModel(materialize(spec, state), spec, classes, size_hw)


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


def export_model(
    model: Path, out: Path, size: str | None, batch: int, *, runtime: str = "ort-cpu", checked_in: str = "ort-cpu"
) -> str:  # fmt: skip
    """Export weights to ONNX for a runtime, compare the file with PyTorch, and say what came out; or write them for torchvision."""
    if out.suffix in TORCH_SUFFIXES:
        return write_for_torchvision(open_weights(model), out)
    if out.suffix != ".onnx":
        raise ConfigError(f"--out must end in .onnx, or in .pth for torchvision; got {out}")
    spec, state, classes, size_hw = read_weights(model, size)
    unchecked = out.with_suffix(".unchecked.onnx")
    provenance, forms = {"weights": model.name}, forms_for(runtime)
    export_onnx(state, spec, size_hw=size_hw, batch=batch, path=unchecked, classes=classes, provenance=provenance, forms=forms)
    with open_runner(unchecked, checked_in) as runner:
        result = compare(materialize(spec, state), predictor(runner), noise_batches(size_hw, batch))
    if not result.passed:
        failed = out.with_suffix(".failed.onnx")
        unchecked.replace(failed)
        raise ParityError(f"the engine differs from PyTorch: {result.message}; it was kept as {failed}")
    unchecked.replace(out)
    return f"{out}: {size_hw[1]}x{size_hw[0]}, batch {batch}; {result.message}"


def export_for_triton(model: Path, out: Path | None, repository: Path, size: str | None, batch: int) -> str:
    """Put an engine into a Triton model repository: `model` itself, or what `export_model` makes of these weights as `out`."""
    engine, made = model, ""
    if model.suffix != ".onnx":
        if out is None or out.suffix != ".onnx":
            raise ConfigError("--triton takes an engine; name the one to make of these weights with --out FILE.onnx")
        engine, made = out, export_model(model, out, size, batch) + "\n"
    elif out is not None or size is not None or batch != 1:
        raise ConfigError(f"{model} is an engine already, whose size and batch are inside; leave out --out, --size and --batch")
    return f"{made}{write_triton_repository(engine, repository)}: start with tritonserver --model-repository {repository}"


@dataclass(frozen=True)
class _NoiseBatch:
    images: torch.Tensor
    sizes_hw: torch.Tensor


def noise_batches(size_hw: SizeHW, batch: int) -> Iterator[_NoiseBatch]:
    """Give a few batches of noise that fills the canvas."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        images = torch.randn(batch, 3, *size_hw, generator=generator)
        yield _NoiseBatch(images, torch.tensor([size_hw] * batch))


def detect_in_image(model: OpenModel, image: Any, score: float) -> tuple[Any, Any, Any]:
    """Detect in one RGB image `[H, W, 3]` uint8; return boxes xyxy in its pixels, labels (1..K) and scores, best first."""
    traits = model.spec.traits
    placed = place_on_canvas(image, model.size_hw, traits.mean, traits.std)
    with torch.inference_mode():
        found = model.predict(torch.from_numpy(placed.pixels)[None], torch.tensor([placed.size_hw]))
    boxes, labels, scores = (np.asarray(part)[0] for part in (found.boxes_xyxy, found.labels, found.scores))
    keep = (scores >= score) & (np.arange(len(scores)) < int(np.asarray(found.count)[0]))
    return boxes_in_image(boxes[keep], placed), labels[keep], scores[keep]
