"""Table 3: plain training, logit distillation, fine-grained feature imitation and ours, for the same images and seeds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from jdnas.config import make_config, merge
from jdnas.distill.settings import DistillSettings
from jdnas.distill.teacher import Teacher
from jdnas.models.bound import materialize
from jdnas.models.complexity import multiply_adds
from jdnas.models.detector import build
from jdnas.models.weights import State
from jdnas.pipeline.base import initial_state
from jdnas.pipeline.context import Context, base_spec_of
from jdnas.reproduce import paper
from jdnas.reproduce.lab import Lab
from jdnas.reproduce.layout import Result, Table, points, points_spread, with_paper
from jdnas.reproduce.records import Job, Record, file_name, spread, trained
from jdnas.reproduce.scale import DistillPair, TableMethod
from jdnas.spec import DetectorSpec
from jdnas.training.checkpoint import load_detector
from jdnas.training.settings import TrainSettings

TITLE = "Table 3: detection distillation against plain training and other methods"
NAMES: dict[TableMethod, str] = {"plain": "none", "logit": "logit KD", "fgfi": "FGFI", "ours": "our KD"}
TEACHER_SEED = 99  # away from the students' seeds
KEPT = ("images", "skipped", "seconds", "ap", "ap50", "ap75", "curve")


def fresh_state(spec: DetectorSpec, seed: int) -> State:
    """Return freshly drawn weights; the same for the same spec and seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(spec).state_dict()


def settings_of(ours: DistillSettings, method: TableMethod) -> DistillSettings | None:
    """Return the distillation settings of a method of the table; None for plain training."""
    return None if method == "plain" else ours.for_method(method)


def train_student(
    context: Context, stem: Path, start: Callable[[], State], train: TrainSettings, *, teacher: Path, method: str,
    distill: DistillSettings | None, seed: int,
) -> Record:  # fmt: skip
    """Train the context's base as a student, with the detector at `teacher` unless `distill` is None; return its record."""
    taught_by = None
    if distill is not None:
        its, weights, _ = load_detector(teacher)
        taught_by = Teacher.fixed(materialize(its, weights, context.device), context.base_spec)
    _, known = trained(context, stem, context.base_spec, start, train, seed=seed, teacher=taught_by, distill=distill)
    return {"method": method, "seed": seed, **{key: known[key] for key in KEPT}}


def _net(lab: Lab, settings: dict[str, Any], seed: int) -> Context:
    """Return what works with a student or teacher whose settings differ in some from those of the scale's runs."""
    config = make_config(merge(lab.config.model_dump(mode="json"), settings), source="a pair of table 3")
    config = config.model_copy(update={"seed": seed, "weights": lab.weights.get(config.base)})
    context = lab.context(lab.scale.pool_model)
    spec = base_spec_of(config, len(context.train.classes), max(context.base_size_hw))
    return replace(context, config=config, base_spec=spec)


def _teacher_stem(lab: Lab, pair: DistillPair) -> Path:
    return lab.work / "table3" / file_name("teacher", pair.student, pair.teacher)


def _teach(lab: Lab, pair: DistillPair) -> Record:
    seed = lab.seed + TEACHER_SEED
    context = _net(lab, pair.teacher_settings, seed)
    spec, train = context.base_spec, context.config.base_train.model_copy(update=lab.scale.table3.teacher_train)
    _, known = trained(context, _teacher_stem(lab, pair), spec, lambda: initial_state(context)[0], train, seed=seed)
    return {"kind": "teacher", "student": pair.student, "teacher": pair.teacher, "spec": spec.to_dict(),
            "gmac": multiply_adds(spec, context.base_size_hw) / 1e9, **{key: known[key] for key in KEPT if key != "curve"}}  # fmt: skip


def _learn(lab: Lab, pair: DistillPair, method: TableMethod, seed: int, stem: Path) -> Record:
    context = _net(lab, pair.student_settings, seed)
    train = context.config.base_train.model_copy(update=lab.scale.table3.student_train)
    record = train_student(
        context, stem, lambda: initial_state(context)[0], train, teacher=_teacher_stem(lab, pair), method=method,
        distill=settings_of(context.config.distill, method), seed=seed,
    )  # fmt: skip
    return {"kind": "student", "student": pair.student, "teacher": pair.teacher, "spec": context.base_spec.to_dict(), **record}


def jobs(lab: Lab) -> list[Job]:
    """Return a job for the teacher of each pair, and one for each pair, method and seed."""
    found: list[Job] = []
    for pair in lab.scale.table3.pairs:
        stem = _teacher_stem(lab, pair)

        def teach(pair: DistillPair = pair) -> Record:
            return _teach(lab, pair)

        found.append(Job(stem.with_name(f"{stem.name}.record.json"), f"{pair.teacher}, the teacher of {pair.student}", teach))
        for seed in lab.scale.seeds:
            for method in lab.scale.table3.methods:
                stem = lab.work / "table3" / file_name(pair.student, method, seed)

                def learn(pair: DistillPair = pair, method: TableMethod = method, seed: int = seed, stem: Path = stem) -> Record:
                    return _learn(lab, pair, method, seed, stem)

                found.append(Job(stem.with_name(f"{stem.name}.record.json"), f"{pair.student}, {NAMES[method]}, seed {seed}", learn))
    return found


def result(lab: Lab, records: list[Record]) -> Result:
    """Lay the records out as the paper does: a method and a pair a row, APs of student and teacher alone in parentheses."""
    coco = paper.is_coco(lab.context(lab.scale.pool_model).train.classes)
    rows: list[Record] = []
    cells: list[tuple[str, ...]] = []
    beside: list[str] = []
    for pair in lab.scale.table3.pairs:
        mine = [r for r in records if (r["student"], r["teacher"]) == (pair.student, pair.teacher)]
        teacher = next((r["ap"] for r in mine if r["kind"] == "teacher"), None)
        by_method = {m: spread(aps) for m in NAMES if (aps := [r["ap"] for r in mine if r["kind"] == "student" and r["method"] == m])}
        plain = by_method["plain"]["mean"] if "plain" in by_method else None
        for method, found in by_method.items():
            rows.append(
                {
                    "method": method,
                    "student": pair.student,
                    "teacher": pair.teacher,
                    "student_ap": plain,
                    "teacher_ap": teacher,
                    "ap": found,
                }
            )
            gain = "" if method == "plain" or plain is None else f" ({100 * (found['mean'] - plain):+.1f})"
            whose = "-" if method == "plain" else f"{pair.teacher} ({points(teacher)})"
            cells.append((NAMES[method], f"{pair.student} ({points(plain)})", whose, points_spread(found) + gain))
            beside.append(str(paper.TABLE3.get((pair.student, pair.teacher, method), "")))
    for name, student, its, ap in paper.TABLE3_OTHERS if coco else ():
        cells.append((name, student, its, "-"))
        beside.append(str(ap))
    columns, texts = with_paper(("KD Method", "Student", "Teacher", "AP"), cells, beside if coco else None)
    return Result(Table(TITLE, columns, texts, _notes(records, coco)), rows)


def _notes(records: list[Record], coco: bool) -> tuple[str, ...]:
    students = [r for r in records if r["kind"] == "student"]
    seeds, images = sorted({r["seed"] for r in students}), sorted({r["images"] for r in students})
    note = f"In parentheses: student without a teacher, teacher; gain. Each student saw {' or '.join(map(str, images))} training " \
           f"images; seeds {', '.join(map(str, seeds))}."  # fmt: skip
    return (note,) if coco else (note, paper.NO_COCO)
