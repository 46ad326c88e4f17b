"""`jdnas upgrade`: a trained detector with deformable convolutions or a cascade head, to be trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jdnas.errors import CheckpointError, ConfigError
from jdnas.pipeline.prune import check_out
from jdnas.pipeline.weights import open_weights
from jdnas.spec import DetectorSpec
from jdnas.student.explain import explain
from jdnas.student.upgrade import upgrade, upgraded_spec
from jdnas.training.checkpoint import save_detector, stem_of


def stages_from_text(text: str, spec: DetectorSpec) -> tuple[int, ...]:
    """Read `c3,c4,c5`, the maps at strides 8, 16 and 32 (c2 is at 4), as stages of a spec; a ConfigError says what is wrong."""
    strides = spec.traits.stage_strides
    names = {f"c{stride.bit_length() - 1}": [i for i, other in enumerate(strides) if other == stride] for stride in strides}
    words = [word.strip() for word in text.split(",")]
    unknown = [word for word in words if word not in names]
    if unknown:
        raise ConfigError(f"--deform takes stages by the maps that they end in, {', '.join(sorted(names))}, such as c3,c4,c5; got {text!r}")
    return tuple(sorted({stage for word in words for stage in names[word]}))


@dataclass(frozen=True, slots=True)
class Upgraded:
    """An upgraded detector: the file, its architecture, and what changed in words."""

    path: Path
    spec: DetectorSpec
    changes: tuple[str, ...]


def upgrade_detector(weights: Path, out: Path, *, deform: str | None, modulated: bool, cascade: bool) -> Upgraded:
    """Write the detector in `weights` with more parts to `out`; an InputError says why it cannot be."""
    check_out(out, weights)
    read = open_weights(weights)
    if not read.has_heads:
        raise CheckpointError(f"{weights} holds a backbone without detection heads; train it first with: jdnas train --weights {weights}")
    if modulated and deform is None:
        raise ConfigError("--modulated is for deformable stages; name them with --deform, such as --deform c3,c4,c5")
    stages = () if deform is None else stages_from_text(deform, read.spec)
    target = upgraded_spec(read.spec, deformable=stages, modulated=modulated, cascade=cascade)
    about: dict[str, Any] = {"origin": f"upgraded from {weights.name}"}
    about |= ({"classes": list(read.classes)} if read.classes else {}) | ({"size_hw": list(read.size_hw)} if read.size_hw else {})
    save_detector(stem_of(out), target, upgrade(read.state, read.spec, target), about)
    return Upgraded(out, target, tuple(explain(read.spec, target)))
