"""`jdnas optimize`: the main job. Every step leaves its result in the run folder and is skipped when it is there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from jdnas.config import RunConfig
from jdnas.models.weights import State
from jdnas.pipeline.base import check_sources, ensure_base
from jdnas.pipeline.context import Context, load_context
from jdnas.pipeline.deliver import base_precision, deliver
from jdnas.pipeline.estimate import estimate_of
from jdnas.pipeline.placement import LOCAL, Placement, bring_home, check_placement
from jdnas.pipeline.plan import WorkPlan, work_plan
from jdnas.pipeline.polish import Final, polish
from jdnas.pipeline.pool import ensure_pool
from jdnas.pipeline.progress import JobProgress, counting
from jdnas.pipeline.run_folder import begin_run, open_run, run_lock
from jdnas.pipeline.search import Control, ensure_control, run_search, search_objective
from jdnas.pipeline.speed import check_target, cost_name, foreign_table, make_cost, speeds, unmeasured_note
from jdnas.pipeline.summary import draw_examples, make_summary, report_data
from jdnas.pipeline.together import check_devices, follow, with_team
from jdnas.report.build import write_report
from jdnas.search.climb import SearchResult
from jdnas.search.history import History, Trial
from jdnas.search.workshop import Cost, size_hw_from_key
from jdnas.teacher.pool import TeacherPool
from jdnas.training.checkpoint import has_detector, load_detector, read_json, save_detector, write_json
from jdnas.training.distributed import ALONE, is_first_process
from latency.here import standing
from latency.targets import load_target


def pick_student(history: History, max_cost_ratio: float, *, has_goal: bool = False) -> Trial:
    """Return the best candidate that beats the base's score and costs at most `max_cost_ratio` of it; else the best pair of all.

    With a goal (`--max-latency-ms`, `--min-ap`) the score is about nothing else, and the best pair it is.
    """
    if has_goal:
        return history.best()
    base = history[0]
    cost, score = base.cost or 0.0, base.score or 0.0
    found = [t for t in history.complete if t.number and (t.cost or 0) <= max_cost_ratio * cost and (t.score or 0) > score]
    return max(found, key=lambda trial: (trial.score, -trial.number), default=history.best())


def optimize(
    config: RunConfig, run_dir: Path, *, resume: bool, console: Console, command: str, quiet: bool = False, placement: Placement = LOCAL
) -> dict[str, Any]:  # fmt: skip
    """Run the main job and return its summary; see `jdnas.pipeline` for the steps.

    Wrong input raises an InputError before anything is written; Ctrl-C leaves the run resumable.
    """
    check_target(config)
    cost = make_cost(config)
    check_placement(placement, config)
    context = _checked(config, run_dir, resume, console, quiet)
    plan = work_plan(context)
    progress = JobProgress(console, plan.total, quiet=quiet)
    _announce(context, plan, progress)
    with run_lock(context.folder):
        begin_run(context.folder, config)
        _say_estimate(context, progress, console, quiet)
        with progress.running(), context.scalars:
            base_state = ensure_base(context, progress, plan.base)
            pool = ensure_pool(context, base_state, progress, plan.pool)
            result = _search(context, pool, cost, progress, plan, placement)
            student = _choose(config, result.history, progress)
            if student.number:
                bring_home(placement, context, context.folder.candidate(student.number))
            weights, objective = _student_weights(context, student, base_state), search_objective(context, cost)
            final = polish(context, pool, student, weights, objective, progress, plan.polish)
            images = result.history.lineage_images(student.number) + final.images
            progress.replan(plan.control(images) - plan.control())
            control = ensure_control(context, images, base_state, progress, plan.control(images))
            with progress.stage("Export, parity check, benchmark, report", plan.delivery):
                return _deliver_and_report(context, result, final, control, base_state, command, progress, placement, plan.delivery)


def run_until(
    step: str, config: RunConfig, run_dir: Path, *, resume: bool, console: Console, quiet: bool = False, devices: int = 1, nodes: int = 1,
    placement: Placement = LOCAL,
) -> None:  # fmt: skip
    """Run the first steps of the main job in a run folder: up to "base", "pool" or "search"; base and pool on several devices."""
    check_devices(config, devices, nodes, with_pool=step != "base")
    if devices * nodes > 1 and not is_first_process():
        follow(config, run_dir, devices, nodes, with_pool=step != "base")
        return
    cost = make_cost(config) if step == "search" else None
    check_placement(placement, config)
    context = _checked(config, run_dir, resume, console, quiet)
    plan = work_plan(context)
    parts = {"base": plan.base, "pool": plan.pool, "search": plan.candidate * plan.candidates}
    wanted = list(parts)[: list(parts).index(step) + 1]
    progress = JobProgress(console, sum(parts[name] for name in wanted), quiet=quiet)
    _announce(context, plan, progress)
    with run_lock(context.folder), progress.running(), context.scalars:
        begin_run(context.folder, config)
        context = with_team(context, devices, nodes)
        base_state = ensure_base(context, progress, plan.base)
        if "pool" in wanted:
            if not has_detector(context.folder.pool):
                context.team.wait()  # the others read the base that is now written
            pool = ensure_pool(context, base_state, progress, plan.pool)
        context.team.leave()
        context = replace(context, team=ALONE)
        if cost is not None:
            _search(context, pool, cost, progress, plan, placement)


def _checked(config: RunConfig, run_dir: Path, resume: bool, console: Console, quiet: bool) -> Context:
    """Check all that was given."""
    folder, config = open_run(run_dir, config, resume=resume)
    if not has_detector(folder.base):
        check_sources(config)
    with counting(console, quiet=quiet) as count:
        return load_context(config, folder, count)


def _search(context: Context, pool: TeacherPool, cost: Cost, progress: JobProgress, plan: WorkPlan, placement: Placement) -> SearchResult:
    result = run_search(context, pool, cost, progress, plan, placement)
    if result.stopped_by == "interrupt":
        raise KeyboardInterrupt
    return result


def _announce(context: Context, plan: WorkPlan, progress: JobProgress) -> None:
    sizes = ", ".join(f"{w}x{h}" for h, w in context.sizes_hw)
    train, val = context.train, context.val
    progress.say(f"data {context.config.data}: {len(train.records)} training and {len(val.records)} validation images, "
                 f"{len(train.classes)} classes; resolutions (width x height): {sizes}; device {context.device}")  # fmt: skip
    for data in (train, val):
        if data.problems:
            progress.say(f"  {data.split}: {data.problem_summary}")
    target = load_target(context.config.target)
    here = standing(target)
    if not here.measurable:
        progress.say(
            f"[yellow]cost of the search: {cost_name(context.config).replace('_', ' ')}; {unmeasured_note(target, here.reason)}[/yellow]"
        )
    if note := foreign_table(context.config):
        progress.say(f"[yellow]{note}[/yellow]")
    images = plan.images
    progress.say(f"plan: base {images['base']} images, pool {images['pool']}, up to {plan.candidates} candidates "
                 f"of {images['candidate']} images each")  # fmt: skip


def _say_estimate(context: Context, progress: JobProgress, console: Console, quiet: bool) -> None:
    """Measure and say what a run without a base will take, where the settings ask for it."""
    if not context.config.estimate_first or has_detector(context.folder.base):
        return
    with counting(console, quiet=quiet) as count:
        expected = estimate_of(context, count)
    progress.say("\n".join([expected.line(), *(f"  {note}" for note in expected.notes)]))


def _choose(config: RunConfig, history: History, progress: JobProgress) -> Trial:
    limit, base = config.student.max_cost_ratio, history[0]
    has_goal = config.search.max_cost is not None or config.search.min_ap is not None
    student = pick_student(history, limit, has_goal=has_goal)
    if not has_goal and (student.number == 0 or (student.cost or 0) > limit * (base.cost or 0)):
        progress.say("[yellow]no candidate is both cheaper and better than the base; the best pair is taken as it is. "
                     "Search longer with --resume --trials N[/yellow]")  # fmt: skip
    return student


def _student_weights(context: Context, student: Trial, base_state: State) -> State:
    return base_state if student.number == 0 else load_detector(context.folder.candidate(student.number))[1]


def _deliver_and_report(
    context: Context,
    result: SearchResult,
    final: Final,
    control: Control,
    base_state: State,
    command: str,
    progress: JobProgress,
    placement: Placement,
    units: float,
) -> dict[str, Any]:
    student, weights = final.trial, final.state
    folder, base_size, size = context.folder, context.base_size_hw, size_hw_from_key(student.size or "")
    save_detector(folder.student, student.student, weights, context.described(size, trial=student.number, metrics=student.metrics))
    progress.now("exporting the student, comparing it with PyTorch")
    delivered = deliver(context, "student", student.student, weights, size, folder.student, student.ap)
    progress.say(f"student, {delivered.verdict}")
    progress.now("exporting the base, comparing it with PyTorch", units / 3)
    base_delivered = deliver(
        context, "base", context.base_spec, base_state, base_size, folder.base, precision=base_precision(context.config)
    )
    finished = [(base_delivered.artifact, context.base_spec, base_size), (delivered.artifact, student.student, size)]
    progress.now(f"measuring both on {context.config.target} in turns", units / 3)
    timing = speeds(context, finished, placement)
    progress.now("drawing examples, writing the report", units / 4)
    base_metrics = read_json(folder.base.with_suffix(".json"))["meta"]["metrics"]
    summary = make_summary(context, result, final, control, base_metrics, timing, (base_delivered, delivered), command)
    models = [("base", context.base_spec, base_state, base_size), ("student", student.student, weights, size)]
    per_class = {"base": base_metrics["per_class"], "control": control.metrics["per_class"],
                 "student": student.metrics[student.size or ""]["per_class"]}  # fmt: skip
    extra = {"per_class": per_class, "parity": delivered.parity, "benchmark": timing["rows"], "examples": draw_examples(context, models)}
    write_json(folder.report_data, report_data(context, result.history, student) | extra)
    write_json(folder.summary, summary)
    progress.say(f"report: {write_report(folder.root)}")
    return summary
