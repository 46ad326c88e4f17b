"""Latency of a spec without the device: the sum of its fused blocks, corrected by whole engines."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jdnas.errors import TargetError
from jdnas.spec import DetectorSpec
from latency.blocks import Block, Floats, SizeHW, blocks_of
from latency.correction import Correction, fit_correction, group_sums
from latency.family_model import FamilyModel
from latency.tables import LatencyTable

Source = Literal["measured", "interpolated", "extrapolated"]


@dataclass(frozen=True, slots=True)
class BlockPrediction:
    """One line of an explanation: the block, how often it runs, milliseconds per run (not corrected), and what that rests on."""

    block: Block
    count: int
    latency_ms: float
    source: Source
    rows: tuple[Block, ...]


class Predictor:
    """Answers from one table: same spec, same answer; answers of blocks and specs are kept."""

    def __init__(self, table: LatencyTable) -> None:
        self.table = table
        self._families: dict[str, FamilyModel] = {}
        self._block_ms: dict[Block, float] = {block: timing.median_ms for block, timing in table.blocks.items()}
        self._spec_ms: dict[tuple[DetectorSpec, SizeHW], float] = {}
        sums = np.array([self._sums(row.spec, row.size_hw) for row in table.engines])
        self._correction = fit_correction(sums, np.array([row.timing.median_ms for row in table.engines]))

    @property
    def correction(self) -> Correction:
        """What whole engines taught, and the error of engines that were left out of that."""
        return self._correction

    def latency_ms(self, spec: DetectorSpec, size_hw: SizeHW) -> float:
        """Return the latency of one batch; TargetError if the table has no row of a kind that `spec` needs."""
        key = (spec, size_hw)
        if key not in self._spec_ms:
            self._spec_ms[key] = self._correction.apply(self._sums(spec, size_hw))
        return self._spec_ms[key]

    def block_ms(self, block: Block) -> float:
        """Return the latency of one block: as measured where the table has it, else from its neighbours in the table."""
        self._learn([block])
        return self._block_ms[block]

    def explain(self, spec: DetectorSpec, size_hw: SizeHW) -> list[BlockPrediction]:
        """Return the blocks of a spec, heaviest first, with the rows of the table that each answer rests on."""
        lines = []
        for block, count in blocks_of(spec, size_hw):
            family = self._family(block.family)
            measured = block in self.table.blocks
            rows = (block,) if measured else tuple(Block(block.family, sizes) for sizes in family.neighbours(block.sizes))
            source: Source = "measured" if measured else "interpolated" if family.covers(block.sizes) else "extrapolated"
            lines.append(BlockPrediction(block, count, self.block_ms(block), source, rows))
        return sorted(lines, key=lambda line: -line.count * line.latency_ms)

    def width_step(self, family: str) -> int:
        """Return the channels that the runtime seems to compute at a time in a family of blocks."""
        return self._family(family).width_step

    def _sums(self, spec: DetectorSpec, size_hw: SizeHW) -> Floats:
        blocks = blocks_of(spec, size_hw)
        self._learn(block for block, _ in blocks)
        return group_sums([(block, count, self._block_ms[block]) for block, count in blocks])

    def _learn(self, blocks: Iterable[Block]) -> None:
        """Ask the models of the families for all blocks that are not known yet, those of one family at once."""
        unknown: dict[str, list[Block]] = defaultdict(list)
        for block in blocks:
            if block not in self._block_ms:
                unknown[block.family].append(block)
        for family, members in unknown.items():
            answers = self._family(family).predict([block.sizes for block in members])
            self._block_ms.update(zip(members, answers.tolist(), strict=True))

    def _family(self, name: str) -> FamilyModel:
        if name not in self._families:
            rows = [(block.sizes, timing.median_ms) for block, timing in self.table.blocks.items() if block.family == name]
            if not rows:
                held = ", ".join(sorted({block.family for block in self.table.blocks})) or "nothing"
                raise TargetError(f"the latency table of {self.table.target!r} has no row of kind {name!r} (it holds: {held}); "
                                  f"complete it with: jdnas latency measure --target {self.table.target}")  # fmt: skip
            self._families[name] = FamilyModel(name, rows)
        return self._families[name]
