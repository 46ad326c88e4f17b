"""Commands that work on one detector: export, eval, predict, complexity, bases."""

from pathlib import Path
from typing import Annotated

import typer

from jdnas.errors import ConfigError

Model = Annotated[
    Path,
    typer.Argument(
        help="A detector: an .onnx engine, a .safetensors file of jdnas (the .json beside it is read too), or a checkpoint of torchvision, "
        "detectron2 or mmdetection."
    ),
]
Size = Annotated[str | None, typer.Option(help="Input canvas as WIDTHxHEIGHT, multiples of 32; default: the size in the file.")]
Data = Annotated[str, typer.Option(help="Folder in COCO layout.")]
Runtime = Annotated[str, typer.Option(help="Runtime of .onnx engines: ort-cpu or ort-cuda.")]


def export(
    model: Model,
    out: Annotated[
        Path | None, typer.Option(help="The file to write: .onnx, or .pth for torchvision's Faster R-CNN. Not for engines.")
    ] = None,
    size: Size = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per call.")] = 1,
    triton: Annotated[Path | None, typer.Option(help="Also put the engine into this model repository of Triton Inference Server.")] = None,
) -> None:  # fmt: skip
    """Export a detector to ONNX with static shapes and compare it with PyTorch; or write a state dict that torchvision loads.

    Example: jdnas export runs/demo/student/student.safetensors --out student_b4.onnx --batch 4 --triton repository
    """
    from jdnas.pipeline.single import export_for_triton, export_model

    if triton is not None:
        print(export_for_triton(model, out, triton, size, batch))
    elif out is not None:
        print(export_model(model, out, size, batch))
    else:
        raise ConfigError("give the file to write with --out, or for an engine that there is already a folder with --triton")


def evaluate(
    model: Model, data: Data, split: Annotated[str, typer.Option(help="train or val.")] = "val", size: Size = None,
    runtime: Runtime = "ort-cpu",
    out: Annotated[Path | None, typer.Option(help="Write the metrics to this JSON file.")] = None,
) -> None:  # fmt: skip
    """Print the COCO metrics of a detector or engine on a data set.

    Example: jdnas eval runs/demo/student/student.onnx --data my_data
    """
    import json

    from jdnas.pipeline.single import evaluate_model

    metrics = evaluate_model(model, Path(data), split, size, runtime)
    text = json.dumps(metrics.to_dict(), indent=1)
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")


def predict(
    model: Model, images: Annotated[list[Path], typer.Argument(help="Images or folders of images.")],
    out: Annotated[Path, typer.Option(help="Folder for drawn images and detections.json.")] = Path("predictions"),
    score: Annotated[float, typer.Option(min=0, max=1, help="Lowest score that is kept.")] = 0.3, size: Size = None,
    runtime: Runtime = "ort-cpu",
) -> None:  # fmt: skip
    """Detect objects in images; write them drawn, and as COCO results.

    Example: jdnas predict runs/demo/student/student.onnx photos/ --out found
    """
    from jdnas.pipeline.single import predict_images

    done, skipped = predict_images(model, images, out, score, size, runtime)
    print(f"{done} images drawn to {out}, detections in {out / 'detections.json'}" + (f"; skipped {', '.join(skipped)}" if skipped else ""))


def import_weights(
    file: Annotated[Path, typer.Argument(help="Weights of torchvision, detectron2, mmdetection, timm or efficientnet-pytorch.")],
    out: Annotated[Path, typer.Option(help="Where to write: STEM.safetensors and STEM.json.")],
    config: Annotated[
        Path | None, typer.Option(help="Settings of its project: config.yaml of detectron2, config.py of mmdetection.")
    ] = None,
    norm_eps: Annotated[float | None, typer.Option(min=0, help="Epsilon that its batch normalization was computed with.")] = None,
) -> None:  # fmt: skip
    """Convert a detector or backbone of another project, and say what was converted, assumed and left out.

    Every command that takes weights also reads such files directly; this one keeps the result and takes the settings beside it.

    Example: jdnas import model_final.pth --config config.yaml --out base
    """
    from jdnas.pipeline.weights import import_weights as run

    print("\n".join(run(file, out, config=config, norm_eps=norm_eps)))


def complexity(
    base: Annotated[str, typer.Argument(help="A base's name, or a detector's .json file.")],
    size: Annotated[str, typer.Option(help="Input as WIDTHxHEIGHT.")] = "1333x800",
    classes: Annotated[int, typer.Option(min=1, help="Foreground classes of a named base.")] = 80,
) -> None:
    """Print multiply-adds per part and the parameters of a detector.

    Example: jdnas complexity r50 --size 1333x800
    """
    from rich.console import Console

    from jdnas.cli.tables import complexity_table
    from jdnas.presets import preset
    from jdnas.sizes import size_hw_from_text
    from jdnas.spec import DetectorSpec

    if base.endswith(".json"):
        from jdnas.training.checkpoint import read_json

        spec = DetectorSpec.from_dict(read_json(Path(base)).get("spec", {}))
    else:
        spec = preset(base, classes)
    Console().print(complexity_table(base, spec, size_hw_from_text(size)))


def bases() -> None:
    """List the base detectors with their complexity at 1333x800.

    Example: jdnas bases
    """
    from jdnas.models.complexity import multiply_adds, parameters
    from jdnas.presets import EXTRAS, NAMES, preset

    for name in NAMES:
        spec = preset(name, 80)
        depths = "-".join(map(str, spec.depths))
        size = f"{multiply_adds(spec, (800, 1333)) / 1e9:7.1f} GMAC {parameters(spec) / 1e6:6.1f} M"
        print(f"{name:16s} {spec.family:18s} depths {depths:16s} {size}")
    print(f"Each takes extras, as in r101-cascade or x101_32x4d-dcn-cascade: {', '.join(EXTRAS)} (dcn and mdcn on bottleneck families)")


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.command()(export)
    app.command("import")(import_weights)
    app.command("eval")(evaluate)
    app.command()(predict)
    app.command()(complexity)
    app.command()(bases)
