"""Latency of a spec without the device: the sum of its fused blocks, corrected by whole engines."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from jdnas.errors import TargetError
from jdnas.spec import DetectorSpec
from latency.blocks import REST, Block, SizeHW, blocks_of
from latency.family_model import FamilyModel
from latency.fits import nonnegative_fit
from latency.tables import LatencyTable

_ENOUGH_ENGINES = 4
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
        self._block_ms: dict[Block, float] = {}
        self._spec_ms: dict[tuple[DetectorSpec, SizeHW], float] = {}
        self._factors = (1.0, 1.0, 0.0)
        self._factors = self._fit_factors()

    @property
    def correction(self) -> tuple[float, float, float]:
        """Factors of layers and rest, and the constant in ms, that whole engines taught."""
        return self._factors

    def latency_ms(self, spec: DetectorSpec, size_hw: SizeHW) -> float:
        """Return the latency of one batch-1 inference; TargetError if the table has no row of a kind that `spec` needs."""
        key = (spec, size_hw)
        if key not in self._spec_ms:
            layers, rest = self._parts(spec, size_hw)
            of_layers, of_rest, constant = self._factors
            self._spec_ms[key] = of_layers * layers + of_rest * rest + constant
        return self._spec_ms[key]

    def block_ms(self, block: Block) -> float:
        """Return the latency of one block: as measured where the table has it, else from its neighbours in the table."""
        if block not in self._block_ms:
            row = self.table.blocks.get(block)
            self._block_ms[block] = row.median_ms if row else self._family(block.family).predict(block.sizes)
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

    def _parts(self, spec: DetectorSpec, size_hw: SizeHW) -> tuple[float, float]:
        layers = rest = 0.0
        for block, count in blocks_of(spec, size_hw):
            if block.family == REST:
                rest += count * self.block_ms(block)
            else:
                layers += count * self.block_ms(block)
        return layers, rest

    def _family(self, name: str) -> FamilyModel:
        if name not in self._families:
            rows = [(block.sizes, timing.median_ms) for block, timing in self.table.blocks.items() if block.family == name]
            if not rows:
                held = ", ".join(sorted({block.family for block in self.table.blocks})) or "nothing"
                raise TargetError(f"the latency table of {self.table.target!r} has no row of kind {name!r} (it holds: {held}); "
                                  f"complete it with: jdnas latency measure --target {self.table.target}")  # fmt: skip
            self._families[name] = FamilyModel(name, rows)
        return self._families[name]

    def _fit_factors(self) -> tuple[float, float, float]:
        rows = [(*self._parts(e.spec, e.size_hw), e.timing.median_ms) for e in self.table.engines]
        if not rows:
            return 1.0, 1.0, 0.0
        layers, rest, measured = np.array(rows).T
        if len(rows) < _ENOUGH_ENGINES:
            ratio = float(np.exp(np.mean(np.log(measured / (layers + rest)))))
            return ratio, ratio, 0.0
        of_layers, of_rest, constant = nonnegative_fit(np.stack((layers, rest, np.ones_like(rest)), 1), measured).tolist()
        return of_layers, of_rest, constant
