"""The teacher pool of a run: grown from the base, trained by progressive shrinking."""

from collections.abc import Callable
from dataclasses import asdict

from jdnas.distill.teacher import Teacher
from jdnas.models.weights import State, grow
from jdnas.pipeline.context import Context, SizeHW
from jdnas.pipeline.detector_training import evaluate_detector
from jdnas.pipeline.progress import JobProgress
from jdnas.spec import DetectorSpec
from jdnas.teacher.pool import Calibration, TeacherPool, load_pool
from jdnas.teacher.shrink import PhaseReport, train_pool
from jdnas.teacher.space import SubnetSpace, make_space
from jdnas.training.checkpoint import has_detector, read_json
from jdnas.training.schedule import steps_of


def ensure_pool(context: Context, base_state: State, progress: JobProgress, units: float) -> TeacherPool:
    """Train the pool, or read it where that was done."""
    stem, settings = context.folder.pool, context.config.pool
    if has_detector(stem):
        with progress.stage("Teacher pool: done before", units):
            return load_pool(stem, context.train.classes)
    space = make_space(context.base_spec, settings)
    steps = sum(steps_of(phase.epochs, len(context.train.records), settings.train.batch) for phase in settings.phases)
    with progress.stage(f"Teacher pool: {space.size()} subnets, {len(settings.phases)} phases", units):
        state, reports = train_shared_state(context, space, base_state, context.scalars.losses("pool", progress.steps(units, steps)))
        pool = TeacherPool(space, state, context.train.classes, stem.parent / "statistics")
        largest = pool.extract(space.largest, calibration_of(context, pool, context.base_size_hw), context.device)
        metrics = evaluate_detector(context, space.largest, largest.state_dict(), context.base_size_hw)
        context.scalars.add("pool/largest_ap", metrics.ap, steps)
        progress.say(f"  largest teacher AP {metrics.ap:.3f} (AP50 {metrics.ap50:.3f})")
        for line in weak_pool(metrics.ap, base_ap(context)):
            progress.say(line)
    meta = {
        "phases": [asdict(report) for report in reports],
        "largest_metrics": metrics.to_dict(),
    }
    pool.save(stem, meta)
    return pool


def base_ap(context: Context) -> float:
    """Return the AP that the run's base was found to have."""
    return float(read_json(context.folder.base.with_suffix(".json"))["meta"]["metrics"]["ap"])


def weak_pool(teacher_ap: float, base_ap: float) -> list[str]:
    """Say that the largest teacher has less to teach than the base, and what to do, where that is so."""
    if teacher_ap >= base_ap:
        return []
    return [
        f"  the largest teacher is weaker than the base (AP {base_ap:.3f}): students will hardly learn from it. Train it longer, or, "
        "from a base that is trained well, with a lower rate: pool.phases (epochs, lr_factor), in a new --run-dir"
    ]


def outgrown_pool(context: Context, student_ap: float) -> list[str]:
    """Say that a student trained to its end by its teacher is better than the largest of the pool, and what to do, where that is so.

    `student_ap` is its AP at the base's size, at which the largest teacher was evaluated.
    """
    teacher_ap = read_json(context.folder.pool.with_suffix(".json"))["meta"]["largest_metrics"]["ap"]
    if student_ap <= teacher_ap or context.config.distill.until_epochs is not None:
        return []
    return [
        f"  the student (AP {student_ap:.3f}) has outgrown the largest teacher (AP {teacher_ap:.3f}), which may hold it back: in a new "
        "--run-dir, let the teacher go after some epochs (--set distill.until_epochs=4), or train the pool longer"
    ]


def train_shared_state(
    context: Context, space: SubnetSpace, base_state: State, on_step: Callable[[int, float], None] | None = None
) -> tuple[State, list[PhaseReport]]:
    """Grow the pool's largest net from the base and train it with its subnets; every process of the run's team takes part."""
    settings = context.config.pool
    return train_pool(
        grow(base_state, context.base_spec, space.largest, seed=context.config.seed), space, settings, context.config.distill,
        images=len(context.train.records), batches=lambda seed, step: context.train_batches(settings.train, seed, step),
        device=context.device, seed=context.config.seed, folder=context.folder.pool.parent,
        checkpoint_seconds=context.config.checkpoint_seconds, on_step=on_step, team=context.team,
    )  # fmt: skip


def calibration_of(context: Context, pool: TeacherPool, size_hw: SizeHW) -> Calibration:
    """Return the run's calibration of the pool's teachers at one resolution."""
    return context.calibration(context.config.pool.bn_images, size_hw, pool.space.unit.traits)


def teacher_of(context: Context, pool: TeacherPool, spec: DetectorSpec, student: DetectorSpec) -> Teacher:
    """Return a subnet of the pool as a teacher, with BN statistics of its own at each resolution that the student trains at."""
    half = context.device.type == "cuda"
    return Teacher(spec, lambda size_hw: pool.extract(spec, calibration_of(context, pool, size_hw), context.device, half=half), student)
