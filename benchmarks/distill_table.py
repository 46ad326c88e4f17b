"""Table 3 of our own: plain training, logit KD, fine-grained feature imitation and ours, for the same images and seeds.

    python benchmarks/distill_table.py --work runs/distill_table

The student is trained from scratch, the teacher is a wider net that was trained longer. Variants of ours
(`ours: ...`) stand below the table. Every training leaves one JSON file in --work and is skipped when it is there.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from provenance import ROOT
from small_setting import kept, publish, runs_in, small_context, training

from jdnas.distill.settings import DistillSettings
from jdnas.models.complexity import multiply_adds
from jdnas.pipeline.context import Context
from jdnas.presets import preset, scale_backbone
from jdnas.reproduce.distilling import fresh_state, train_student
from jdnas.reproduce.records import spread, trained
from jdnas.spec import DetectorSpec

OURS = DistillSettings(feature=0.0005, localization=0.1, normalize_features=True)  # as in the quick preset
METHODS: dict[str, DistillSettings | None] = {
    "plain": None,
    "logit": OURS.for_method("logit"),
    "fgfi": OURS.for_method("fgfi"),
    "ours": OURS,
    "ours: all weights 1, raw features": DistillSettings(),
    "ours: features 0.01, localization 1": OURS.model_copy(update={"feature": 0.01, "localization": 1.0}),
    "ours: features 0.01, fitted adapter": OURS.model_copy(update={"feature": 0.01, "adapter": "least_squares"}),
    "ours: warm-up over 0.3": OURS.model_copy(update={"warmup": 0.3}),
}


def teacher_spec(student: DetectorSpec) -> DetectorSpec:
    """Return the teacher's spec: the student's family at twice its backbone widths and 1.5 times its neck."""
    wide = scale_backbone(preset("r18", student.num_classes), 0.5)
    return replace(wide, neck=student.neck * 3 // 2, head=student.head)


def ensure_teacher(context: Context, work: Path, epochs: float) -> tuple[DetectorSpec, dict[str, Any]]:
    """Train the teacher once."""
    spec = teacher_spec(context.base_spec)
    _, meta = trained(context, work / "teacher", spec, lambda: fresh_state(spec, 99), training(epochs, lr=0.001), seed=99)
    return spec, {**{key: meta[key] for key in ("images", "ap", "ap50")}, "gmac": multiply_adds(spec, context.base_size_hw) / 1e9}


def train_one(context: Context, work: Path, method: str, seed: int, epochs: float) -> dict[str, Any]:
    """Train the student from scratch by one method."""
    spec, stem = context.base_spec, work / f"{file_name(method, seed)}_net"
    return train_student(
        context, stem, lambda: fresh_state(spec, seed), training(epochs), teacher=work / "teacher", method=method,
        distill=METHODS[method], seed=seed,
    )  # fmt: skip


def file_name(method: str, seed: int) -> str:
    """Return the name of a run's file."""
    return "".join(c if c.isalnum() else "_" for c in method) + f"_{seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and trainings; resumed when it is there")
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--teacher-epochs", type=float, default=24)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=["plain", "logit", "fgfi", "ours"], choices=list(METHODS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "distill_table.json")
    parser.add_argument("--table-only", action="store_true", help="train nothing but the teacher; write the table of what is there")
    options = parser.parse_args()
    context = small_context(options.work)
    spec, teacher = ensure_teacher(context, options.work, options.teacher_epochs)
    write_table(context, options.work, teacher, options.out)
    for seed in () if options.table_only else options.seeds:
        for method in options.methods:
            path = options.work / f"{file_name(method, seed)}.json"
            kept(path, lambda method=method, seed=seed: train_one(context, options.work, method, seed, options.epochs))
            write_table(context, options.work, teacher, options.out)


def write_table(context: Context, work: Path, teacher: dict[str, Any], out: Path) -> None:
    """Write the table of all runs that are there."""
    runs = runs_in(work, "*_")
    rows = []
    for method in (name for name in METHODS if any(run["method"] == name for run in runs)):
        mine = sorted((run for run in runs if run["method"] == method), key=lambda run: run["seed"])
        rows.append({
            "method": method, "settings": settings.model_dump() if (settings := METHODS[method]) else None,
            "seeds": [run["seed"] for run in mine], "images": mine[0]["images"], "skipped_steps": sum(run["skipped"] for run in mine),
            "ap": spread([run["ap"] for run in mine]), "ap50": spread([run["ap50"] for run in mine]),
        })  # fmt: skip
    student = {"spec": context.base_spec.to_dict(), "gmac": multiply_adds(context.base_spec, context.base_size_hw) / 1e9}
    publish(out, {"student": student, "teacher": teacher, "rows": rows}, context)


if __name__ == "__main__":
    main()
