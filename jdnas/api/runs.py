"""Functions on run folders: the whole job, and each of its steps.

Every one of them goes on with the run that is in `run_dir` if `resume` is set. Settings come from `preset` (a name or a YAML file,
default: quick, or those of the resumed run), over which `settings` lies, such as {"search.trials": 20}; what is named beside them counts
most. `console` is where progress goes, by default the program's output; `quiet` turns it off.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from rich.console import Console

import jdnas.pipeline.optimize as job
from jdnas.api.results import Run, Trained
from jdnas.api.settings import Goals, Settings, run_config
from jdnas.config import RunConfig
from jdnas.distill.settings import Method
from jdnas.errors import ConfigError, unknown_name
from jdnas.pipeline.compare import Contest, compare
from jdnas.pipeline.distillation import distill_alone
from jdnas.pipeline.estimate import Estimate, estimate
from jdnas.pipeline.placement import LOCAL, Placement
from jdnas.pipeline.pool_quality import SubnetQuality, evaluate_run
from jdnas.pipeline.progress import JobProgress
from jdnas.pipeline.status import search_status as status_of_search
from jdnas.report.build import write_report as write_one
from jdnas.report.compare import write_comparison

PathLike = str | Path


def optimize(
    *, base: str | None = None, target: str | None = None, data: PathLike | None = None, preset: PathLike | None = None,
    run_dir: PathLike = "runs/optimize", weights: PathLike | None = None, trials: int | None = None, budget: str | float | None = None,
    patience: int | None = None, max_latency_ms: float | None = None, min_ap: float | None = None, polish_epochs: float | None = None,
    study_url: str | None = None, seed: int | None = None, device: str | None = None, settings: Settings | None = None,
    resume: bool = False, quiet: bool = False, console: Console | None = None, command: str | None = None,
    placement: Placement = LOCAL,
) -> Run:  # fmt: skip
    """Do the whole job: train base and teacher pool, search, export, check, benchmark, report.

    `base` is a named detector or comes from the file `weights`; `data` is a folder, or `shapes` for the synthetic set. `trials` candidates
    are searched for the paper's H, or for the best AP within `max_latency_ms`, or for the cheapest detector with `min_ap`; no longer than
    `budget` (2h, or seconds) and until `patience` of them brought no new best. The winner is trained on for `polish_epochs`. `study_url`
    is a database for the study. `command` is what the report calls the way to reproduce the run. `placement` says where candidates are
    trained: `Placement("ray", workers=4)`. An InputError says what is wrong before anything is written.
    """
    given = {"base": base, "target": target, "data": data, "weights": weights, "study_url": study_url, "seed": seed, "device": device}
    goals = Goals(trials, max_latency_ms, min_ap, budget, patience, polish_epochs)
    config = run_config(given, preset=preset, settings=settings, resumed=_resumed(run_dir, resume), goals=goals)
    said = command or f"jdnas.optimize(preset={str(Path(run_dir) / 'config.yaml')!r})"
    job.optimize(config, Path(run_dir), resume=resume, console=console or Console(), command=said, quiet=quiet, placement=placement)
    return Run(Path(run_dir))


def plan(
    *, base: str | None = None, target: str | None = None, data: PathLike | None = None, preset: PathLike | None = None,
    weights: PathLike | None = None, trials: int | None = None, max_latency_ms: float | None = None, min_ap: float | None = None,
    polish_epochs: float | None = None, seed: int | None = None, device: str | None = None, settings: Settings | None = None,
    resumed: PathLike | None = None, quiet: bool = False, console: Console | None = None,
) -> Estimate:  # fmt: skip
    """Say what `optimize` with the same arguments would do: steps, images, time and memory, from a short probe on this machine.

    Nothing is written and nothing is kept. `resumed` is a run folder whose settings come first.
    """
    given = {"base": base, "target": target, "data": data, "weights": weights, "seed": seed, "device": device}
    goals = Goals(trials, max_latency_ms, min_ap, polish_epochs=polish_epochs)
    config = run_config(given, preset=preset, settings=settings, resumed=None if resumed is None else Path(resumed), goals=goals)
    return estimate(config, console=console or Console(), quiet=quiet)


def train(
    *, base: str | None = None, data: PathLike | None = None, preset: PathLike | None = None, run_dir: PathLike = "runs/train",
    weights: PathLike | None = None, schedule: str | None = None, devices: int = 1, nodes: int = 1, seed: int | None = None,
    device: str | None = None, settings: Settings | None = None, resume: bool = False, quiet: bool = False, console: Console | None = None,
) -> Run:  # fmt: skip
    """Train and evaluate the base detector alone; `schedule` is 1x, 2x, 1x+ms or 2x+ms.

    More than one of `devices` or `nodes` starts the calling script once more for each of them.
    """
    given = {"base": base, "data": data, "weights": weights, "seed": seed, "device": device}
    config = run_config(given, preset=preset, settings=settings, resumed=_resumed(run_dir, resume), schedule=schedule)
    return _until("base", config, run_dir, resume, quiet, console, devices, nodes)


def train_pool(
    *, base: str | None = None, data: PathLike | None = None, preset: PathLike | None = None, run_dir: PathLike = "runs/teacher",
    weights: PathLike | None = None, devices: int = 1, nodes: int = 1, seed: int | None = None, device: str | None = None,
    settings: Settings | None = None, resume: bool = False, quiet: bool = False, console: Console | None = None,
) -> Run:  # fmt: skip
    """Train the elastic teacher pool, and the base that it grows from where that is not there."""
    given = {"base": base, "data": data, "weights": weights, "seed": seed, "device": device}
    config = run_config(given, preset=preset, settings=settings, resumed=_resumed(run_dir, resume))
    return _until("pool", config, run_dir, resume, quiet, console, devices, nodes)


def evaluate_pool(
    run_dir: PathLike, *, samples: int = 5, seed_nets: list[str] | None = None, device: str | None = None, quiet: bool = False,
    console: Console | None = None,
) -> tuple[list[SubnetQuality], Path]:  # fmt: skip
    """Evaluate subnets of a run's pool after each phase, before and after recalibration; return the results and the chart's file."""
    return evaluate_run(
        Path(run_dir), device, samples=samples, seed_nets=seed_nets or [], console=console or Console(), quiet=quiet
    )  # fmt: skip


def search_students(
    *, base: str | None = None, target: str | None = None, data: PathLike | None = None, preset: PathLike | None = None,
    run_dir: PathLike = "runs/search", weights: PathLike | None = None, trials: int | None = None, budget: str | float | None = None,
    patience: int | None = None, max_latency_ms: float | None = None, min_ap: float | None = None, study_url: str | None = None,
    seed: int | None = None, device: str | None = None, settings: Settings | None = None, resume: bool = False, quiet: bool = False,
    console: Console | None = None, placement: Placement = LOCAL,
) -> Run:  # fmt: skip
    """Search student-teacher pairs, training base and pool first where they are not there; the arguments are those of `optimize`."""
    given = {"base": base, "target": target, "data": data, "weights": weights, "study_url": study_url, "seed": seed, "device": device}
    goals = Goals(trials, max_latency_ms, min_ap, budget, patience)
    config = run_config(given, preset=preset, settings=settings, resumed=_resumed(run_dir, resume), goals=goals)
    return _until("search", config, run_dir, resume, quiet, console, placement=placement)


def compare_methods(
    *, methods: Sequence[str] = ("joint", "prune-kd", "random"), seeds: Sequence[int] = (0, 1, 2), images: int | None = None,
    prune_to: float | None = None, base: str | None = None, target: str | None = None, data: PathLike | None = None,
    preset: PathLike | None = None, run_dir: PathLike = "runs/compare", weights: PathLike | None = None, trials: int | None = None,
    seed: int | None = None, device: str | None = None, settings: Settings | None = None, resume: bool = False, quiet: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run search methods from one base and pool, trained with `seed`, on equal training images; return the table with all runs.

    `methods` are of joint, joint-polish, prune-kd, nas-prune-kd, nas and random; each runs once for each of `seeds` on `images` training
    images, by default those of `trials` candidates. `prune_to` is the share of the base's cost that pipelines prune to.
    """
    given = {"base": base, "target": target, "data": data, "weights": weights, "seed": seed, "device": device}
    config = run_config(given, preset=preset, settings=settings, resumed=_resumed(run_dir, resume), goals=Goals(trials))
    contest = Contest(tuple(methods), tuple(seeds), images, prune_to)
    return compare(config, Path(run_dir), contest, resume=resume, console=console or Console(), quiet=quiet)


