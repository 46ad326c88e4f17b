"""Measuring a latency table on the machine at hand."""

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

from jdnas.errors import TargetError
from latency.block_calls import COPIES, block_call, graph_of
from latency.blocks import REST, Block, layer_family
from latency.busy import look_around
from latency.device_lock import held_device
from latency.here import check_here
from latency.machine import provenance, same_machine
from latency.plan import Case, TablePlan
from latency.prepared import PreparedEngine, measure_engine
from latency.tables import EngineRow, LatencyTable, check_target, read_table
from latency.targets import Target
from latency.timing import Clock, Timing, steadiest

OnProgress = Callable[[int, int, str], None]
_BLOCK_SECONDS = 0.003
_SAVE_EVERY_S = 5.0
ROUNDS = 3


def measure_table(
    target: Target, plan: TablePlan, *, budget_s: float, path: Path, start: LatencyTable | None = None,
    engines_dir: Path | None = None, on_progress: OnProgress | None = None, clock: Clock = perf_counter,
) -> LatencyTable:  # fmt: skip
    """Measure `plan` on `target` into the table at `path`, and return it; where there is none yet, from `start` on.

    All that is missing comes first, so that an interrupted or short run is continued by the next one; what is left of the budget goes to
    rounds over the whole plan, until there were `ROUNDS` of them. A machine can be slow for minutes, longer than any one measurement
    looks at it, so the least of the rounds counts.
    Exported engines are kept in `engines_dir` (without one, until the end of the run), and used where they are there. `on_progress`
    gets (done, planned, what). Blocks that an adapted table borrowed give way to those measured here. TargetError if the runtime cannot
    run here, the table is of another machine, or it cannot start from `start`.
    """
    check_here(target)
    _check_has_tables(target)
    with held_device(target), tempfile.TemporaryDirectory() as temporary:
        table = _open(target, path, start)
        table.provenance["disturbances"] = look_around(target.processor == "gpu").warnings
        _Run(table, target, path, clock() + budget_s, on_progress, clock, engines_dir or Path(temporary)).go(plan)
    return table


def measure_block(block: Block, target: Target, engines_dir: Path | None = None) -> Timing:
    """Measure one block on the target's runtime."""
    copies = 1 if block.family == REST else COPIES
    with block_call(block, target, engines_dir, copies=copies) as (call, _):
        return steadiest(call, seconds=_BLOCK_SECONDS).scaled(1 / copies)


def prepare(plan: TablePlan, target: Target, engines_dir: Path, *, jobs: int = 1, on_progress: OnProgress | None = None) -> None:
    """Export all that measuring `plan` will need to export, in `jobs` processes, and measure nothing: this needs no quiet machine."""
    tasks: list[Block | Case] = [*(block for block in plan.blocks if block.family == REST), *plan.engines]
    engines_dir.mkdir(parents=True, exist_ok=True)

    def tell(done: int) -> None:
        if on_progress:
            on_progress(done, len(tasks), "export")

    if jobs == 1:
        for index, task in enumerate(tasks):
            _prepare_one(task, target, engines_dir)
            tell(index + 1)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(_prepare_one, task, target, engines_dir) for task in tasks]
        for index, done in enumerate(as_completed(running)):
            done.result()
            tell(index + 1)


def _prepare_one(task: Block | Case, target: Target, engines_dir: Path) -> None:
    if isinstance(task, Block):
        if target.runtime != "aoti":  # compiled where it is measured
            graph_of(task, target, engines_dir)
    else:
        PreparedEngine(task, target, engines_dir)


def probe(target: Target) -> dict[str, Any]:
    """Return what a measurement here would be taken on."""
    with block_call(Block(layer_family("conv", 1, 1), (8, 8, 2, 2, 1)), target, copies=1) as (_, info):
        return provenance(info)


def _lesser(known: Timing | None, new: Timing) -> Timing:
    return new if known is None or new.median_ms < known.median_ms else known


