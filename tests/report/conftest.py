"""A small run folder with everything in it, made up but consistent."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jdnas.models.complexity import backbone_parameters, multiply_adds, per_part
from jdnas.presets import preset, scale_backbone
from jdnas.report.drawing import draw_detections, side_by_side, write_jpeg
from jdnas.spec import DetectorSpec, Stage

CLASSES = ("fish", "jellyfish", "penguin", "puffin", "shark", "starfish", "stingray")
SIZE = (320, 320)
KINDS = ("prune_channels", "prune_channels", "prune_channels", "prune_layer", "add_layer", "rearrange")
Json = dict[str, Any]


def changed(spec: DetectorSpec, kind: str, rng: random.Random) -> tuple[DetectorSpec, Json]:
    index = rng.randrange(len(spec.stages))
    stage = spec.stages[index]
    action: Json = {"kind": kind, "stage": index, "target": -1, "position": -1, "ratio": 0.0}
    if kind == "prune_channels":
        pruned = replace(spec, neck=spec.neck - 8, head=replace(spec.head, width=spec.head.width - 64))
        inner = tuple(max(8, int(w * 0.85) // 8 * 8) for w in stage.inner)
        return pruned.with_stage(index, replace(stage, inner=inner)), {**action, "stage": -1, "ratio": 0.08}
    if kind == "prune_layer" and stage.depth > 1:
        return spec.with_stage(index, replace(stage, inner=stage.inner[:-1])), {**action, "position": stage.depth - 1}
    return spec.with_stage(index, Stage(stage.width, (*stage.inner, stage.inner[-1]))), action


def search_trials(rng: random.Random) -> list[Json]:
    base, teacher = preset("r18", len(CLASSES)), scale_backbone(preset("r50", len(CLASSES)), 1.25)
    first = trial(0, None, None, "base", base, teacher, 0.231, True)
    rows, best = [first], first
    for number in range(1, 40):
        if rng.random() < 0.25:
            grown = teacher.with_stage(2, replace(teacher.stages[2], inner=teacher.stages[2].inner + (320,) * rng.randrange(1, 4)))
            row = trial(number, best["number"], None, "teacher", DetectorSpec.from_dict(best["student"]), grown, 0, False)
        else:
            student, action = changed(DetectorSpec.from_dict(best["student"]), rng.choice(KINDS), rng)
            row = trial(number, best["number"], action, "student", student, teacher, 0, False)
        row["ap"] = best["ap"] + rng.gauss(-0.002, 0.009)
        row["score"] = row["ap"] * (row["cost"] / first["cost"]) ** -0.15
        if number % 11 == 7:
            row.update(state="refused", ap=None, score=None, reason="cannot beat rank 5 even at the best AP so far")
        elif number == 23:
            row.update(state="failed", ap=None, score=None, reason="loss was not finite for 20 steps")
        elif row["score"] > best["score"]:
            row["lineage"], best = True, row
        rows.append(row)
    return rows


def trial(
    number: int,
    parent: int | None,
    action: Json | None,
    choice: str,
    student: DetectorSpec,
    teacher: DetectorSpec,
    ap: float,
    lineage: bool,
) -> Json:
    cost = multiply_adds(student, SIZE) / 1e9
    return {
        "number": number, "parent": parent, "generation": 0, "choice": choice, "action": action, "student": student.to_dict(),
        "teacher": teacher.to_dict(), "metrics": {"320x320": {"ap": ap}}, "best_size": list(SIZE), "ap": ap, "cost": cost, "score": ap,
        "seconds": 31.0, "images": 900, "state": "complete", "lineage": lineage,
    }  # fmt: skip


def picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = np.linspace(0, 1, 240)[:, None, None]
    image = np.broadcast_to(rows * [30, 90, 130] + [20, 40, 70], (240, 320, 3)).astype(np.uint8).copy()
    boxes = np.stack([rng.uniform(0, 200, 4), rng.uniform(0, 140, 4), rng.uniform(240, 318, 4), rng.uniform(170, 238, 4)], axis=1)
    labels, scores = rng.integers(1, 8, 4), rng.uniform(0.3, 1, 4)
    panels = [draw_detections(image, boxes[:n], labels[:n], s, CLASSES, height=360) for n, s in ((2, scores[:2]), (4, scores), (4, None))]
    return side_by_side(panels, ["base", "student", "ground truth"])


def model(spec: DetectorSpec, ap: float, latency_ms: float) -> Json:
    return {
        "ap": ap, "ap50": ap * 1.9, "latency_ms": latency_ms, "latency_spread_ms": [latency_ms * 0.97, latency_ms * 1.08],
        "flops_g": multiply_adds(spec, SIZE) / 1e9, "params_m": 28.4, "size_hw": list(SIZE),
    }  # fmt: skip


def summary(base: Json, student: Json) -> Json:
    old, new = DetectorSpec.from_dict(base["student"]), DetectorSpec.from_dict(student["student"])
    precisions = [
        {"precision": name, "passed": passed, "message": "4016 detections on 32 images agree", "ap": 0.3, "delta_ap": 1e-4, "size_mb": size,
         "median_ms": ms, "chosen": name == "fp16"}
        for name, passed, size, ms in (("fp32", True, 112.4, 19.8), ("fp16", True, 56.3, 12.2), ("int8", False, 28.6, None))
    ]  # fmt: skip
    found = {"params_m": 25.1, "score": student["score"], "artifact": "student/student.onnx", "precisions": precisions}
    target = {"name": "cpu-ort", "device": "2 cores", "runtime": "onnxruntime 1.32.0", "precision": "fp32", "batch": 1}
    counts = {"train_images": 448, "val_images": 190, "fingerprint": ["aaaa", "bbbb"], "problems": {"clipped boxes": 3}}
    return {
        "base": {**model(old, base["ap"], base["cost"]), "score": base["score"]},
        "control": model(old, base["ap"] + 0.012, base["cost"]),
        "student": {**model(new, student["ap"], student["cost"]), **found},
        "search": {"evaluated": 33, "accepted": 14, "seconds": 1284.0},
        "seed": 0,
        "target": {**target, "rows": [{"engine": "base.onnx"}], "comparison": {"ratio": 0.73, "low": 0.71, "high": 0.76}},
        "command": "jdnas optimize --base r18 --target cpu-ort --data aquarium --preset quick --run-dir runs/aquarium",
        "versions": {"jdnas": "0.1.0", "torch": "2.14.1", "onnxruntime": "1.32.0"},
        "data": {"name": "data/aquarium", "classes": list(CLASSES), **counts},
        "settings": {"base": "r18", "search": {"trials": 40, "alpha": 0.15}, "train": {"epochs": 3, "batch": 8}},
    }


def capacity(row: Json) -> Json:
    return {role: backbone_parameters(DetectorSpec.from_dict(row[role])) for role in ("student", "teacher")}


def parts_ms(spec: DetectorSpec) -> Json:
    return {part: count * 2e-8 for part, count in per_part(spec, SIZE).items()} | {"rest": 4.0}


def report_data(trials: list[Json], student: Json) -> Json:
    specs = [DetectorSpec.from_dict(t["student"]) for t in (trials[0], student)]
    shifts = (("base", 0.0), ("student", 0.03), ("control", 0.01))
    per_class = {role: {name: 0.1 + 0.05 * i + shift for i, name in enumerate(CLASSES)} for role, shift in shifts}
    capacities = [{"number": t["number"], "score": t["score"], **capacity(t)} for t in trials if t["state"] == "complete"]
    return {
        "trials": trials, "cost_name": "latency_ms", "actions": [], "teacher_capacity": capacities,
        "parts": {"base": per_part(specs[0], SIZE), "student": per_part(specs[1], SIZE)}, "per_class": per_class,
        "parts_ms": {"label": "predicted from a measured table", "parts": [parts_ms(spec) for spec in specs]},
        "curves": {name: [[s, 2.2 * r**s + 0.4] for s in range(0, n, 5)] for name, n, r in (("base", 900, 0.996), ("pool", 1500, 0.998))},
        "parity": {"passed": True, "images": 16, "box_px": 0.0123, "score": 3.1e-6, "ap_difference": 0.0},
        "benchmark": [
            {"engine": e, "target": "cpu-ort", "median_ms": m, "p5_ms": m * 0.97, "p95_ms": m * 1.1, "fps": 1000 / m}
            for e, m in (("base.onnx", 27.3), ("student.onnx", 19.84))
        ],
        "examples": [{"file": f"report/example_{i}.jpg", "caption": f"image {i}: base, student, ground truth"} for i in range(2)],
    }  # fmt: skip


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "aquarium"
    folder.mkdir()
    trials = search_trials(random.Random(3))
    winner = [t for t in trials if t["lineage"]][-1]
    for i in range(2):
        write_jpeg(folder / f"report/example_{i}.jpg", picture(i))
    (folder / "summary.json").write_text(json.dumps(summary(trials[0], winner)))
    (folder / "report_data.json").write_text(json.dumps(report_data(trials, winner)))
    return folder
