"""Specs named on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jdnas.models.weights import State
    from jdnas.spec import DetectorSpec


def spec_of(name: str, classes: int) -> "DetectorSpec":
    """Return the spec of a base's name, or of a detector's .json or .safetensors file."""
    from jdnas.presets import preset
    from jdnas.spec import DetectorSpec

    if not name.endswith((".json", ".safetensors")):
        return preset(name, classes)
    from jdnas.training.checkpoint import read_json

    return DetectorSpec.from_dict(read_json(Path(name).with_suffix(".json")).get("spec", {}))


def weights_of(name: str, classes: int) -> "tuple[DetectorSpec, State | None]":
    """Return the spec as `spec_of` does, and the weights where a .safetensors file is named."""
    if not name.endswith(".safetensors"):
        return spec_of(name, classes), None
    from jdnas.training.checkpoint import load_detector

    spec, state, _ = load_detector(Path(name).with_suffix(""))
    return spec, state
