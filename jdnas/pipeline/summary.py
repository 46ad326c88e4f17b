"""summary.json and report_data.json: what came out of a run, in figures."""

import platform
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from jdnas import __version__
from jdnas.data.batches import eval_batches
from jdnas.data.images import read_image
from jdnas.models.bound import materialize
from jdnas.models.complexity import backbone_parameters, multiply_adds, parameters, per_part
from jdnas.models.weights import State
from jdnas.pipeline.context import Context, SizeHW
from jdnas.pipeline.deliver import Delivery
from jdnas.pipeline.polish import Final
from jdnas.pipeline.run_folder import kept_settings
from jdnas.pipeline.search import Control
from jdnas.pipeline.speed import cost_name, cost_unit, parts_ms
from jdnas.report.drawing import draw_detections, side_by_side, write_jpeg
from jdnas.search.analyses import capacities, counts, gains_by_change
from jdnas.search.climb import SearchResult
from jdnas.search.history import History, Trial
from jdnas.search.workshop import size_hw_from_key, size_key
from jdnas.spec import DetectorSpec
from jdnas.training.checkpoint import read_json

PACKAGES = ("torch", "torchvision", "onnx", "onnxruntime", "onnxruntime-gpu", "optuna", "numpy")
SHOWN_SCORE = 0.3


