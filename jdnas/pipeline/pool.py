"""The teacher pool of a run: grown from the base, trained by progressive shrinking."""

from dataclasses import asdict

from jdnas.distill.teacher import Teacher
from jdnas.models.weights import State, grow
from jdnas.pipeline.context import Context, SizeHW
from jdnas.pipeline.detector_training import evaluate_detector
from jdnas.pipeline.progress import JobProgress
from jdnas.spec import DetectorSpec
from jdnas.teacher.pool import Calibration, TeacherPool, load_pool
from jdnas.teacher.shrink import train_pool
from jdnas.teacher.space import make_space
from jdnas.training.checkpoint import has_detector
from jdnas.training.schedule import steps_of


def ensure_pool(context: Context, base_state: State, progress: JobProgress, units: float) -> TeacherPool:
    """Train the pool, or read it where that was done."""
    stem, settings = context.folder.pool, context.config.pool
    if has_detector(stem):
        with progress.stage("Teacher pool: done before", units):
            return load_pool(stem, context.train.classes)
    space = make_space(context.base_spec, settings)
    images = len(context.train.records)
    steps = sum(steps_of(phase.epochs, images, settings.train.batch) for phase in settings.phases)
    with progress.stage(f"Teacher pool: {space.size()} subnets, {len(settings.phases)} phases", units):
        start = grow(base_state, context.base_spec, space.largest, seed=context.config.seed)
        state, reports = train_pool(
            start, space, settings, context.config.distill, images=images,
            batches=lambda seed, step: context.train_batches(settings.train, seed, step),
            device=context.device, seed=context.config.seed, folder=stem.parent,
            checkpoint_seconds=context.config.checkpoint_seconds, on_step=progress.steps(units, steps),
            team=context.team,
        )  # fmt: skip
        pool = TeacherPool(space, state, context.train.classes, stem.parent / "statistics")
        largest = pool.extract(space.largest, calibration_of(context, pool, context.base_size_hw), context.device)
        metrics = evaluate_detector(context, space.largest, largest.state_dict(), context.base_size_hw)
        progress.say(f"  largest teacher AP {metrics.ap:.3f} (AP50 {metrics.ap50:.3f})")
    meta = {
        "phases": [asdict(report) for report in reports],
        "largest_metrics": metrics.to_dict(),
    }
    if context.team.rank == 0:
        pool.save(stem, meta)
    context.team.wait()
    return pool


def calibration_of(context: Context, pool: TeacherPool, size_hw: SizeHW) -> Calibration:
    """Return the run's calibration of the pool's teachers at one resolution."""
    return context.calibration(context.config.pool.bn_images, size_hw, pool.space.unit.traits)


def teacher_of(context: Context, pool: TeacherPool, spec: DetectorSpec, student: DetectorSpec) -> Teacher:
    """Return a subnet of the pool as a teacher, with BN statistics of its own at each resolution that the student trains at."""
    half = context.device.type == "cuda"
    return Teacher(spec, lambda size_hw: pool.extract(spec, calibration_of(context, pool, size_hw), context.device, half=half), student)
