"""Measuring a latency table on the machine at hand."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import torch

from export.graph import export_onnx
from export.ort_session import RUNTIMES, OrtSession
from jdnas.errors import TargetError
from jdnas.models.detector import build
from latency.block_graphs import layer_graph
from latency.blocks import REST, Block, layer_family
from latency.device_lock import exclusive_device
from latency.machine import provenance
from latency.plan import Case, planned_blocks, planned_engines, rest_spec
from latency.rest_graphs import rest_graph
from latency.tables import EngineRow, LatencyTable, check_target, read_table
from latency.targets import Target
from latency.timing import Clock, Timing, time_call

OnProgress = Callable[[int, int, str], None]
_COPIES = 4
_BLOCK_SECONDS, _ENGINE_SECONDS = 0.003, 0.1
_WARMUP, _LEAST_WINDOWS, _WINDOWS, _AGREE = 3, 8, 30, 1.03
_SAVE_EVERY_S = 5.0


def measure_table(
    target: Target, cases: Sequence[Case], *, budget_s: float, path: Path, engines: int = 12,
    on_progress: OnProgress | None = None, clock: Clock = perf_counter,
) -> LatencyTable:  # fmt: skip
    """Measure what the detectors and input sizes of `cases` need on `target`, into the table at `path`, and return it.

    Blocks that the table already holds are not measured again, so that an interrupted or short run is continued by the next one.
    `on_progress` gets (done, planned, what). TargetError if the runtime cannot run here or the table is of another machine.
    """
    if target.runtime not in RUNTIMES:
        raise TargetError(
            f"runtime {target.runtime!r} of target {target.name!r} cannot be measured here; measurable: {', '.join(RUNTIMES)}"
        )
    with exclusive_device(target.runtime):
        table = _open(target, path)
        _Run(table, target, path, clock() + budget_s, on_progress, clock).go(planned_blocks(cases), planned_engines(cases, engines))
    return table


def measure_block(block: Block, target: Target) -> Timing:
    """Measure one block on the target's runtime."""
    if block.family == REST:
        model, feeds = rest_graph(rest_spec(block), (block.sizes[0], block.sizes[1]))
        copies = 1
    else:
        model, feeds = layer_graph(block, _COPIES)
        copies = _COPIES
    call = OrtSession(model.SerializeToString(), target.runtime, threads=target.threads, where=block.family).bind(feeds)
    return steadiest(call, seconds=_BLOCK_SECONDS).scaled(1 / copies)


def measure_engine(case: Case, target: Target) -> Timing:
    """Export a detector with random weights and measure it whole."""
    spec, size_hw = case
    classes = [str(label) for label in range(1, spec.num_classes + 1)]
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        state, path = build(spec).state_dict(), Path(folder) / "engine.onnx"
        export_onnx(state, spec, size_hw=size_hw, batch=target.batch, path=path, classes=classes)
        images = torch.randn(target.batch, 3, *size_hw).numpy()
        sizes = torch.tensor([size_hw] * target.batch).numpy()
        session = OrtSession(path, target.runtime, threads=target.threads)
        return steadiest(session.bind({"images": images, "sizes_hw": sizes}), seconds=_ENGINE_SECONDS)


def steadiest(call: Callable[[], None], *, seconds: float) -> Timing:
    """Time a call in short windows until the three least medians agree; return the window with the least.

    What runs beside a measurement only ever adds time, so the least of several medians is nearest to the truth.
    """
    windows: list[Timing] = []
    for attempt in range(_WINDOWS):
        windows.append(time_call(call, seconds=seconds, warmup=0 if attempt else _WARMUP))
        windows.sort(key=lambda timing: timing.median_ms)
        if len(windows) >= _LEAST_WINDOWS and windows[2].median_ms <= _AGREE * windows[0].median_ms:
            break
    return windows[0]


class _Run:
    def __init__(
        self, table: LatencyTable, target: Target, path: Path, deadline: float, on_progress: OnProgress | None, clock: Clock
    ) -> None:
        self.table, self.target, self.path = table, target, path
        self.deadline, self.on_progress, self.clock = deadline, on_progress, clock
        self.saved_at = clock()

    def go(self, blocks: Sequence[Block], engines: Sequence[Case]) -> None:
        """Measure what is missing until the deadline; what was measured is saved whatever ends the run."""
        blocks = [block for block in blocks if block not in self.table.blocks]
        done_engines = {(row.spec, row.size_hw) for row in self.table.engines}
        engines = [case for case in engines if case not in done_engines]
        needed = len(blocks) // 8
        tasks: list[Block | Case] = [*blocks[:needed], *engines, *blocks[needed:]]
        try:
            for index, task in enumerate(tasks):
                if self.clock() >= self.deadline:
                    break
                self._measure(task)
                if self.on_progress:
                    self.on_progress(index + 1, len(tasks), task.family if isinstance(task, Block) else "engine")
        finally:
            self._save()

    def _measure(self, task: Block | Case) -> None:
        if isinstance(task, Block):
            self.table.blocks[task] = measure_block(task, self.target)
        else:
            self.table.engines.append(EngineRow(*task, measure_engine(task, self.target)))
        if self.clock() - self.saved_at > _SAVE_EVERY_S:
            self._save()

    def _save(self) -> None:
        spreads = sorted(timing.p95_ms / timing.p5_ms for timing in self.table.blocks.values())
        if spreads:
            self.table.provenance["spread"] = round(spreads[len(spreads) // 2], 3)
        self.table.save(self.path)
        self.saved_at = self.clock()


def _open(target: Target, path: Path) -> LatencyTable:
    probe, _ = layer_graph(Block(layer_family("conv", 1, 1), (8, 8, 2, 2, 1)), 1)
    here = provenance(OrtSession(probe.SerializeToString(), target.runtime, threads=target.threads).info)
    if not path.is_file():
        return LatencyTable(target.name, target.runtime, target.precision, target.batch, here)
    table = read_table(path)
    check_target(table, target, path)
    for key in ("cpu", "threads", "runtime_version"):
        if table.provenance.get(key) != here[key]:
            raise TargetError(f"latency table {path} was measured with {key} {table.provenance.get(key)!r}, here it is {here[key]!r}; "
                              "give another path or delete the table")  # fmt: skip
    return table
