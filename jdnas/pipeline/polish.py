"""The polish phase: the student that won the search, trained on with the teacher that it won with."""

from dataclasses import dataclass, replace
from typing import Any

from jdnas.models.weights import State
from jdnas.pipeline.candidate_training import metrics_of, train_candidate
from jdnas.pipeline.context import Context
from jdnas.pipeline.pool import outgrown_pool, teacher_of
from jdnas.pipeline.progress import JobProgress
from jdnas.search.history import Trial
from jdnas.search.objective import Goal, Objective, goal_of
from jdnas.search.propose import training_seed
from jdnas.search.workshop import size_key
from jdnas.teacher.pool import TeacherPool
from jdnas.training.checkpoint import has_detector, load_detector, save_detector
from jdnas.training.loop import Resume
from jdnas.training.schedule import steps_of

_POLISH = -1  # its place among the seeds of trainings, which candidates number from 0


@dataclass(frozen=True)
class Final:
    """The student that leaves: the trial with its figures, its weights, whether it meets the goal, what polishing did, and its images."""

    trial: Trial
    state: State
    goal: Goal | None = None
    polish: dict[str, Any] | None = None
    images: int = 0


def polish(
    context: Context, pool: TeacherPool, student: Trial, state: State, objective: Objective, progress: JobProgress, units: float
) -> Final:
    """Train a student on for `search.polish_epochs` and return the better of both by score; without such epochs, as it is.

    The paper has "no additional training". Where the polished one is no better it is left behind, with its figures in `polish`.
    """
    settings = context.config.search
    epochs = settings.polish_epochs
    if not epochs:
        return Final(student, state, goal_of(student, settings))
    own, metrics, images = _polished(context, pool, student, state, epochs, progress, units)
    aps = {size: float(values["ap"]) for size, values in metrics.items()}
    size, score = objective.best(aps, student.costs)
    after = replace(student, metrics=metrics, size=size, ap=aps[size], cost=student.costs[size], score=score)
    better = score > (student.score or float("-inf"))
    record = {
        "epochs": epochs, "images": images, "unpolished": _figures(student), "polished": _figures(after),
        "delivered": "polished" if better else "unpolished",
    }  # fmt: skip
    progress.say(
        f"  polished: AP {student.ap:.3f} -> {after.ap:.3f}, score {student.score:.4f} -> {score:.4f}; the {record['delivered']} one leaves"
    )
    for line in outgrown_pool(context, aps[size_key(context.base_size_hw)]):
        progress.say(line)
    if better:
        return Final(after, own, goal_of(after, settings), record, images)
    return Final(student, state, goal_of(student, settings), record)


def _figures(trial: Trial) -> dict[str, Any]:
    return {"ap": trial.ap, "size": trial.size, "cost": trial.cost, "score": trial.score}


def _polished(
    context: Context, pool: TeacherPool, student: Trial, state: State, epochs: float, progress: JobProgress, units: float
) -> tuple[State, dict[str, dict[str, Any]], int]:
    """Return weights, metrics and images of the polished student, which are kept beside it."""
    stem, spec = context.folder.polished, student.student
    wanted = {"trial": student.number, "epochs": epochs}
    if has_detector(stem):
        _, kept, meta = load_detector(stem)
        if {key: meta.get(key) for key in wanted} == wanted:
            progress.advance(units)
            return kept, meta["metrics"], int(meta["images"])
    settings = context.config.candidate_train.lasting(epochs)
    steps = steps_of(epochs, len(context.train.records), settings.batch)
    resume = Resume(stem.with_name(f"student_{student.number}_{epochs:g}.partial.safetensors"), context.config.checkpoint_seconds)
    with progress.stage(f"Polish: candidate {student.number} for {epochs:g} epochs more", units):
        trained = train_candidate(
            context, spec, state, settings, seed=training_seed(context.config.seed, _POLISH),
            teacher=teacher_of(context, pool, student.teacher, spec), resume=resume,
            on_step=context.scalars.watching("polish", settings, steps, progress.steps(units * 0.9, steps)),
        )  # fmt: skip
        metrics = metrics_of(context, spec, trained.state)
    meta = context.described(metrics=metrics, images=trained.report.images, note=trained.note)
    save_detector(stem, spec, trained.state, meta | wanted)
    resume.path.unlink(missing_ok=True)
    return trained.state, metrics, trained.report.images
