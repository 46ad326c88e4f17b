"""Figure 4: dynamic distillation (a teacher drawn from the pool for each round) against conventional (the largest net), and none.

As in the paper's section 4.1.2, the student trains in rounds with a learning rate schedule each.
"""

import random
from pathlib import Path

from jdnas.distill.settings import DistillSettings
from jdnas.distill.teacher import Teacher
from jdnas.pipeline.context import Context
from jdnas.pipeline.detector_training import evaluate_detector
from jdnas.pipeline.distillation import Student, train_in_rounds
from jdnas.pipeline.pool import calibration_of, teacher_of
from jdnas.reproduce.drawing import Line, Panel, draw
from jdnas.reproduce.lab import Lab
from jdnas.reproduce.layout import Result, Table, points, points_spread
from jdnas.reproduce.records import Job, Record, spread
from jdnas.teacher.names import describe_subnet
from jdnas.teacher.pool import TeacherPool
from jdnas.training.settings import TrainSettings

TITLE = "Figure 4: dynamic KD against conventional KD (with the largest net of the pool as the teacher)"
ARMS = {"none": "no teacher", "conventional": "conventional KD", "dynamic": "dynamic KD"}
COLOURS = {"none": "#888888", "conventional": "#efb118", "dynamic": "#4269d0"}


def train_arm(
    context: Context, pool: TeacherPool, student: Student, arm: str, train: TrainSettings, distill: DistillSettings, *, rounds: int,
    seed: int, stem: Path,
) -> Record:  # fmt: skip
    """Train one student in rounds and return its AP after each; `stem` keeps what is done."""

    def teacher_of_round(index: int) -> tuple[str, Teacher]:
        spec = pool.space.sample(random.Random(f"{seed}/{index}")) if arm == "dynamic" else pool.space.largest
        return describe_subnet(pool.space, spec), teacher_of(context, pool, spec, student.spec)

    _, done = train_in_rounds(
        context, student, train, distill, rounds=rounds, seed=seed, stem=stem, teacher_of_round=None if arm == "none" else teacher_of_round
    )  # fmt: skip
    return {"arm": arm, "seed": seed, "images_per_round": done[0]["images"], "teachers": [r["teacher"] for r in done],
            "skipped_steps": sum(r["skipped_steps"] for r in done), "ap": [r["metrics"]["ap"] for r in done]}  # fmt: skip


def ends(context: Context, pool: TeacherPool, student: Student) -> Record:
    """Return the APs of the student before the first round and of the pool's largest net."""
    size = context.base_size_hw
    largest = pool.extract(pool.space.largest, calibration_of(context, pool, size), context.device)
    of_student = evaluate_detector(context, student.spec, student.state, size).ap
    return {
        "student": {"ap": of_student},
        "largest_teacher": {"ap": evaluate_detector(context, largest.spec, largest.state_dict(), size).ap},
    }


def jobs(lab: Lab) -> list[Job]:
    """Return a job for both ends, and one for each arm and seed."""
    figure, folder = lab.scale.figure4, lab.work / "figure4"

    def both() -> Record:
        return {"kind": "ends", **ends(lab.context(figure.student), lab.pool(), _student(lab))}

    found = [Job(folder / "ends.record.json", "student and largest teacher before", both)]
    for seed in lab.scale.seeds:
        for arm in ARMS:

            def make(arm: str = arm, seed: int = seed) -> Record:
                context = lab.context(figure.student)
                train, distill = context.config.candidate_train, context.config.distill
                record = train_arm(
                    context, lab.pool(), _student(lab), arm, train, distill, rounds=figure.rounds, seed=seed, stem=folder / f"{arm}_{seed}"
                )  # fmt: skip
                return {"kind": "arm", **record}

            found.append(Job(folder / f"{arm}_{seed}.record.json", f"{ARMS[arm]}, seed {seed}", make))
    return found


def _student(lab: Lab) -> Student:
    state, _ = lab.base(lab.scale.figure4.student)
    return Student(lab.context(lab.scale.figure4.student).base_spec, state)


def figure(title: str, runs: list[Record]) -> str:
    """Draw AP over training images as SVG: each run thin, the mean over seeds thick."""
    lines = []
    for arm, name in ARMS.items():
        own = [run for run in runs if run["arm"] == arm]
        if len(own) > 1:
            lines += [Line("", _images(run), [100 * ap for ap in run["ap"]], COLOURS[arm], thin=True) for run in own]
        if own:
            means = [100 * spread(aps)["mean"] for aps in zip(*(run["ap"] for run in own), strict=True)]
            lines.append(Line(name, _images(own[0]), means, COLOURS[arm]))
    return draw(title, (Panel("AP over training images", "training images", "AP", lines=tuple(lines)),))


def _images(run: Record) -> list[int]:
    return [run["images_per_round"] * (index + 1) for index in range(len(run["ap"]))]


def result(lab: Lab, records: list[Record]) -> Result:
    """Draw AP over training images, and tabulate the APs after each round."""
    before = next((r["student"]["ap"] for r in records if r["kind"] == "ends"), None)
    arms, rows, cells = [r for r in records if r["kind"] == "arm"], [], []
    for arm, name in ARMS.items():
        runs = [run for run in arms if run["arm"] == arm]
        if not runs:
            continue
        after = [spread(aps) for aps in zip(*(run["ap"] for run in runs), strict=True)]
        rows.append({"arm": arm, "images": _images(runs[0]), "ap": after, "seeds": [run["seed"] for run in runs]})
        cells.append((name, *map(points_spread, after)))
    rounds = len(cells[0]) - 1 if cells else 0
    columns = ("teacher", *(f"round {index + 1}" for index in range(rounds)))
    seeds = ", ".join(map(str, sorted({seed for row in rows for seed in row["seeds"]})))
    note = f"AP of the student before the first round: {points(before)}. Seeds {seeds}."
    return Result(Table(TITLE, columns, tuple(cells), (note,)), rows, figure(TITLE, arms))
