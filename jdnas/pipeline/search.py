"""The search of a run, and the control that its result is held against."""

from dataclasses import dataclass

from jdnas.models.weights import State
from jdnas.pipeline.context import Context
from jdnas.pipeline.detector_training import evaluate_detector, train_detector
from jdnas.pipeline.placement import LOCAL, Placement, executor_for
from jdnas.pipeline.plan import WorkPlan
from jdnas.pipeline.progress import JobProgress
from jdnas.pipeline.speed import cost_unit, student_rules
from jdnas.pipeline.study_place import begin_study
from jdnas.pipeline.workshop import StudentWorkshop
from jdnas.search.analyses import images_saved
from jdnas.search.climb import SearchResult, run
from jdnas.search.history import History, Trial
from jdnas.search.objective import Objective, goal_of, objective_for, score_name
from jdnas.search.settings import SearchSettings
from jdnas.search.study import SearchStudy
from jdnas.search.workshop import Candidate, Cost, SearchTask
from jdnas.student.explain import explain
from jdnas.teacher.pool import TeacherPool
from jdnas.training.checkpoint import has_detector, load_detector, save_detector
from jdnas.training.loop import Resume
from jdnas.training.schedule import steps_of


@dataclass(frozen=True)
class Control:
    """The base trained on for as many images as the student's lineage: weights and AP, or the base itself after 0 images."""

    state: State
    images: int
    metrics: dict[str, object]


def _describe(trial: Trial, score: str) -> str:
    if trial.state == "refused":
        return f"refused before training: {trial.reason}"
    if trial.state in ("stopped", "failed"):
        return f"{trial.state}: {trial.reason}"
    return f"AP {trial.ap:.3f} at {trial.size}, cost {trial.cost:.4g}, {score} {trial.score:.4f}"


def search_settings(context: Context) -> SearchSettings:
    """Return the settings of the run's search, with the run's seed."""
    return context.config.search.model_copy(update={"seed": context.config.seed})


def search_objective(context: Context, cost: Cost) -> Objective:
    """Return what the run's students are scored by."""
    task = SearchTask(context.base_spec, context.base_spec, context.sizes_hw, context.base_size_hw)  # whoever teaches
    return objective_for(task, cost, search_settings(context))


def run_search(
    context: Context, pool: TeacherPool, cost: Cost, progress: JobProgress, plan: WorkPlan, placement: Placement = LOCAL
) -> SearchResult:  # fmt: skip
    """Search from the run's study on; every candidate counts as done work, refused ones as saved."""
    settings, task = search_settings(context), SearchTask(context.base_spec, pool.space.largest, context.sizes_hw, context.base_size_hw)
    train = context.config.candidate_train
    steps = steps_of(train.epochs, len(context.train.records), train.batch)
    rules = student_rules(context.config, context.base_spec)
    workshop = StudentWorkshop(context, pool, rules, on_step=progress.steps(plan.candidate * 0.8, steps))
    before, place = progress.done, begin_study(context.folder, context.config.study_url)
    if context.config.study_url is not None:
        progress.say(f"study {place.shown}")

    def on_wait(reason: str) -> None:
        progress.say(f"[yellow]the study's database does not answer ({reason}); waiting[/yellow]")

    def on_start(candidate: Candidate, history: History) -> None:
        progress.title = f"Candidate {candidate.number}/{settings.trials} ({candidate.change} of {candidate.parent})"

    def on_finish(trial: Trial, history: History) -> None:
        planned = plan.candidate * min(len(history) - 1, settings.trials)
        if trial.state == "complete":
            progress.advance(max(0.0, before + planned - progress.done))
        else:
            progress.replan(-plan.candidate)
        _tell(context, trial, history, progress)

    with (
        progress.stage(f"Search: up to {settings.trials} candidates", plan.candidate * plan.candidates),
        SearchStudy.open(place.url, task, settings, name=place.name, on_wait=on_wait) as study,
        executor_for(placement, context, pool, rules, cost) as executor,
    ):
        result = run(study, workshop, cost, executor=executor, on_start=on_start, on_finish=on_finish)
    _say_what_came_of_it(context, result.history, progress)
    return result


def _tell(context: Context, trial: Trial, history: History, progress: JobProgress) -> None:
    """Say what became of a candidate, and write its figures where they are watched."""
    best = history.best()
    for name, value in (("ap", trial.ap), ("score", trial.score), ("cost", trial.cost), ("best_score", best.score)):
        if value is not None:
            context.scalars.add(f"search/{name}", value, trial.number)
    became = _describe(trial, score_name(context.config.search))
    progress.say(f"  candidate {trial.number:3d} {trial.candidate.change:15s} {became}   \\[best {best.number}: {best.score:.4f}]")
    if trial.student != trial.candidate.origin:
        progress.say("    " + " ".join(explain(trial.candidate.origin, trial.student)))


def _say_what_came_of_it(context: Context, history: History, progress: JobProgress) -> None:
    if history.complete and (goal := goal_of(history.best(), context.config.search)):
        sentence = goal.sentence(cost_unit(context.config))
        progress.say(sentence if goal.met else f"[yellow]{sentence}[/yellow]")
    if saved := sum(images_saved(history).values()):
        progress.say(f"training images saved by refusing and stopping candidates: {saved:,}, beside {history.images:,} used")


def ensure_control(context: Context, images: int, base_state: State, progress: JobProgress, units: float) -> Control:
    """Train the base for as many images as the student that leaves has seen, with the same recipe and without a teacher."""
    stem, settings, spec = context.folder.control, context.config.candidate_train, context.base_spec
    if has_detector(stem):
        _, state, meta = load_detector(stem)
        if meta.get("asked_images") == images:
            progress.advance(units)
            return Control(state, meta["images"], meta["metrics"])
    with progress.stage(f"Control: base trained for {images} more images, as the student was", units):
        state, seen, resume = base_state, 0, Resume(stem.with_name("control.partial.safetensors"), context.config.checkpoint_seconds)
        if images:
            steps = max(1, images // settings.batch)
            state, report = train_detector(
                context, spec, base_state, settings, seed=context.config.seed + 1, steps=steps, resume=resume,
                on_step=context.scalars.watching("control", settings, steps, progress.steps(units * 0.9, steps)),
            )  # fmt: skip
            seen = report.images
        metrics = evaluate_detector(context, spec, state, context.base_size_hw).to_dict()
        context.scalars.add("control/ap", metrics["ap"], seen // settings.batch)
        progress.say(f"  control AP {metrics['ap']:.3f}")
    save_detector(stem, spec, state, context.described(images=seen, asked_images=images, metrics=metrics))
    resume.path.unlink(missing_ok=True)
    return Control(state, seen, metrics)
