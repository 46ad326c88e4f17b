"""Commands that work on one detector: export, eval, predict, complexity, bases."""

from pathlib import Path
from typing import Annotated

import typer

from jdnas.cli.output import AsJson, Output, Quiet

Model = Annotated[
    Path,
    typer.Argument(
        help="A detector: an engine (.onnx, .pt2, .engine), a .safetensors file of jdnas (the .json beside it is read too), or a "
        "checkpoint of torchvision, detectron2 or mmdetection."
    ),
]
Size = Annotated[str | None, typer.Option(help="Input canvas as WIDTHxHEIGHT, multiples of 32; default: the size in the file.")]
Data = Annotated[str, typer.Option(help="Folder in COCO layout.")]
Runtime = Annotated[str, typer.Option(help="What runs engines: ort-cpu, ort-cuda, openvino, aoti (.pt2), tensorrt or tensorrt-rtx.")]
OutFile = Annotated[
    Path | None, typer.Option(help="The file to write: .onnx, .pt2 (aoti) or .engine (tensorrt), or .pth for torchvision's Faster R-CNN.")
]
Sizes = Annotated[str | None, typer.Option(help="Input canvases WIDTHxHEIGHT, multiples of 32, as a list; default: the size in the file.")]
Batches = Annotated[str, typer.Option(help="Images per call: a number, a list 1,4 or a range 1..8; one file each.")]
Precision = Annotated[str, typer.Option(help="fp32, fp16, int8, or auto: the fastest on the target that passes.")]
InputForm = Annotated[str, typer.Option("--input", help="normalized, uint8 (NCHW), uint8-nhwc, or image (one RGB image of any size).")]
CheckData = Annotated[
    Path | None, typer.Option(help="Data set: its validation images compare with PyTorch, its training images calibrate int8.")
]
CalibrationImages = Annotated[int, typer.Option(min=1, help="Training images that int8 is calibrated with.")]
Ranges = Annotated[str, typer.Option(help="Ranges of int8: percentile, minmax or entropy.")]
MaxDeltaAp = Annotated[
    float | None, typer.Option(min=0, help="Largest |dAP| that passes; default: 0.0005 in fp32, 0.001 in fp16, 0.003 in int8.")
]
ComputeCapability = Annotated[
    str | None, typer.Option(help="GPU to build a tensorrt-rtx engine for, such as 8.9; it need not be in this machine.")
]


def export(
    model: Model,
    out: OutFile = None, size: Sizes = None, batch: Batches = "1", precision: Precision = "fp32", input_form: InputForm = "normalized",
    data: CheckData = None, calibration_images: CalibrationImages = 128, calibration: Ranges = "percentile",
    max_delta_ap: MaxDeltaAp = None,
    target: Annotated[str, typer.Option(help="Target that auto measures on, and whose runtime int8 is made for.")] = "cpu-ort",
    triton: Annotated[Path | None, typer.Option(help="Also put the engine into this model repository of Triton Inference Server.")] = None,
    runtime: Runtime = "ort-cpu", compute_capability: ComputeCapability = None,
    quiet: Quiet = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Export a detector to ONNX with static shapes and compare it with PyTorch; or write a state dict that torchvision loads.

    Example: jdnas export runs/demo/student/student.safetensors --out student.onnx --precision int8 --data my_data

    Example: jdnas export student.onnx --out student.engine --runtime tensorrt-rtx --compute-capability 8.9
    """
    from jdnas.api import export as run

    output = Output(quiet, as_json)
    said = run(
        model, out, size=size, batch=batch, precision=precision, input_form=input_form, data=data, calibration=calibration,
        calibration_images=calibration_images, max_delta_ap=max_delta_ap, target=target, triton=triton, runtime=runtime,
        compute_capability=compute_capability, quiet=quiet, console=output.console,
    )  # fmt: skip
    files = {"out": None if out is None else str(out), "triton": None if triton is None else str(triton)}
    output.result(files | {"message": said}, said)


def evaluate(
    model: Model, data: Data, split: Annotated[str, typer.Option(help="train or val.")] = "val", size: Size = None,
    runtime: Runtime = "ort-cpu",
    out: Annotated[Path | None, typer.Option(help="Write the metrics to this JSON file.")] = None, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Print the COCO metrics of a detector or engine on a data set as JSON; progress goes to stderr.

    Example: jdnas eval runs/demo/student/student.onnx --data my_data
    """
    from jdnas.api import evaluate as run

    output = Output(quiet, as_json=True)
    output.result(run(model, data, split=split, size=size, runtime=runtime, out=out, quiet=quiet, console=output.console).to_dict())


def predict(
    model: Model, images: Annotated[list[Path], typer.Argument(help="Images, videos, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for drawn images and videos, and detections.json.")] = Path("predictions"),
    score: Annotated[float, typer.Option(min=0, max=1, help="Lowest score that is kept.")] = 0.3, size: Size = None,
    runtime: Runtime = "ort-cpu",
    every: Annotated[int, typer.Option(min=1, help="Look at every so many frames of a video.")] = 1,
    quiet: Quiet = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Detect objects in images and videos; write them drawn, and all detections as a COCO document.

    Example: jdnas predict runs/demo/student/student.onnx photos/ clip.mp4 --out found --every 5
    """
    from jdnas.api import predict as run

    output = Output(quiet, as_json)
    done = run(model, images, out=out, score=score, size=size, runtime=runtime, every=every, quiet=quiet, console=output.console)
    frames = f" and {done.frames} video frames" if done.frames else ""
    skipped = f"; skipped {', '.join(done.skipped)}" if done.skipped else ""
    output.result(done.to_dict(), f"{done.images} images{frames} drawn to {out}, {done.detections} detections in {done.json}{skipped}")


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
    from jdnas.api import import_weights as run

    print("\n".join(run(file, out, config=config, norm_eps=norm_eps)))


def complexity(
    base: Annotated[str, typer.Argument(help="A base's name, or a weight file; a .json of jdnas does without its weights.")],
    size: Annotated[str, typer.Option(help="Input as WIDTHxHEIGHT.")] = "1333x800",
    classes: Annotated[int, typer.Option(min=1, help="Foreground classes of a named base.")] = 80,
    as_json: AsJson = False,
) -> None:
    """Print multiply-adds per part and the parameters of a detector.

    Example: jdnas complexity r50 --size 1333x800
    """
    from jdnas.api import complexity as run
    from jdnas.cli.tables import complexity_table

    found = run(base, size=size, classes=classes)
    Output(as_json=as_json).result(found, complexity_table(found))


def bases(as_json: AsJson = False) -> None:
    """List the base detectors with their complexity at 1333x800.

    Example: jdnas bases
    """
    from jdnas.api import bases as run

    found = run()
    lines = [
        f"{name:16s} {row['family']:18s} depths {'-'.join(map(str, row['depths'])):16s} {row['flops_g']:7.1f} GMAC {row['params_m']:6.1f} M"
        for name, row in found.items()
    ]
    extras = ", ".join(next(iter(found.values()))["extras"])
    note = f"Each takes extras, as in r101-cascade or x101_32x4d-dcn-cascade: {extras} (dcn and mdcn on bottleneck families)"
    Output(as_json=as_json).result(found, "\n".join([*lines, note]))


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    app.command()(export)
    app.command("import")(import_weights)
    app.command("eval")(evaluate)
    app.command()(predict)
    app.command()(complexity)
    app.command()(bases)
