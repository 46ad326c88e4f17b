"""`jdnas compare`: methods from one base and pool, on equal training images, judged alike on images that no choice was made by."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import isclose
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console

from jdnas.config import RunConfig
from jdnas.data.images import keep_images
from jdnas.errors import ConfigError, DataError, unknown_name
from jdnas.models.complexity import multiply_adds, parameters
from jdnas.pipeline.arena import Arena, BranchFolder, Found
from jdnas.pipeline.base import check_sources, ensure_base
from jdnas.pipeline.baselines import JOINT, METHODS, PRUNES
from jdnas.pipeline.compare_table import markdown
from jdnas.pipeline.context import Context, load_context
from jdnas.pipeline.detector_training import evaluate_detector
from jdnas.pipeline.plan import work_plan
from jdnas.pipeline.pool import ensure_pool
from jdnas.pipeline.progress import JobProgress
from jdnas.pipeline.run_folder import begin_run, kept_settings, open_run, run_lock
from jdnas.pipeline.scalars import NO_SCALARS, Scalars
from jdnas.pipeline.search import search_objective
from jdnas.pipeline.speed import cost_name, make_cost
from jdnas.search.objective import score_name
from jdnas.search.points import Point, front_of, within
from jdnas.search.workshop import Cost, size_hw_from_key
from jdnas.teacher.pool import TeacherPool
from jdnas.training.checkpoint import has_detector, load_detector, read_json, write_json

Json = dict[str, Any]
PRUNE_TO = 0.7  # of the base's cost, where no joint search says what to prune to


@dataclass(frozen=True, slots=True)
class Contest:
    """What is compared: methods, seeds, training images for each, and the shares of the base's cost that APs are told at.

    `images` None: those of `search.trials` candidates. `prune_to` None: pipelines prune to the cost of the joint search's student of the
    same seed, or to 0.7 of the base's where it is not compared.
    """

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    images: int | None = None
    prune_to: float | None = None
    cost_shares: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7, 0.6)

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in METHODS:
                raise ConfigError(unknown_name("method", method, METHODS))
        if not self.methods or not self.seeds or len({*self.methods}) < len(self.methods) or len({*self.seeds}) < len(self.seeds):
            raise ConfigError(f"name each method and seed once, at least one; got methods {self.methods} and seeds {self.seeds}")
        if self.prune_to is not None and not 0 < self.prune_to <= 1:
            raise ConfigError(f"--prune-to is a share of the base's cost in 0..1, got {self.prune_to:g}")


def compare(config: RunConfig, run_dir: Path, contest: Contest, *, resume: bool, console: Console, quiet: bool = False) -> Json:
    """Run every method with every seed and return the table; `compare.json` and `compare.md` of the run folder keep it.

    Base and pool are trained first where they are not there, and their images count for nobody. A finished method and seed is not done
    again, an unfinished one goes on; a ConfigError says where either was made for other images or for another cost to prune to. Choices
    are made on every other validation image; the figures are those of the rest.
    """
    folder, config = open_run(run_dir, config, resume=resume)
    if not has_detector(folder.base):
        check_sources(config)
    cost, context = make_cost(config), load_context(config, folder)
    plan = work_plan(context)
    images = contest.images or config.search.trials * plan.images["candidate"]
    _check_images(images, plan.images["candidate"])
    choosing, judging = _halves(context)
    each = plan.candidate * images / max(1, plan.images["candidate"])
    progress = JobProgress(console, plan.base + plan.pool + each * len(contest.methods) * len(contest.seeds), quiet=quiet)
    with run_lock(folder), progress.running(), context.scalars:
        begin_run(folder, config)
        base_state = ensure_base(context, progress, plan.base)
        pool = ensure_pool(context, base_state, progress, plan.pool)
        runs: list[Json] = []
        for seed in contest.seeds:
            for method in sorted(contest.methods, key=lambda name: name not in JOINT):  # they say what the others prune to
                with progress.stage(f"{method}, seed {seed}: {images:,} training images", each):
                    target = _target_cost(context, cost, contest, runs, seed)
                    runs.append(_one(choosing, judging, pool, cost, method, seed, images, target, progress))
        table = _table(choosing, judging, cost, contest, runs, images)
    write_json(folder.root / "compare.json", table)
    (folder.root / "compare.md").write_text(markdown(table))
    return table


def _check_images(images: int, each: int) -> None:
    if images < each:
        raise ConfigError(f"{images} images are less than one candidate trains on ({each}); give more with --images or --trials")


def _target_cost(context: Context, cost: Cost, contest: Contest, runs: Sequence[Json], seed: int) -> float:
    base = cost(context.base_spec, context.base_size_hw)
    if contest.prune_to is not None:
        return contest.prune_to * base
    own = [run for run in runs if run["method"] in JOINT and run["seed"] == seed]
    return min(base, own[0]["cost_at_base_size"]) if own else PRUNE_TO * base


def _halves(context: Context) -> tuple[Context, Context]:
    """Return the context with the validation images that choices are made by, and with those that judge."""
    data, settings = context.val, context.config.data_settings
    if len(data.records) < 2:
        raise DataError(f"{data.root} has {len(data.records)} validation image; a comparison chooses by one half and judges by the other: "
                        "add images to that split")  # fmt: skip
    choosing, judging = (replace(data, records=data.records[first::2]) for first in (0, 1))
    for half in (choosing, judging):
        keep_images(half, settings.cache, context.folder.root / "cache")
    return replace(context, val=choosing), replace(context, val=judging)


def _one(
    choosing: Context, judging: Context, pool: TeacherPool, cost: Cost, method: str, seed: int, images: int, target_cost: float,
    progress: JobProgress,
) -> Json:  # fmt: skip
    """Run a method with a seed, or read what it came to."""
    root = choosing.folder.root / "compare" / f"{method}_{seed}"
    path, asked = root / "result.json", {"method": method, "seed": seed, "images_allowed": images}
    if method in PRUNES:
        asked["target_cost"] = target_cost
    for kept in (path, root / "asked.json"):
        if kept.is_file():
            _check_same(asked, read_json(kept), root)
    if path.is_file():
        progress.say("  done before")
        return read_json(path)
    write_json(root / "asked.json", asked)
    own = replace(
        choosing, config=choosing.config.model_copy(update={"seed": seed}), folder=BranchFolder(root, choosing.folder),
        scalars=Scalars(root / "tensorboard") if choosing.config.tensorboard else NO_SCALARS,
    )  # fmt: skip
    arena = Arena(own, pool, cost, images, target_cost, progress.say)
    with own.scalars:
        found = METHODS[method](arena)
    result: Json = {**asked, "target_cost": target_cost, **_judged(arena, judging, found)}
    share = f"{100 * result['cost_share']:.0f} % of the cost"
    progress.say(f"  {method}, seed {seed}: AP {result['ap']:.3f}, {score_name(own.config.search)} {result['score']:.4f} at {share}")
    write_json(path, result)
    return result


def _check_same(asked: Json, kept: Json, root: Path) -> None:
    """Raise a ConfigError that says by what an earlier result, or what was begun, differs from what is asked for now."""
    for key, value in asked.items():
        same = isclose(kept[key], value, rel_tol=1e-6) if key == "target_cost" else kept[key] == value
        if not same:
            raise ConfigError(
                f"{root} was begun with {key}={kept[key]} (now {value}); give the same --images, --prune-to and methods as then, "
                "delete that folder, or take a new --run-dir"
            )


def _judged(arena: Arena, judging: Context, found: Found) -> Json:
    """Choose by the points, and evaluate what was chosen on the other images."""
    objective, context = arena.objective, arena.context
    best, front = arena.best(found.points), front_of(found.points)
    judged: dict[Point, Json] = {}
    for point in dict.fromkeys((best, *front)):
        spec, state, _ = load_detector(found.stems[point.number])
        metrics = evaluate_detector(judging, spec, state, size_hw_from_key(point.size))
        judged[point] = {"ap": metrics.ap, "ap50": metrics.ap50}
    spec = load_detector(found.stems[best.number])[0]
    size = size_hw_from_key(best.size)
    return {
        "images": found.images, "candidates": found.candidates, "seconds": round(found.seconds, 1), "number": best.number,
        "size": best.size, "cost": best.cost, "cost_share": best.cost / objective.base_cost, **judged[best],
        "cost_at_base_size": arena.cost(spec, context.base_size_hw),
        "score": objective.score(judged[best]["ap"], best.cost, size), "ap_chosen_by": best.ap,
        "flops_g": multiply_adds(spec, size) / 1e9, "params_m": parameters(spec) / 1e6, "spec": spec.to_dict(),
        "front": [asdict(point) | {"ap_judged": judged[point]["ap"]} for point in front],
    }  # fmt: skip


def ap_at(run: Json, cost: float) -> float | None:
    """Return the AP, on the judging images, of what a run would choose within a cost; None where all that it has costs more."""
    judged = {(row["number"], row["size"]): row["ap_judged"] for row in run["front"]}
    point = within([Point(row["number"], row["size"], row["cost"], row["ap"]) for row in run["front"]], cost)
    return None if point is None else float(judged[point.number, point.size])


def _spread(values: Sequence[float]) -> Json:
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None, "values": list(values)}


def _spread_of_all(values: Sequence[float | None]) -> Json | None:
    found = [value for value in values if value is not None]
    return _spread(found) if len(found) == len(values) else None  # a mean over some seeds would compare unlike things


def _table(choosing: Context, judging: Context, cost: Cost, contest: Contest, runs: list[Json], images: int) -> Json:
    objective, size = search_objective(judging, cost), judging.base_size_hw
    base_cost, state = objective.base_cost, load_detector(judging.folder.base)[1]
    base_ap = evaluate_detector(judging, judging.base_spec, state, size).ap
    rows: list[Json] = []
    for method in contest.methods:
        own = [run for run in runs if run["method"] == method]
        row: Json = {"method": method}
        for key in ("ap", "score", "cost_share", "images", "candidates"):
            row[key] = _spread([run[key] for run in own])
        row["ap_at_cost"] = {f"{share:g}": _spread_of_all([ap_at(run, share * base_cost) for run in own]) for share in contest.cost_shares}
        rows.append(row)
    scores = {row["method"]: row["score"]["values"] for row in rows}
    for row in rows:
        row["gain_of"] = {
            joint: _spread([mine - other for mine, other in zip(scores[joint], scores[row["method"]], strict=True)])
            for joint in scores if joint in JOINT and joint != row["method"]
        }  # fmt: skip
    return {
        "equal": "images", "images": images, "base_and_pool_images": "trained once for all, counted for nobody",
        "judged_on": f"{len(judging.val.records)} validation images that no choice was made by",
        "chosen_on": f"{len(choosing.val.records)} validation images", "cost_name": cost_name(judging.config),
        "score_name": score_name(judging.config.search),
        "base": {"ap": base_ap, "score": objective.score(base_ap, base_cost, size), "cost": base_cost}, "seeds": list(contest.seeds),
        "rows": rows, "runs": runs, "data": judging.train.name, "settings": kept_settings(judging.folder).model_dump(mode="json"),
    }  # fmt: skip
