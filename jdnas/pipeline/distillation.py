"""`jdnas distill`: one student and its teacher, without a search."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jdnas.config import RunConfig
from jdnas.distill.settings import DistillSettings, Method
from jdnas.distill.teacher import Teacher, check_pair
from jdnas.errors import CheckpointError, ConfigError
from jdnas.models.bound import materialize
from jdnas.models.weights import State
from jdnas.pipeline.context import Context, load_context
from jdnas.pipeline.detector_training import evaluate_detector, train_detector
from jdnas.pipeline.pool import teacher_of
from jdnas.pipeline.progress import JobProgress, counting
from jdnas.pipeline.run_folder import begin_run, open_run, run_lock
from jdnas.spec import DetectorSpec
from jdnas.teacher.names import FORM, describe_subnet, subnet_from_text
from jdnas.teacher.pool import load_pool
from jdnas.training.checkpoint import has_detector, load_detector, read_json, save_detector, stem_of, write_json
from jdnas.training.loop import Resume
from jdnas.training.schedule import steps_of
from jdnas.training.settings import TrainSettings

DYNAMIC = "dynamic"
TeacherOfRound = Callable[[int], tuple[str, Teacher]]


@dataclass(frozen=True, slots=True)
class Student:
    """What is to be taught: a spec and its weights."""

    spec: DetectorSpec
    state: State


def read_student(path: Path) -> tuple[Student, tuple[str, ...] | None]:
    """Read a detector's weights and, where the file says so, its classes."""
    spec, state, meta = load_detector(stem_of(path))
    return Student(spec, state), tuple(meta["classes"]) if "classes" in meta else None


def open_teacher(context: Context, reference: str, student: DetectorSpec) -> TeacherOfRound:
    """Return the teacher of each round that `reference` names.

    `WEIGHTS.safetensors` is one detector. `POOL:SUBNET` is a subnet of a pool, which is a run folder or a pool's .safetensors file;
    `POOL:dynamic` draws a subnet anew for each round (dynamic distillation, paper 3.1.3). A ConfigError or CheckpointError says
    what does not fit: the file, its classes, or the subnet.
    """
    place, _, subnet = reference.rpartition(":")
    if not place:
        return _fixed(context, Path(reference), student)
    stem = Path(place) / "pool" / "pool" if Path(place).is_dir() else stem_of(Path(place))
    pool = load_pool(stem, context.train.classes)

    def teacher_of_round(index: int) -> tuple[str, Teacher]:
        if subnet == DYNAMIC:
            spec = pool.space.sample(random.Random(f"{context.config.seed}/{index}"))
        else:
            spec = subnet_from_text(pool.space, subnet)
        return describe_subnet(pool.space, spec), teacher_of(context, pool, spec, student)

    teacher_of_round(0)
    return teacher_of_round


def _fixed(context: Context, path: Path, student: DetectorSpec) -> TeacherOfRound:
    spec, state, meta = load_detector(stem_of(path))
    if "pool" in meta:
        raise ConfigError(f"{path} is a teacher pool; say which subnet teaches: --teacher {path}:SUBNET with {FORM}")
    _check_classes(context, path, spec, meta.get("classes"))
    teacher = Teacher.fixed(materialize(spec, state, context.device), student)
    return lambda index: (str(path), teacher)


def _check_classes(context: Context, path: Path, spec: DetectorSpec, classes: list[str] | tuple[str, ...] | None) -> None:
    known = context.train.classes
    if spec.num_classes != len(known) or (classes is not None and tuple(classes) != known):
        got = f"{spec.num_classes} classes" if classes is None else f"classes {', '.join(classes)}"
        raise CheckpointError(f"{path} was trained for {got}; the data has {len(known)}: {', '.join(known)}")


