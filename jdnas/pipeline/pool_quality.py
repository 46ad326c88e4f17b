"""`jdnas teacher eval`: AP of subnets of a run's pool, after each phase, before and after their BN statistics are recomputed."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from jdnas.atomic import write_atomically
from jdnas.config import resolve_kept
from jdnas.errors import CheckpointError, ConfigError
from jdnas.models.complexity import multiply_adds
from jdnas.models.weights import State, cut
from jdnas.pipeline.context import Context, load_context
from jdnas.pipeline.detector_training import evaluate_detector
from jdnas.pipeline.pool import calibration_of
from jdnas.pipeline.progress import JobProgress, counting
from jdnas.pipeline.run_folder import open_run, run_lock
from jdnas.report.pool_chart import figure_page, pool_figure
from jdnas.spec import DetectorSpec
from jdnas.teacher.names import describe_subnet, subnet_from_text
from jdnas.teacher.pool import TeacherPool, load_pool
from jdnas.teacher.shrink import load_phase, phase_path
from jdnas.training.checkpoint import has_detector, read_json, write_json


@dataclass(frozen=True, slots=True)
class SubnetQuality:
    """One subnet after one phase, at the run's base resolution: AP with the largest net's BN statistics, and with its own.

    `released`: whether the phase trained it; `gmac`: multiply-adds in billions.
    """

    phase: int
    subnet: str
    role: str
    released: bool
    gmac: float
    ap_before: float
    ap_after: float


@dataclass(frozen=True, slots=True)
class _Job:
    phase: int
    role: str
    spec: DetectorSpec
    released: bool


def pool_of_run(context: Context) -> TeacherPool:
    """Read the pool of a run; a CheckpointError says that there is none, or what is wrong with it."""
    if not context.folder.pool.with_suffix(".json").exists():
        raise CheckpointError(f"{context.folder.root} holds no finished teacher pool; train one with: jdnas teacher train --run-dir ...")
    return load_pool(context.folder.pool, context.train.classes)


def evaluate_run(
    run_dir: Path, device: str | None, *, samples: int, seed_nets: list[str], console: Console, quiet: bool
) -> tuple[list[SubnetQuality], Path]:
    """Evaluate the pool of a run folder, draw the chart beside it, and return the results and the chart's file."""
    if not (run_dir / "config.yaml").is_file():
        raise CheckpointError(f"{run_dir} is no run folder (no config.yaml); train a pool with: jdnas teacher train --run-dir {run_dir}")
    config = resolve_kept(run_dir / "config.yaml", {} if device is None else {"device": device})
    folder, config = open_run(run_dir, config, resume=True)
    with counting(console, quiet=quiet) as count:
        context = load_context(config, folder, count)
    progress = JobProgress(console, count_jobs(context, samples, seed_nets), quiet=quiet)
    with run_lock(folder), progress.running():
        rows = evaluate_pool(context, samples=samples, seed_nets=seed_nets, progress=progress)
    base = read_json(folder.base.with_suffix(".json"))["meta"].get("metrics") if has_detector(folder.base) else None
    page = quality_path(context).with_suffix(".html")
    figure = pool_figure(rows, size_hw=context.base_size_hw, base_ap=base["ap"] if base else None)
    write_atomically(page, figure_page(figure).encode())
    return rows, page


def evaluate_pool(context: Context, *, samples: int, seed_nets: list[str], progress: JobProgress) -> list[SubnetQuality]:
    """Evaluate the largest, the smallest, the named and `samples` random subnets of every phase's released space.

    Results are kept beside the pool as they come (`quality.json`), and subnets that are there are not evaluated again.
    """
    pool = pool_of_run(context)
    jobs = list(_jobs(context, pool, samples, [(text, subnet_from_text(pool.space, text)) for text in seed_nets]))
    path = quality_path(context)
    kept = _kept(path, pool.version)
    rows, state_of = [], _States(context, pool)
    for job in jobs:
        name = describe_subnet(pool.space, job.spec)
        key = f"{job.phase}/{name}"
        if key not in kept:
            kept[key] = _evaluate(context, pool, state_of[job.phase], job, name)
            write_json(path, {"pool": pool.version, "size_hw": list(context.base_size_hw), "rows": {k: asdict(q) for k, q in kept.items()}})
        rows.append(replace(kept[key], role=job.role, released=job.released))
        row = rows[-1]
        progress.advance(1)
        progress.say(f"  phase {row.phase} {row.role:9s} {name}: AP {row.ap_before:.3f} before, {row.ap_after:.3f} after recalibration")
    return rows


def quality_path(context: Context) -> Path:
    """Return where the results are kept."""
    return context.folder.pool.with_name("quality.json")


def count_jobs(context: Context, samples: int, seed_nets: list[str]) -> int:
    """Return how many evaluations a call of `evaluate_pool` is made of."""
    pool = pool_of_run(context)
    return sum(1 for _ in _jobs(context, pool, samples, [(text, subnet_from_text(pool.space, text)) for text in seed_nets]))


def _jobs(context: Context, pool: TeacherPool, samples: int, named: list[tuple[str, DetectorSpec]]) -> Iterator[_Job]:
    rng = random.Random(context.config.seed)
    for index, phase in enumerate(context.config.pool.phases):
        released = pool.space.released(phase.depth_share, phase.widths)
        chosen: dict[DetectorSpec, str] = {released.largest: "largest"}
        chosen.setdefault(released.smallest, "smallest")
        for text, spec in named:
            chosen.setdefault(spec, text)
        wanted = min(samples, released.size() - 1)
        for _ in range(100 * wanted):  # a small space may not hold as many different subnets once widths are rounded
            if sum(role == "sample" for role in chosen.values()) >= wanted:
                break
            chosen.setdefault(released.sample(rng), "sample")
        for spec, role in chosen.items():
            yield _Job(index, role, spec, _is_in(released, spec))


def _is_in(space: Any, spec: DetectorSpec) -> bool:
    try:
        space.choice_of(spec)
    except ConfigError:
        return False
    return True


class _States:
    """The pool's states by phase; one is in memory at a time."""

    def __init__(self, context: Context, pool: TeacherPool) -> None:
        self._folder, self._last = context.folder.pool.parent, len(context.config.pool.phases) - 1
        self._final, self._now, self._state = pool.state, self._last, pool.state

    def __getitem__(self, phase: int) -> State:
        if phase != self._now:
            final = phase == self._last
            if not final and not phase_path(self._folder, phase).exists():
                raise CheckpointError(f"{phase_path(self._folder, phase)} is gone; train the pool again to compare its phases")
            self._state, self._now = self._final if final else load_phase(self._folder, phase), phase
        return self._state


def _evaluate(context: Context, pool: TeacherPool, state: State, job: _Job, name: str) -> SubnetQuality:
    of_phase = pool if state is pool.state else TeacherPool(pool.space, state, pool.classes, pool.statistics_folder)
    size = context.base_size_hw
    before = evaluate_detector(context, job.spec, cut(state, job.spec), size).ap
    teacher = of_phase.extract(job.spec, calibration_of(context, of_phase, size), context.device)
    after = evaluate_detector(context, job.spec, teacher.state_dict(), size).ap
    return SubnetQuality(job.phase, name, job.role, job.released, multiply_adds(job.spec, size) / 1e9, before, after)


def _kept(path: Path, version: str) -> dict[str, SubnetQuality]:
    if not path.exists():
        return {}
    kept: Mapping[str, Any] = read_json(path)
    return {key: SubnetQuality(**row) for key, row in kept["rows"].items()} if kept.get("pool") == version else {}
