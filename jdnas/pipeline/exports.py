"""`jdnas export`: weights to artifacts, one for each canvas and batch, in the precision and input form asked for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from export.artifact import INPUT_FORMS
from export.settings import METHODS, TOLERANCES, Int8Settings, Style, Tolerances, tolerances_of
from export.triton import write_triton_repository
from jdnas.data.coco import load_split
from jdnas.data.records import DetectionSet
from jdnas.errors import ConfigError, DataError, unknown_name
from jdnas.pipeline.export_job import Calibration, Proof, Say, Subject
from jdnas.pipeline.precisions import AUTO, Published, publish
from jdnas.pipeline.single import read_weights
from jdnas.pipeline.weights import TORCH_SUFFIXES, open_weights, write_for_torchvision
from jdnas.sizes import SizeHW, size_hw_from_text
from jdnas.spec import DetectorSpec
from jdnas.training.checkpoint import write_json
from latency.targets import load_target

LARGEST_BATCH = 4096
Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class ExportOptions:
    """What `jdnas export` was asked for, as text where it is a list.

    `size`: canvases WIDTHxHEIGHT, none for the one of the weights; `batch`: "1,4" or "1..8". `data`: the set whose validation images
    artifacts are compared on and whose training images calibrate int8. `max_delta_ap` replaces the tolerance of each precision. `runtime`
    is what files are for, `checked_in` where they are compared.
    """

    size: str | None = None
    batch: str = "1"
    precision: str = "fp32"
    input_form: str = "normalized"
    data: Path | None = None
    calibration: str = "percentile"
    calibration_images: int = 128
    parity_images: int = 32
    max_delta_ap: float | None = None
    target: str = "cpu-ort"
    runtime: str = "ort-cpu"
    checked_in: str = "ort-cpu"
    seconds: float = 5.0

    @property
    def sizes_hw(self) -> list[SizeHW]:
        """The canvases asked for; none where the weights decide."""
        return [size_hw_from_text(part) for part in (self.size or "").split(",") if part]

    @property
    def batches(self) -> list[int]:
        """The batches asked for, without repetition."""
        found: list[int] = []
        for part in self.batch.split(","):
            match = re.fullmatch(r"(\d{1,4})(?:\.\.(\d{1,4}))?", part.strip())
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
            if not 1 <= first <= last <= LARGEST_BATCH:
                raise ConfigError(f"--batch takes numbers from 1 such as 4, lists 1,4 and ranges 1..8; got {self.batch!r}")
            found += range(first, last + 1)
        return list(dict.fromkeys(found))

    @property
    def limits(self) -> dict[str, Tolerances]:
        """The tolerances of each precision."""
        return {name: tolerances_of(name, self.max_delta_ap) for name in TOLERANCES}


def export_model(model: Path, out: Path, options: ExportOptions, say: Say = lambda _: None) -> list[str]:
    """Export weights to ONNX files that were compared with PyTorch, and say what came out; or write them for torchvision.

    With several canvases or batches the files are named `out` with `_WIDTHxHEIGHT_bBATCH`. With "auto" a file STEM.precisions.json beside
    each says what was tried.
    """
    if out.suffix in TORCH_SUFFIXES:
        return [write_for_torchvision(open_weights(model), out)]
    if out.suffix != ".onnx":
        raise ConfigError(f"--out must end in .onnx, or in .pth for torchvision; got {out}")
    return [line for _, line in _publish_all(model, out, options, say)]


def export_for_triton(model: Path, out: Path | None, repository: Path, options: ExportOptions, say: Say = lambda _: None) -> list[str]:
    """Put engines into a Triton model repository: `model` itself, or what `export_model` makes of these weights as `out`."""
    if model.suffix == ".onnx":
        if out is not None or options != ExportOptions():
            raise ConfigError(f"{model} is an engine already, whose size, batch and precision are inside; leave out all but --triton")
        return [_for_triton(model, repository)]
    if out is None or out.suffix != ".onnx":
        raise ConfigError("--triton takes an engine; name the one to make of these weights with --out FILE.onnx")
    made = _publish_all(model, out, options, say)
    return [line for published, text in made for line in (text, _for_triton(published.artifact, repository))]


def _for_triton(engine: Path, repository: Path) -> str:
    return f"{write_triton_repository(engine, repository)}: start with tritonserver --model-repository {repository}"


def _publish_all(model: Path, out: Path, options: ExportOptions, say: Say) -> list[tuple[Published, str]]:
    batches, sizes_hw = options.batches, options.sizes_hw
    weights = read_weights(model, sizes_hw[0] if sizes_hw else None)
    target, form = load_target(options.target), _one_of("input form", options.input_form, INPUT_FORMS)
    subjects = [
        Subject(weights.spec, weights.state, weights.classes, size_hw, batch, form, {"weights": model.name}, options.runtime)
        for size_hw in sizes_hw or [weights.size_hw] for batch in batches
    ]  # fmt: skip
    for subject in subjects:
        subject.check()
    if options.precision == AUTO and options.runtime not in ("ort-cpu", target.runtime):
        raise ConfigError(f"--precision auto measures on the target {target.name}, which runs {target.runtime} and not {options.runtime}; "
                          "name a target of that runtime with --target, or a precision")  # fmt: skip
    val, calibration = validation_set(options, model, weights.spec), None
    if options.data is not None:
        style = style_for(options.runtime if options.runtime != "ort-cpu" else target.runtime)
        settings = Int8Settings(_one_of("calibration", options.calibration, METHODS), style=style)
        calibration = Calibration(load_split(options.data, "train"), settings, options.calibration_images)
    found = []
    for subject in subjects:
        path = out if len(subjects) == 1 else _named(out, subject)
        proof = Proof(subject, options.limits, val, options.parity_images, options.checked_in)
        published = publish(subject, options.precision, path, proof, calibration, target=target, seconds=options.seconds, say=say)
        if len(published.rows) > 1:
            write_json(path.with_suffix(".precisions.json"), {"rows": list(published.rows), "verdict": published.verdict})
        found.append((published, _line(subject, published, options)))
    return found


def validation_set(options: ExportOptions, model: Path, spec: DetectorSpec) -> DetectionSet | None:
    """Return the set whose images are compared, None without --data; a DataError where it has another number of classes than `model`."""
    if options.data is None:
        return None
    val = load_split(options.data, "val")
    if len(val.classes) != spec.num_classes:
        raise DataError(f"{model} knows {spec.num_classes} classes, {options.data} has {len(val.classes)}: {', '.join(val.classes)}")
    return val


def style_for(runtime: str) -> Style:
    """Return the style of Q/DQ that a runtime takes."""
    return "tensorrt" if runtime.startswith("tensorrt") else "cpu"


def _one_of(kind: str, got: str, known: Sequence[Name]) -> Name:
    for name in known:
        if name == got:
            return name
    raise ConfigError(unknown_name(kind, got, known))


def _named(out: Path, subject: Subject) -> Path:
    height, width = subject.size_hw
    return out.with_name(f"{out.stem}_{width}x{height}_b{subject.batch}.onnx")


def _line(subject: Subject, published: Published, options: ExportOptions) -> str:
    height, width = subject.size_hw
    form = "" if subject.input_form == "normalized" else f", input {subject.input_form}"
    lines = [f"{published.artifact}: {width}x{height}, batch {subject.batch}{form}; {published.verdict}"]
    if options.precision == AUTO:
        lines += [f"  {_row_text(row)}" for row in published.rows]
    return "\n".join(lines)


def _row_text(row: dict[str, object]) -> str:
    ap, delta, median = row["ap"], row["delta_ap"], row["median_ms"]
    parts = [f"{row['precision']:>5}", "passed" if row["passed"] else "FAILED", f"{row['size_mb']:.1f} MB"]
    if isinstance(ap, float) and isinstance(delta, float):
        parts.append(f"AP {ap:.4f} ({delta:+.4f})")
    if isinstance(median, float):
        parts.append(f"{median:.2f} ms")
    return "  ".join(parts)
