"""The teacher pool of a run: grown from the base, trained by progressive shrinking."""

from dataclasses import asdict

from jdnas.models.bound import materialize
from jdnas.models.weights import State, grow
from jdnas.pipeline.context import Context
from jdnas.pipeline.detector_training import evaluate_detector
from jdnas.pipeline.progress import JobProgress
from jdnas.teacher.calibrate import recalibrate
from jdnas.teacher.pool import TeacherPool, load_pool
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
            batches=lambda seed, step: context.train_batches(settings.train.batch, seed, step),
            device=context.device, seed=context.config.seed, folder=stem.parent,
            checkpoint_seconds=context.config.checkpoint_seconds, on_step=progress.steps(units, steps),
        )  # fmt: skip
        pool = TeacherPool(space, state, context.train.classes)
        largest = recalibrate(
            materialize(space.largest, state, context.device), context.calibration_images(settings.bn_images, settings.train.batch)
        )
        metrics = evaluate_detector(context, space.largest, largest.state_dict(), context.base_size_hw)
        progress.say(f"  largest teacher AP {metrics.ap:.3f} (AP50 {metrics.ap50:.3f})")
    meta = {
        "phases": [asdict(report) for report in reports],
        "largest_metrics": metrics.to_dict(),
    }
    pool.save(stem, meta)
    for leftover in stem.parent.glob("phase_*"):
        leftover.unlink()
    return pool
