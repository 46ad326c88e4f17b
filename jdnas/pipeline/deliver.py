"""From the weights of a run to its engines: export in the precision that the settings name, and the parity check on real images."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.settings import Int8Settings
from jdnas.config import RunConfig
from jdnas.models.weights import State
from jdnas.pipeline.context import Context, SizeHW
from jdnas.pipeline.export_job import Calibration, Proof, Subject
from jdnas.pipeline.exports import style_for
from jdnas.pipeline.precisions import AUTO, publish
from jdnas.pipeline.speed import checking_runtime, reads_onnx
from jdnas.spec import DetectorSpec
from jdnas.training.checkpoint import read_json, write_json
from latency.here import standing
from latency.targets import load_target


@dataclass(frozen=True)
class Delivery:
    """One exported detector: its file, how far it is from PyTorch, and what was tried, a row for each precision."""

    artifact: Path
    precision: str
    parity: dict[str, Any]
    precisions: list[dict[str, Any]]
    verdict: str


def deliver(
    context: Context, name: str, spec: DetectorSpec, state: State, size_hw: SizeHW, stem: Path, ap: float | None = None,
    precision: str | None = None,
) -> Delivery:  # fmt: skip
    """Export to `stem.onnx` and compare with PyTorch on validation images; a ParityError leaves the file in the run's folder `failed`.

    `ap` is the detector's AP in PyTorch; with it, the engine's AP on the whole validation set is part of the check. `precision` is by
    default that of the settings.
    """
    settings, target = context.config.export, load_target(context.config.target)
    wanted = precision or _precision(context)
    artifact, record = stem.with_suffix(".onnx"), stem.with_name(stem.name + ".parity.json")
    key = {"weights": hashlib.sha256(stem.with_suffix(".safetensors").read_bytes()).hexdigest()[:16], "asked": wanted,
           "settings": settings.model_dump(mode="json")}  # fmt: skip
    if artifact.exists() and record.exists() and (kept := read_json(record)).get("key") == key:
        return Delivery(artifact, kept["precision"], kept["parity"], kept["precisions"], kept["verdict"])
    provenance = {"run": context.folder.root.name, "detector": name, "seed": context.config.seed, "data": context.train.name}
    subject = Subject(spec, state, context.train.classes, size_hw, input_form=settings.input, provenance=provenance, runtime=target.runtime)
    runtime = checking_runtime(target)
    proof = Proof(subject, settings.limits, context.val, context.config.parity_images, runtime, with_ap=ap is not None, known_ap=ap)
    calibration = Calibration(
        context.train,
        Int8Settings(settings.calibration, style=style_for(target.runtime)),
        settings.calibration_images,
        settings.ranking_images,
    )
    made = publish(
        subject, wanted, artifact, proof, calibration, target=target, seconds=context.config.benchmark_seconds,
        failed_folder=context.folder.root / "failed",
    )  # fmt: skip
    parity, rows, verdict = made.made.result.to_dict() | {"runtime": runtime}, list(made.rows), made.verdict
    if precision is None and settings.precision == AUTO != wanted:
        verdict += f"; auto measures on the target, which is not here, so that its own precision was taken: {wanted}"
    write_json(record, {"key": key, "precision": made.made.precision, "parity": parity, "precisions": rows, "verdict": verdict})
    return Delivery(artifact, made.made.precision, parity, rows, verdict)


def _precision(context: Context) -> str:
    # What cannot be measured here cannot be chosen by measurement: then the target's precision holds.
    settings, target = context.config.export, load_target(context.config.target)
    if settings.precision == "target" or (settings.precision == AUTO and not (reads_onnx(target) and standing(target).measurable)):
        return target.precision
    return settings.precision


def base_precision(config: RunConfig) -> str:
    """Return what the base is exported in: a float precision that was asked for, else that of the target."""
    asked = config.export.precision
    return asked if asked in ("fp32", "fp16") else load_target(config.target).precision