def in_turns(blocks: Sequence[Block], engines: Sequence[Case]) -> list[Block | Case]:
    """Return the tasks in an order in which a short budget gives both: the first engine soon, the last after a quarter of the blocks."""
    tasks: list[Block | Case] = list(blocks)
    first, last = len(blocks) // 16, len(blocks) // 4
    for index, engine in reversed(list(enumerate(engines))):
        tasks.insert(first + index * (last - first) // max(1, len(engines) - 1), engine)
    return tasks


class _Run:
    def __init__(
        self, table: LatencyTable, target: Target, path: Path, deadline: float, on_progress: OnProgress | None, clock: Clock,
        engines_dir: Path,
    ) -> None:  # fmt: skip
        self.table, self.target, self.path, self.engines_dir = table, target, path, engines_dir
        self.deadline, self.on_progress, self.clock = deadline, on_progress, clock
        self.saved_at = clock()

    def go(self, plan: TablePlan) -> None:
        """Measure what is missing, then all of it again, until the deadline; what was measured is saved whatever ends the run."""
        engines = {(row.spec, row.size_hw) for row in self.table.engines}
        missing = in_turns(
            [block for block in plan.blocks if block not in self.table.blocks], [case for case in plan.engines if case not in engines]
        )
        again = in_turns(plan.blocks, plan.engines)
        rounds, repeated = (1, 0) if missing else self._progress(len(again))
        tasks = [*missing, *(again * (ROUNDS - rounds))[repeated:]]
        try:
            for index, task in enumerate(tasks):
                if self.clock() >= self.deadline:
                    break
                self._measure(task)
                done = index + 1 - len(missing)
                if done >= 0 and again:
                    whole, part = divmod(repeated + done, len(again))
                    self.table.provenance |= {"rounds": rounds + whole, "next_round": [part, len(again)]}
                if self.on_progress:
                    self.on_progress(index + 1, len(tasks), task.family if isinstance(task, Block) else "engine")
        finally:
            self._save()

    def _progress(self, planned: int) -> tuple[int, int]:
        """Return the rounds that were made, and how many tasks of the next one, if that was of as many tasks."""
        done, of = self.table.provenance.get("next_round", (0, 0))
        return self.table.provenance.get("rounds", 1), done if of == planned else 0

    def _measure(self, task: Block | Case) -> None:
        if isinstance(task, Block):
            timing = measure_block(task, self.target, self.engines_dir)
            self.table.blocks[task] = _lesser(self.table.blocks.get(task), timing)
        else:
            row = EngineRow(*task, measure_engine(task, self.target, self.engines_dir))
            known = {(other.spec, other.size_hw): index for index, other in enumerate(self.table.engines)}
            if task in known:
                row = EngineRow(*task, _lesser(self.table.engines[known[task]].timing, row.timing))
                self.table.engines[known[task]] = row
            else:
                self.table.engines.append(row)
        if self.clock() - self.saved_at > _SAVE_EVERY_S:
            self._save()

    def _save(self) -> None:
        spreads = sorted(timing.p95_ms / timing.p5_ms for timing in self.table.blocks.values())
        if spreads:
            self.table.provenance["spread"] = round(spreads[len(spreads) // 2], 3)
        self.table.save(self.path)
        self.saved_at = self.clock()


def _open(target: Target, path: Path, start: LatencyTable | None) -> LatencyTable:
    here = probe(target)
    if not path.is_file():
        fresh = start or LatencyTable(target.name, target.runtime, target.precision, target.batch, {})
        fresh.provenance = fresh.provenance | here
        return fresh
    table = read_table(path)
    check_target(table, target, path)
    same_machine(table.provenance, here, f"latency table {path}")
    borrowed = table.provenance.get("blocks_from")
    if start is not None and borrowed != start.provenance["blocks_from"]:
        of = "borrowed from another table" if borrowed else "measured here"
        raise TargetError(f"latency table {path} has blocks {of}; give another --out or delete the file")
    if start is None and borrowed:
        table.blocks.clear()
        del table.provenance["blocks_from"]
    return table


def _check_has_tables(target: Target) -> None:
    if target.batch != 1:
        raise TargetError(
            f"target {target.name!r} has a batch of {target.batch}: tables are measured at batch 1; give a target with batch: 1, or time "
            "whole engines with: jdnas latency benchmark"
        )
    if target.precision == "int8":
        raise TargetError(
            f"target {target.name!r} is int8, whose layers depend on calibration: tables are measured in fp32 and fp16; "
            "time whole int8 engines with: jdnas latency benchmark"
        )