def train_in_rounds(
    context: Context, student: Student, settings: TrainSettings, distill: DistillSettings, *, rounds: int, seed: int, stem: Path,
    teacher_of_round: TeacherOfRound | None = None, on_step: Callable[[int, float], None] | None = None,
    on_round: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[State, list[dict[str, Any]]]:  # fmt: skip
    """Train a student for some rounds of `settings.epochs`, each with its own teacher, learning rate schedule and data order.

    A student trains so during a search (paper 4.1.2). After each round it is evaluated, and `stem` keeps it with the record of all
    rounds; a call that finds an unfinished one goes on from its last checkpoint.
    """
    state, done = student.state, []
    if has_detector(stem):
        _, state, meta = load_detector(stem)
        done = list(meta["rounds"])
    partial_path = stem.with_name(stem.name + ".partial.safetensors")
    for index in range(len(done), rounds):
        name, teacher = teacher_of_round(index) if teacher_of_round is not None else ("none", None)
        resume = Resume(partial_path, context.config.checkpoint_seconds)
        state, report = train_detector(
            context,
            student.spec,
            state,
            settings,
            seed=seed * 1000 + index,
            teacher=teacher,
            distill=distill,
            resume=resume,
            on_step=on_step,
        )
        metrics = evaluate_detector(context, student.spec, state, context.base_size_hw)
        done.append({"round": index, "teacher": name, "images": report.images, "seconds": report.seconds, "skipped_steps": report.skipped,
                     "curve": report.curve, "metrics": metrics.to_dict()})  # fmt: skip
        save_detector(stem, student.spec, state, context.described(rounds=done, metrics=metrics.to_dict()))
        partial_path.unlink(missing_ok=True)
        if on_round is not None:
            on_round(done[-1])
    return state, done


def distill_context(
    config: RunConfig, run_dir: Path, student: Path, *, resume: bool, progress: JobProgress
) -> tuple[Context, Student]:  # fmt: skip
    """Check all that was given; the context is that of the student."""
    folder, config = open_run(run_dir, config, resume=resume)
    if folder.config_file.exists() and not _request_file(run_dir).exists():
        raise ConfigError(f"{run_dir} holds a run of another command; choose another --run-dir")
    pupil, classes = read_student(student)
    with counting(progress.console, quiet=progress.quiet) as count:
        context = replace(load_context(config, folder, count), base_spec=pupil.spec)
    _check_classes(context, student, pupil.spec, classes)
    return context, pupil


def distill_alone(
    config: RunConfig, run_dir: Path, *, student: Path, teacher: str, method: Method, rounds: int, resume: bool, progress: JobProgress
) -> dict[str, Any]:
    """Distil one student; the folder gets `student/student.safetensors` and `distill.json`, whose content is returned."""
    context, pupil = distill_context(config, run_dir, student, resume=resume, progress=progress)
    teacher_of_round = open_teacher(context, teacher, pupil.spec)
    check_pair(pupil.spec, teacher_of_round(0)[1].spec)
    asked = {"student": str(student), "teacher": teacher, "method": method, "rounds": rounds}
    settings = context.config.candidate_train
    steps = rounds * steps_of(settings.epochs, len(context.train.records), settings.batch)
    progress.planned = steps + 1.0
    with run_lock(context.folder), progress.running():
        _hold_to_first_request(_request_file(run_dir), asked)
        begin_run(context.folder, config)
        before = evaluate_detector(context, pupil.spec, pupil.state, context.base_size_hw)
        progress.say(f"student before: AP {before.ap:.3f} (AP50 {before.ap50:.3f}); {rounds} x {steps // rounds} steps")
        _, done = train_in_rounds(
            context, pupil, settings, config.distill.for_method(method), rounds=rounds, seed=config.seed, stem=context.folder.student,
            teacher_of_round=teacher_of_round, on_step=progress.steps(steps, steps), on_round=lambda r: progress.say(_line(r)),
        )  # fmt: skip
    result = {
        "student": str(student),
        "teacher": teacher,
        "method": method,
        "before": before.to_dict(),
        "rounds": done,
        "seed": config.seed,
    }
    write_json(run_dir / "distill.json", result)
    return result


def _request_file(run_dir: Path) -> Path:
    return run_dir / "request.json"


def _line(done: dict[str, Any]) -> str:
    metrics = done["metrics"]
    skipped = f", {done['skipped_steps']} steps skipped as not finite" if done["skipped_steps"] else ""
    return f"  round {done['round'] + 1} with {done['teacher']}: AP {metrics['ap']:.3f} (AP50 {metrics['ap50']:.3f}){skipped}"


def _hold_to_first_request(path: Path, request: dict[str, Any]) -> None:
    """Raise a ConfigError where a resumed run is asked for something else than it was begun with (more rounds are allowed)."""
    if path.exists():
        kept = read_json(path)
        changed = [key for key in request if key != "rounds" and kept.get(key) != request[key]]
        if changed:
            raise ConfigError(
                f"{path.parent} was begun with {changed[0]} {kept.get(changed[0])}; resume it with the same, or choose another --run-dir"
            )
    write_json(path, request)
