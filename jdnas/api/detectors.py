"""Functions on one detector: predict, evaluate, export, import, prune, complexity."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jdnas.api.results import Trained
from jdnas.api.settings import Settings, run_config
from jdnas.errors import ConfigError
from jdnas.models.complexity import multiply_adds, parameters, parameters_per_part, per_part
from jdnas.pipeline.engines import export_engine
from jdnas.pipeline.exports import ExportOptions, export_for_triton, export_model
from jdnas.pipeline.predict import Predictions, predict_files
from jdnas.pipeline.progress import counting
from jdnas.pipeline.prune import prune as prune_detector
from jdnas.pipeline.prune import prune_action
from jdnas.pipeline.single import evaluate_model
from jdnas.pipeline.upgrade import Upgraded, upgrade_detector
from jdnas.pipeline.weights import about_weights
from jdnas.pipeline.weights import import_weights as convert
from jdnas.presets import EXTRAS, NAMES, preset
from jdnas.sizes import size_hw_from_text
from jdnas.spec import DetectorSpec
from jdnas.training.checkpoint import write_json
from jdnas.training.evaluate import Metrics

PathLike = str | Path
PAPER_SIZE = "1333x800"


def predict(
    model: PathLike, images: PathLike | Sequence[PathLike], *, out: PathLike = "predictions", score: float = 0.3, size: str | None = None,
    runtime: str = "ort-cpu", every: int = 1, quiet: bool = False, console: Console | None = None,
) -> Predictions:  # fmt: skip
    """Detect in images, folders and videos; write each drawn into `out`, and all detections as the COCO document detections.json.

    Detections score at least `score`; of a video, every `every`-th frame is looked at and written. For single images in memory use
    `jdnas.load(model).predict(image)`.
    """
    places = [images] if isinstance(images, str | Path) else list(images)
    return predict_files(
        Path(model), [Path(place) for place in places], Path(out), score=score, size=size, runtime=runtime, every=every,
        console=console or Console(), quiet=quiet,
    )  # fmt: skip


def evaluate(
    model: PathLike, data: PathLike, *, split: str = "val", size: str | None = None, runtime: str = "ort-cpu",
    out: PathLike | None = None, quiet: bool = False, console: Console | None = None,
) -> Metrics:  # fmt: skip
    """Return the COCO metrics of a detector or engine on a split of a data set, and write them to the JSON file `out`."""
    metrics = evaluate_model(Path(model), Path(data), split, size, runtime, console=console or Console(), quiet=quiet)
    if out is not None:
        write_json(Path(out), metrics.to_dict())
    return metrics


def export(
    model: PathLike, out: PathLike | None = None, *, size: str | None = None, batch: int | str = 1, precision: str = "fp32",
    input_form: str = "normalized", data: PathLike | None = None, calibration: str = "percentile", calibration_images: int = 128,
    max_delta_ap: float | None = None, target: str = "cpu-ort", triton: PathLike | None = None,
    runtime: str = "ort-cpu", compute_capability: str | None = None, quiet: bool = False, console: Console | None = None,
) -> str:  # fmt: skip
    """Export a detector to ONNX with static shapes and compare it with PyTorch, or write a .pth for torchvision; say what came out.

    `size` and `batch` may be lists ("640x480,320x240", "1..8"): one file each. `precision` is fp32, fp16, int8, or auto, the fastest on
    `target` that passes; `input_form` what the engine takes (docs/export.md). `data` is the set whose validation images the engine is
    compared on and whose training images calibrate int8; without it random images are compared. `max_delta_ap` replaces the largest
    |dAP| that passes.

    `triton` is a model repository that the engine is put into as well. `runtime` is what the file is for: ONNX with the forms of the
    head that are fastest there, .pt2 for aoti, .engine for tensorrt and tensorrt-rtx, whose `compute_capability` (8.9) says which GPU
    to build for without one. A ParityError says that the engine differs from PyTorch.
    """
    options = ExportOptions(
        size=size, batch=str(batch), precision=precision, input_form=input_form, data=None if data is None else Path(data),
        calibration=calibration, calibration_images=calibration_images, max_delta_ap=max_delta_ap, target=target,
        runtime=runtime,
    )  # fmt: skip
    console = console or Console()
    with counting(console, quiet=quiet) as count:
        count("exporting and comparing with PyTorch", 0, 1)

        def say(line: str) -> None:
            if not quiet:
                console.print(line, highlight=False, markup=False)

        other = runtime != "ort-cpu" or compute_capability is not None
        if triton is not None:
            if other:
                raise ConfigError(f"--triton takes engines of ONNX Runtime on the CPU, not of {runtime}; leave out one of the two")
            return "\n".join(export_for_triton(Path(model), None if out is None else Path(out), Path(triton), options, say))
        if out is None:
            raise ConfigError("give the file to write with --out, or for an engine that there is already a folder with --triton")
        if other:
            return "\n".join(export_engine(Path(model), Path(out), options, compute_capability=compute_capability, say=say))
        return "\n".join(export_model(Path(model), Path(out), options, say))


def import_weights(file: PathLike, out: PathLike, *, config: PathLike | None = None, norm_eps: float | None = None) -> list[str]:
    """Convert a detector or backbone of another project to `out`.safetensors and `out`.json; return what was done, line by line.

    `config` is the settings file of its project, `norm_eps` the epsilon that its batch normalization was computed with.
    """
    return convert(Path(file), Path(out), config=None if config is None else Path(config), norm_eps=norm_eps)


def prune(
    weights: PathLike, data: PathLike, *, out: PathLike = "pruned.safetensors", ratio: float = 0.3, kind: str = "prune_channels",
    finetune_epochs: float = 3.0, size: str | None = None, target: str | None = None, preset: PathLike | None = None,
    seed: int | None = None, device: str | None = None, settings: Settings | None = None, quiet: bool = False,
    console: Console | None = None,
) -> Trained:  # fmt: skip
    """Prune a trained detector by `ratio` and fine-tune it; channels go by their batch norm gammas, ranked over the whole backbone.

    `kind` names what is pruned: prune_channels (the backbone), or neck and heads (prune_rpn, ...). The record has the figures of base,
    pruned and fine-tuned detector. Called again after an interruption, it goes on where it was.
    """
    given = {"data": data, "target": target, "weights": weights, "seed": seed, "device": device}
    config = run_config(given, preset=preset, settings=settings)
    record = prune_detector(
        config, Path(weights), Path(out), action=prune_action(kind, ratio), epochs=finetune_epochs, size=size,
        console=console or Console(), quiet=quiet,
    )  # fmt: skip
    return Trained(Path(out), record)


def upgrade(
    weights: PathLike, *, out: PathLike = "upgraded.safetensors", deform: str | None = None, modulated: bool = False, cascade: bool = False
) -> Upgraded:  # fmt: skip
    """Give a trained detector deformable convolutions in the stages that `deform` names (`c3,c4,c5`), or a cascade head.

    It keeps its weights and is to be trained on: with `distill_student`, or with `train` alone.
    """
    return upgrade_detector(Path(weights), Path(out), deform=deform, modulated=modulated, cascade=cascade)


def spec_of(name: PathLike, *, classes: int = 80) -> DetectorSpec:
    """Return the architecture of a named base, or of a weight file; a .json of jdnas does without its weights."""
    return about_weights(Path(name)).spec if Path(name).suffix else preset(str(name), classes)


def complexity(model: PathLike, *, size: str = PAPER_SIZE, classes: int = 80) -> dict[str, Any]:
    """Return multiply-adds (G) and parameters (M) of a base or weight file, in all and by part of the detector."""
    spec, size_hw = spec_of(model, classes=classes), size_hw_from_text(size)
    weights = parameters_per_part(spec)
    parts = {
        part: {"flops_g": count / 1e9, "params_m": weights[part] / 1e6} for part, count in per_part(spec, size_hw).items()
    }  # fmt: skip
    return {
        "model": str(model),
        "size": size,
        "flops_g": multiply_adds(spec, size_hw) / 1e9,
        "params_m": parameters(spec) / 1e6,
        "parts": parts,
    }


def bases() -> dict[str, dict[str, Any]]:
    """Return the named base detectors with family, depths and their complexity at 1333x800; each may bear the extras in its row."""
    rows = {}
    for name in NAMES:
        spec = preset(name, 80)
        rows[name] = {"family": spec.family, "depths": list(spec.depths), "flops_g": multiply_adds(spec, (800, 1333)) / 1e9,
                      "params_m": parameters(spec) / 1e6, "extras": list(EXTRAS)}  # fmt: skip
    return rows
