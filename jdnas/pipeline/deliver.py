"""From weights to engines: export, and the parity check on real images."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.graph import export_onnx
from export.parity import compare
from export.runners import open_runner, predictor
from jdnas.data.batches import eval_batches
from jdnas.errors import ParityError
from jdnas.models.bound import materialize
from jdnas.models.weights import State
from jdnas.pipeline.context import Context, SizeHW
from jdnas.pipeline.speed import checking_runtime
from jdnas.spec import DetectorSpec
from jdnas.training.checkpoint import read_json, write_json
from jdnas.training.evaluate import evaluate
from latency.targets import load_target


@dataclass(frozen=True)
class Delivery:
    """One exported detector: its file, and how far it is from PyTorch."""

    artifact: Path
    parity: dict[str, Any]


def deliver(
    context: Context, name: str, spec: DetectorSpec, state: State, size_hw: SizeHW, stem: Path, ap: float | None = None
) -> Delivery:
    """Export to `stem.onnx` and compare with PyTorch on validation images; a ParityError leaves the file marked as failed.

    `ap` is the detector's AP in PyTorch; with it, the engine's AP on the whole validation set is part of the check.
    """
    artifact, record = stem.with_suffix(".onnx"), stem.with_name(stem.name + ".parity.json")
    weights = hashlib.sha256(stem.with_suffix(".safetensors").read_bytes()).hexdigest()[:16]
    if artifact.exists() and record.exists() and (kept := read_json(record)).get("weights") == weights:
        return Delivery(artifact, kept)
    candidate = stem.with_name(stem.name + ".unchecked.onnx")
    provenance = {"run": context.folder.root.name, "detector": name, "seed": context.config.seed, "data": context.train.name}
    export_onnx(state, spec, size_hw=size_hw, batch=1, path=candidate, classes=context.train.classes, provenance=provenance)
    parity = _parity(context, spec, state, size_hw, candidate, ap) | {"weights": weights}
    if not parity["passed"]:
        failed = stem.with_name(stem.name + ".failed.onnx")
        os.replace(candidate, failed)
        write_json(failed.with_suffix(".json"), parity)
        raise ParityError(f"the exported {name} differs from PyTorch: {parity['message']}; it was kept as {failed}")
    write_json(record, parity)
    os.replace(candidate, artifact)
    return Delivery(artifact, parity)


def _parity(context: Context, spec: DetectorSpec, state: State, size_hw: SizeHW, artifact: Path, ap: float | None) -> dict[str, Any]:
    traits, count = spec.traits, context.config.parity_images
    runtime = checking_runtime(load_target(context.config.target))
    with open_runner(artifact, runtime) as runner:
        engine, engine_ap = predictor(runner), None
        if ap is not None:
            engine_ap = evaluate(engine, context.val, size_hw=size_hw, batch=1, mean=traits.mean, std=traits.std).ap
        batches = eval_batches(context.val, size_hw=size_hw, batch=1, mean=traits.mean, std=traits.std)
        images = (batch for _, batch in zip(range(count), batches, strict=False))
        result = compare(materialize(spec, state), engine, images, reference_ap=ap, runner_ap=engine_ap)
    return result.to_dict() | {"ap": engine_ap, "runtime": runtime}