def distill_student(
    teacher: PathLike, student: PathLike, *, data: PathLike | None = None, preset: PathLike | None = None,
    run_dir: PathLike = "runs/distill", method: str = "ours", epochs: float | None = None, rounds: int = 1, seed: int | None = None,
    device: str | None = None, settings: Settings | None = None, resume: bool = False, quiet: bool = False, console: Console | None = None,
) -> Trained:  # fmt: skip
    """Train the student in a .safetensors file with a teacher, without a search.

    `teacher` is a .safetensors file, or POOL:SUBNET with a run folder or pool file, such as runs/pool:largest or :dynamic. `method` is
    ours, logit or fgfi; a round has `epochs`, by default those of a candidate.
    """
    if method not in get_args(Method):
        raise ConfigError(unknown_name("method", method, get_args(Method)))
    longer = {} if epochs is None else {"candidate_train.epochs": epochs}
    given = {"data": data, "seed": seed, "device": device}
    config = run_config(given, preset=preset, settings={**(settings or {}), **longer}, resumed=_resumed(run_dir, resume))
    progress = JobProgress(console or Console(), 1.0, quiet=quiet)
    record = distill_alone(
        config,
        Path(run_dir),
        student=Path(student),
        teacher=str(teacher),
        method=cast(Method, method),
        rounds=rounds,
        resume=resume,
        progress=progress,
    )
    return Trained(Path(run_dir) / "student" / "student.safetensors", record)