def versions() -> dict[str, str]:
    """Return the versions of Python, jdnas and what it rests on."""
    found = {"python": platform.python_version(), "jdnas": __version__, "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _figures(spec: DetectorSpec, size_hw: SizeHW, metrics: dict[str, Any], row: dict[str, Any], label: str) -> dict[str, Any]:
    return {
        "ap": metrics["ap"], "ap50": metrics["ap50"], "latency_ms": row["median_ms"], "fps": row["fps"], "latency_label": label,
        "latency_spread_ms": None if row["p5_ms"] is None else [row["p5_ms"], row["p95_ms"]], "flops_g": multiply_adds(spec, size_hw) / 1e9,
        "params_m": parameters(spec) / 1e6, "size_hw": list(size_hw), "spec": spec.to_dict(),
    }  # fmt: skip


def make_summary(
    context: Context, result: SearchResult, final: Final, control: Control, base_metrics: dict[str, Any], timing: dict[str, Any],
    deliveries: tuple[Delivery, Delivery], command: str,
) -> dict[str, Any]:  # fmt: skip
    """Return summary.json: base, control and student with AP, latency and complexity, the search, the target, and provenance.

    `timing` is the report of `jdnas.pipeline.speed.speeds` on the base's and the student's engines, in this order; so are `deliveries`.
    """
    config, student = context.config, final.trial
    base_size, size = context.base_size_hw, student.size or ""
    (base_row, student_row), label = timing["rows"], timing["label"]
    base = _figures(context.base_spec, base_size, base_metrics, base_row, label)
    own = _figures(student.student, size_hw_from_key(size), student.metrics[size], student_row, label)
    base_delivered, delivered = deliveries
    artifact = str(delivered.artifact.relative_to(context.folder.root))
    polish = {} if final.polish is None else {"polish": final.polish}
    goal = {} if final.goal is None else {"goal": final.goal.to_dict(cost_unit(config))}
    return {
        "base": base | {"score": result.history[0].score, "precision": base_delivered.precision},
        "control": _figures(context.base_spec, base_size, dict(control.metrics), base_row, label) | {"extra_images": control.images},
        "student": own | {"artifact": artifact, "parity": delivered.parity, "trial": student.number, "score": student.score,
                          "precision": delivered.precision, "precisions": delivered.precisions, "verdict": delivered.verdict} | polish,
        "search": counts(result.history, config.search.k) | {"stopped_by": result.stopped_by} | goal,
        "target": {"name": config.target, **timing}, "seed": config.seed, "command": command, "versions": versions(),
        "data": describe_data(context), "settings": kept_settings(context.folder).model_dump(mode="json"),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }  # fmt: skip


def describe_data(context: Context) -> dict[str, Any]:
    """Return name, classes, counts, problems and fingerprints of the data set."""
    train, val = context.train, context.val
    return {
        "name": context.config.data, "classes": list(train.classes), "train_images": len(train.records), "val_images": len(val.records),
        "problems": {"train": dict(train.problems), "val": dict(val.problems)}, "fingerprint": [train.fingerprint, val.fingerprint],
    }  # fmt: skip


def trial_row(trial: Trial, winners: set[int]) -> dict[str, Any]:
    """Return a trial as the report reads it."""
    return {
        "number": trial.number, "parent": trial.parent, "generation": trial.generation, "choice": trial.choice,
        "action": trial.candidate.action, "student": trial.student.to_dict(), "teacher": trial.teacher.to_dict(),
        "metrics": trial.metrics, "best_size": list(size_hw_from_key(trial.size)) if trial.size else None, "ap": trial.ap,
        "cost": trial.cost, "score": trial.score, "seconds": trial.seconds, "images": trial.images, "state": trial.state,
        "reason": trial.reason, "lineage": trial.number in winners,
    }  # fmt: skip


def report_data(context: Context, history: History, student: Trial) -> dict[str, Any]:
    """Return what the report draws of the search; `student` has the figures that it leaves with, polished or not."""
    winners = {trial.number for trial in history.lineage(student.number)}
    base_meta = read_json(context.folder.base.with_suffix(".json"))["meta"]
    size_hw = size_hw_from_key(student.size or "")
    pool_meta = read_json(context.folder.pool.with_suffix(".json"))["meta"]
    return {
        "trials": [trial_row(trial, winners) for trial in history], "delivered": trial_row(student, winners),
        "control_cost": history[0].costs[size_key(context.base_size_hw)],
        "cost_name": cost_name(context.config),
        "actions": gains_by_change(history),
        "teacher_capacity": capacities(history, backbone_parameters, backbone_parameters),
        "parts": {
            "base": per_part(context.base_spec, context.base_size_hw),
            "student": per_part(student.student, size_hw),
        },
        "parts_ms": parts_ms(context.config, (context.base_spec, context.base_size_hw), (student.student, size_hw)),
        "curves": {"base": base_meta["curve"], "pool": _joined([phase["curve"] for phase in pool_meta["phases"]])},
    }  # fmt: skip


def _joined(curves: list[list[list[float]]]) -> list[list[float]]:
    joined: list[list[float]] = []
    for curve in curves:
        offset = joined[-1][0] if joined else 0
        joined += [[offset + step, loss] for step, loss in curve]
    return joined


def draw_examples(context: Context, models: list[tuple[str, DetectorSpec, State, SizeHW]]) -> list[dict[str, str]]:
    """Draw the validation images with the most objects: each model's detections beside the ground truth; return file and caption."""
    records = context.val.records
    chosen = sorted(range(len(records)), key=lambda i: (-len(set(records[i].labels.tolist())), -len(records[i].labels), i))
    chosen = chosen[: context.config.example_images]
    found = [_detect(context, spec, state, size, chosen) for _, spec, state, size in models]
    examples = []
    for place, index in enumerate(chosen):
        record = records[index]
        image = read_image(record.path)
        panels = [draw_detections(image, *found[m][place], context.val.classes, height=360) for m in range(len(models))]
        panels.append(draw_detections(image, record.boxes_xyxy, record.labels, None, context.val.classes, height=360))
        path = context.folder.root / "report" / f"example_{place}.jpg"
        write_jpeg(path, side_by_side(panels, [*(name for name, *_ in models), "ground truth"]))
        examples.append({"file": str(path.relative_to(context.folder.root)), "caption": record.path.name})
    return examples


def _detect(context: Context, spec: DetectorSpec, state: State, size_hw: SizeHW, chosen: list[int]) -> list[tuple[Any, Any, Any]]:
    detector, traits = materialize(spec, state), spec.traits
    subset = replace(context.val, records=tuple(context.val.records[i] for i in chosen))
    results = []
    with torch.inference_mode():
        for batch in eval_batches(subset, size_hw=size_hw, batch=1, mean=traits.mean, std=traits.std):
            out = detector(batch.images, batch.sizes_hw)
            keep = np.flatnonzero(out.scores[0].numpy() >= SHOWN_SCORE)
            boxes = out.boxes_xyxy[0].numpy()[keep] / float(batch.scales[0])
            results.append((boxes, out.labels[0].numpy()[keep], out.scores[0].numpy()[keep]))
    return results
