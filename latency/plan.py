"""What to measure, most useful first."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jdnas.presets import round_width
from jdnas.spec import DetectorSpec, Head, Stage
from latency.blocks import REST, Block, SizeHW, blocks_of, multiply_adds_of, reads_per_output

WIDTH_STEP = 8
_SHRINKS = ((0.5, 0.5), (0.75, 0.75), (0.75, 1.0), (1.0, 0.75), (0.5, 0.25), (0.25, 0.25))
Case = tuple[DetectorSpec, SizeHW]


@dataclass(frozen=True, slots=True)
class TablePlan:
    """Blocks and whole engines to measure, each without repetition, most useful first."""

    blocks: tuple[Block, ...]
    engines: tuple[Case, ...]


def case_name(case: Case) -> str:
    """Return what tells a detector at a size from all others, in the names of files and in messages."""
    spec, (height, width) = case
    return f"{spec.key}_{width}x{height}"


def plan_table(core: Sequence[Case], students: Sequence[Case], engines: Sequence[Case]) -> TablePlan:
    """Return the plan for a search space: its `core` (base and pool ends), random `students`, and the engines that correct the sum.

    First one block of every family, then the rest (proposals, NMS, RoIAlign) of the core, then its layers, heaviest first, then the
    same layers at fractions of their widths, which pruning will ask for; then what the students ask for, heaviest first.
    """
    core_layers, core_rests = _parts(core)
    student_layers, student_rests = _parts(students)
    every = sorted({*core_layers, *student_layers}, key=lambda block: (-multiply_adds_of(block), block))
    firsts = {block.family: block for block in reversed(every)}
    shrunk = [_shrunk(block, factors) for factors in _SHRINKS for block in core_layers]
    blocks = dict.fromkeys([*firsts.values(), *core_rests, *core_layers, *student_rests, *shrunk, *student_layers])
    return TablePlan(tuple(blocks), tuple(dict.fromkeys(engines)))


def rest_spec(block: Block) -> DetectorSpec:
    """Return the smallest detector whose rest is `block`: thin layers, so that only the rest takes time."""
    _, _, candidates, proposals, detections, neck, classes = block.sizes
    head = Head(width=WIDTH_STEP, rpn_width=WIDTH_STEP, candidates=candidates, proposals=proposals, detections=detections)
    stages = tuple(Stage(WIDTH_STEP, (WIDTH_STEP,)) for _ in range(4))
    return DetectorSpec("resnet_basic", WIDTH_STEP, stages, classes, neck=neck, head=head)


def _parts(cases: Sequence[Case]) -> tuple[list[Block], list[Block]]:
    """Return layers, heaviest over all cases first, and rests."""
    counts: Counter[Block] = Counter()
    for spec, size_hw in cases:
        counts.update(dict(blocks_of(spec, size_hw)))
    layers = sorted((b for b in counts if b.family != REST), key=lambda b: (-counts[b] * multiply_adds_of(b), b))
    return layers, sorted(b for b in counts if b.family == REST)


def _shrunk(block: Block, factors: tuple[float, float]) -> Block:
    reads, writes, *rest = block.sizes
    group = reads_per_output(block.family, reads)
    if group < reads:  # within groups, of which whole ones stay
        narrow = round_width(reads * factors[0], math.lcm(WIDTH_STEP, group))
        return Block(block.family, (narrow, narrow, *rest))
    narrow_reads = reads if reads <= 3 else round_width(reads * factors[0], WIDTH_STEP)
    narrow_writes = round_width(writes * factors[1], WIDTH_STEP)
    return Block(block.family, (narrow_reads, narrow_writes, *rest))
