"""Where a predicted latency comes from: a measured table, or what others published of the device."""

import math
from collections import defaultdict
from typing import Any, Protocol

from jdnas.errors import TargetError
from jdnas.models.complexity import layers
from jdnas.spec import DetectorSpec
from latency.blocks import REST, Block, SizeHW, fuses_addition, layer_block, rest_block
from latency.predictor import Predictor
from latency.prior import PRIOR_LABEL, Prior, find_prior, model_name
from latency.tables import find_table, no_table
from latency.targets import Target

TABLE_LABEL = "predicted from a measured table"
MEASURED_LABEL = "measured"
PRIOR_COVERS = "convolutions and fully connected layers; proposals, NMS, RoIAlign and decoding are left out"
Call = tuple[Block, bool]  # a block, and whether an addition is fused into it


class LatencySource(Protocol):
    """Predicts latencies of one target, and says what they rest on."""

    @property
    def label(self) -> str:
        """What every figure from this source is to be called."""

    def latency_ms(self, spec: DetectorSpec, size_hw: SizeHW) -> float:
        """Return milliseconds of one batch."""

    def parts_ms(self, spec: DetectorSpec, size_hw: SizeHW) -> dict[str, float]:
        """Return milliseconds by part of the detector."""

    def describe(self) -> dict[str, Any]:
        """Return, as JSON data, the label and what the source rests on."""

    def error_words(self) -> str:
        """Say in words how far predictions may be off."""


class TableSource:
    """Predictions from blocks and engines that were measured on the target."""

    label = TABLE_LABEL

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.latency_ms = predictor.latency_ms

    def parts_ms(self, spec: DetectorSpec, size_hw: SizeHW) -> dict[str, float]:
        """Return milliseconds by part of the detector, sums of blocks, not corrected; `rest`: proposals, NMS, RoIAlign, decoding."""
        parts: dict[str, float] = defaultdict(float)
        for layer in layers(spec, size_hw):
            parts[layer.part] += self.predictor.block_ms(layer_block(layer))
        parts[REST] += self.predictor.block_ms(rest_block(spec, size_hw))
        return dict(parts)

    def describe(self) -> dict[str, Any]:
        """Return label, counts and provenance of the table."""
        table = self.predictor.table
        error = self.predictor.correction.error
        known = None if math.isnan(error) else round(error, 4)
        return {"label": self.label, "blocks": len(table.blocks), "engines": len(table.engines), "error_on_engines_left_out": known,
                "provenance": table.provenance}  # fmt: skip

    def error_words(self) -> str:
        """Say how far engines that were left out of the fit were off."""
        learnt = self.predictor.correction
        if math.isnan(learnt.error):
            return f"error unknown: {learnt.engines} whole engines in the table"
        return f"engines left out of the fit: mean error {100 * learnt.error:.1f} %, nine in ten within {100 * learnt.p90:.1f} %"


class PriorSource:
    """Predictions from a third-party prior: the sum of a detector's convolutions and fully connected layers."""

    label = PRIOR_LABEL

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        self._known: dict[Call, float] = {}

    def latency_ms(self, spec: DetectorSpec, size_hw: SizeHW) -> float:
        """Return milliseconds of one batch; a TargetError for layers of a kind that the prior does not know."""
        return sum(self.parts_ms(spec, size_hw).values())

    def parts_ms(self, spec: DetectorSpec, size_hw: SizeHW) -> dict[str, float]:
        """Return milliseconds by part of the detector: backbone.stem, backbone.s0.., neck, rpn, roi."""
        calls = [(layer.part, layer_block(layer), fuses_addition(spec, layer)) for layer in layers(spec, size_hw)]
        self._learn({(block, add) for _, block, add in calls} - self._known.keys())
        parts: dict[str, float] = defaultdict(float)
        for part, block, add in calls:
            parts[part] += self._known[block, add]
        return dict(parts)

    def _learn(self, calls: set[Call]) -> None:
        """Ask the prior for all blocks of one kind at once, each called as often as a batch has images."""
        kinds: dict[str, list[Call]] = defaultdict(list)
        for block, add in calls:
            kinds[model_name(block.family, block.sizes)].append((block, add))
        for found in kinds.values():
            calls_of_batch = [((*block.sizes[:-1], block.sizes[-1] * self.prior.batch), add) for block, add in found]
            answers = self.prior.latency_ms(found[0][0].family, calls_of_batch)
            self._known.update(zip(found, answers.tolist(), strict=True))

    def describe(self) -> dict[str, Any]:
        """Return label, lineage, what is left out, and errors on held-out rows."""
        error = {name: getattr(self.prior.error, name) for name in self.prior.error.__slots__}
        return {"label": self.label, "lineage": self.prior.lineage, "covers": PRIOR_COVERS, "error_on_held_out_convolutions": error}

    def error_words(self) -> str:
        """Say how far single convolutions that were left out of the fit were off, and what is not in the sum."""
        return f"single convolutions left out of the fit: mean error {100 * self.prior.error.mape:.1f} %; {PRIOR_COVERS}"


def open_source(target: Target) -> LatencySource:
    """Return what is known of a target: a table measured here or shipped, else a prior; a TargetError says how to get one."""
    if (found := find_table(target)) is not None:
        return TableSource(Predictor(found[0]))
    if (prior := find_prior(target)) is not None:
        return PriorSource(prior[0])
    raise no_table(target)


def knowledge(target: Target) -> str:
    """Return in a few words what is known of a target's latencies: a table, a prior, nothing, or that a file of them is broken."""
    try:
        if (found := find_table(target)) is not None:
            return "shipped table" if found[1] == target.shipped_table_path else "table measured here"
    except TargetError:
        return "broken table"
    try:
        return PRIOR_LABEL if find_prior(target) is not None else "nothing"
    except TargetError:
        return "broken prior"
