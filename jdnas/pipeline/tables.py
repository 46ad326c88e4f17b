"""Latency tables for the search spaces of base detectors: measuring, validating and adapting them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jdnas.config import RunConfig, resolve
from jdnas.errors import ConfigError
from jdnas.pipeline.context import SizeHW, base_spec_of, round_up
from jdnas.pipeline.students import random_students
from jdnas.sizes import size_hw_from_text
from jdnas.spec import DetectorSpec
from jdnas.teacher.space import make_space
from latency.measure import measure_table, prepare
from latency.plan import Case, TablePlan, plan_table
from latency.tables import LatencyTable, load_table
from latency.targets import Target, load_target
from latency.transfer import adapted_table
from latency.validation import Validation, validate

Progress = Callable[[int, int, str], None]
CLASSES = 7
# Seeds keep apart what a table is measured for, what corrects it, and what it is validated on.
BLOCK_SEED, ENGINE_SEED, VALIDATION_SEED = 1, 2, 3
STUDENTS = 40


@dataclass(frozen=True, slots=True)
class Space:
    """What is measured for: the students of some bases under a preset, at canvases (none: those of the target, else the preset's).

    Exported engines are kept in `engines_dir`, where one is given.
    """

    bases: tuple[str, ...]
    preset: str = "quick"
    sizes: tuple[str, ...] = ()
    engines_dir: Path | None = None

    def configs(self) -> list[RunConfig]:
        """Return the settings of a run from each base."""
        if not self.bases:
            raise ConfigError("name at least one base, such as r18")
        return [resolve(self.preset, {"base": base}) for base in self.bases]


def canvases(config: RunConfig, sizes: Sequence[str]) -> list[SizeHW]:
    """Return the canvases given as WIDTHxHEIGHT, else square ones: those of large images and those of the synthetic set."""
    if sizes:
        return [(round_up(height), round_up(width)) for height, width in map(size_hw_from_text, sizes)]
    largest = max(config.data_settings.long_sides)
    reductions = (1.0, min(1.0, config.data_settings.shapes_size / largest))
    sides = sorted({round_up(side * reduction) for side in config.data_settings.long_sides for reduction in reductions}, reverse=True)
    return [(side, side) for side in sides]


def base_of(config: RunConfig, sizes: Sequence[SizeHW]) -> DetectorSpec:
    """Return the base that a run at these canvases would have."""
    return base_spec_of(config, CLASSES, max(max(size) for size in sizes))


def table_plan(space: Space, target: Target, engines: int) -> TablePlan:
    """Return what to measure: blocks of bases, pool ends and students, and whole students that correct their sum."""
    core: list[Case] = []
    students: list[Case] = []
    whole: list[Case] = []
    configs = space.configs()
    for config in configs:
        sizes = canvases(config, space.sizes or target.sizes)
        base, rules = base_of(config, sizes), config.action_rules(base_of(config, sizes))
        pool = make_space(base, config.pool)
        core += [(spec, size) for spec in (base, pool.largest, pool.smallest) for size in sizes]
        drawn = random_students(base, rules, STUDENTS, BLOCK_SEED)
        students += [(spec, sizes[index % len(sizes)]) for index, spec in enumerate(drawn)]
        teachers = make_space(base, config.pool).sample(random.Random(ENGINE_SEED))
        correcting = [base, teachers, *random_students(base, rules, -(-engines // len(configs)), ENGINE_SEED)]
        whole += [(spec, sizes[index % len(sizes)]) for index, spec in enumerate(correcting[: -(-engines // len(configs))])]
    return plan_table(core, students, whole[:engines] if len(configs) == 1 else whole)


def measure_for(
    target_name: str, space: Space, seconds: float, *, engines: int, out: Path | None, progress: Progress | None = None
) -> tuple[Path, LatencyTable]:
    """Measure (or go on measuring) the table of a target for search spaces; return its file and the table."""
    target = load_target(target_name)
    path = out or target.table_path
    plan = table_plan(space, target, engines)
    return path, measure_table(target, plan, budget_s=seconds, path=path, engines_dir=space.engines_dir, on_progress=progress)


def prepare_for(target_name: str, space: Space, *, engines: int, count: int, jobs: int, progress: Progress | None = None) -> Path:
    """Export all engines that measuring and validating a table will need into the space's folder, and return it."""
    if space.engines_dir is None:
        raise ConfigError("say where exported engines are to be kept with --engines-dir")
    target = load_target(target_name)
    plan = table_plan(space, target, engines)
    whole = (*plan.engines, *validation_cases(space, target, count))
    prepare(TablePlan(plan.blocks, whole), target, space.engines_dir, jobs=jobs, on_progress=progress)
    return space.engines_dir


def validation_cases(space: Space, target: Target, count: int) -> list[Case]:
    """Return `count` random students of the spaces at their canvases, of a seed that nothing is fitted to."""
    per_base: list[list[Case]] = []
    configs = space.configs()
    for config in configs:
        sizes = canvases(config, space.sizes or target.sizes)
        base = base_of(config, sizes)
        students = random_students(base, config.action_rules(base), -(-count // len(configs)), VALIDATION_SEED)
        per_base.append([(spec, sizes[index % len(sizes)]) for index, spec in enumerate(students)])
    return [case for group in zip(*per_base, strict=False) for case in group][:count]


def validate_for(
    target_name: str, space: Space, count: int, seconds: float, *, rounds: int, table: Path | None, out: Path,
    progress: Progress | None = None,
) -> Validation:  # fmt: skip
    """Measure random students whole and hold the table's predictions against them; what was measured is kept in `out` and not repeated."""
    target = load_target(target_name)
    cases = validation_cases(space, target, count)
    return validate(
        target, load_table(target, table), cases, budget_s=seconds, path=out, engines_dir=space.engines_dir, rounds=rounds,
        on_progress=progress,
    )  # fmt: skip


def adapt_for(
    source: Path, target_name: str, space: Space, engines: int, seconds: float, *, out: Path | None, progress: Progress | None = None
) -> tuple[Path, LatencyTable]:
    """Make a table for a new device of the same runtime from another device's and some whole engines measured on the new one."""
    target = load_target(target_name)
    path = out or target.table_path
    table = adapted_table(source, target)
    plan = table_plan(space, target, engines)
    return path, measure_table(
        target, TablePlan((), plan.engines), budget_s=seconds, path=path, start=table, engines_dir=space.engines_dir, on_progress=progress
    )
