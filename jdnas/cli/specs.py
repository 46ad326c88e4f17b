"""Specs named on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jdnas.models.weights import State
    from jdnas.spec import DetectorSpec


def spec_of(name: str, classes: int) -> "DetectorSpec":
    """Return the spec of a base's name, or of a weight file; a .json of jdnas does without its weights."""
    from jdnas.presets import preset

    if not Path(name).suffix:
        return preset(name, classes)
    from jdnas.pipeline.weights import spec_of_weights

    return spec_of_weights(Path(name))[0]


def weights_of(name: str, classes: int) -> "tuple[DetectorSpec, State | None]":
    """Return the spec as `spec_of` does, and the weights where a weight file is named."""
    if Path(name).suffix in ("", ".json"):
        return spec_of(name, classes), None
    from jdnas.pipeline.weights import open_weights

    read = open_weights(Path(name))
    return read.spec, read.state
