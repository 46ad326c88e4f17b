"""What to measure, most useful first."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from jdnas.presets import round_width, scale_backbone
from jdnas.spec import DetectorSpec, Head, Stage
from latency.blocks import REST, Block, SizeHW, blocks_of, layer_features, reads_per_output

WIDTH_STEP = 8
_SHRINKS = ((0.5, 0.5), (0.75, 0.75), (0.75, 1.0), (1.0, 0.75), (0.25, 0.25))
_ENGINE_SCALES = (1.0, 0.75, 0.5)
Case = tuple[DetectorSpec, SizeHW]


def planned_blocks(cases: Sequence[Case]) -> list[Block]:
    """Return the blocks to measure for `cases`, without repetition.

    First one block of every family, then the rest (proposals, NMS, RoIAlign) of every case, then the layers of the cases, heaviest
    first, then the same layers at fractions of their widths, which pruning will ask for.
    """
    counts: Counter[Block] = Counter()
    for spec, size_hw in cases:
        counts.update(dict(blocks_of(spec, size_hw)))
    layers = sorted((b for b in counts if b.family != REST), key=lambda b: (-counts[b] * _weight(b), b))
    rests = sorted(b for b in counts if b.family == REST)
    firsts = {block.family: block for block in reversed(layers)}
    shrunk = [_shrunk(block, factors) for factors in _SHRINKS for block in layers]
    return list(dict.fromkeys([*firsts.values(), *rests, *layers, *shrunk]))


def planned_engines(cases: Sequence[Case], most: int) -> list[Case]:
    """Return at most `most` whole engines that correct the sum of blocks: the cases and narrower versions of them in turn."""
    engines: list[Case] = []
    for scale in _ENGINE_SCALES:
        for spec, size_hw in cases:
            narrow = scale_backbone(spec, scale, WIDTH_STEP)
            engines.append((replace(narrow, neck=round_width(spec.neck * scale, WIDTH_STEP)), size_hw))
    return list(dict.fromkeys(_spread(list(dict.fromkeys(engines)), most)))


def rest_spec(block: Block) -> DetectorSpec:
    """Return the smallest detector whose rest is `block`: thin layers, so that only the rest takes time."""
    _, _, candidates, proposals, detections, neck, classes = block.sizes
    head = Head(width=WIDTH_STEP, rpn_width=WIDTH_STEP, candidates=candidates, proposals=proposals, detections=detections)
    stages = tuple(Stage(WIDTH_STEP, (WIDTH_STEP,)) for _ in range(4))
    return DetectorSpec("resnet_basic", WIDTH_STEP, stages, classes, neck=neck, head=head)


def _weight(block: Block) -> float:
    return layer_features(block.family, block.sizes, 1)[1]


def _shrunk(block: Block, factors: tuple[float, float]) -> Block:
    reads, writes, *rest = block.sizes
    group = reads_per_output(block.family, reads)
    if group < reads:  # within groups, of which whole ones stay
        narrow = round_width(reads * factors[0], math.lcm(WIDTH_STEP, group))
        return Block(block.family, (narrow, narrow, *rest))
    narrow_reads = reads if reads <= 3 else round_width(reads * factors[0], WIDTH_STEP)
    narrow_writes = round_width(writes * factors[1], WIDTH_STEP)
    return Block(block.family, (narrow_reads, narrow_writes, *rest))


def _spread(items: list[Case], most: int) -> Iterable[Case]:
    if len(items) <= most:
        return items
    return [items[index * len(items) // most] for index in range(most)]