def write_report(run: PathLike, *others: PathLike, out: PathLike = "comparison.html") -> Path:
    """Write the report of a finished run anew into its folder, or with others one page that compares them to `out`; return the page."""
    return write_comparison([Path(run), *map(Path, others)], Path(out)) if others else write_one(Path(run))


def search_status(run: PathLike, *, top: int = 5, study_url: str | None = None) -> dict[str, Any]:
    """Return how far a running or finished search is, and its `top` best pairs; a CheckpointError says that there is no search.

    `study_url` is that of the run with the password in it, where the database asks for one.
    """
    return status_of_search(Path(run), top, study_url)


def resolve_settings(
    *, base: str | None = None, target: str | None = None, data: PathLike | None = None, preset: PathLike | None = None,
    weights: PathLike | None = None, seed: int | None = None, device: str | None = None, settings: Settings | None = None,
) -> RunConfig:  # fmt: skip
    """Return all settings that a run with these arguments would have; `jdnas.config.dump` writes them as YAML."""
    given = {"base": base, "target": target, "data": data, "weights": weights, "seed": seed, "device": device}
    return run_config(given, preset=preset, settings=settings)


def _resumed(run_dir: PathLike, resume: bool) -> Path | None:
    return Path(run_dir) if resume else None


def _until(
    step: str, config: RunConfig, run_dir: PathLike, resume: bool, quiet: bool, console: Console | None, devices: int = 1, nodes: int = 1,
    placement: Placement = LOCAL,
) -> Run:  # fmt: skip
    job.run_until(
        step, config, Path(run_dir), resume=resume, console=console or Console(), quiet=quiet, devices=devices, nodes=nodes,
        placement=placement,
    )  # fmt: skip
    return Run(Path(run_dir))
