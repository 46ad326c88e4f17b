"""What an exported file says of itself: names of inputs and outputs, and metadata kept inside the file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import jdnas
from jdnas.errors import CheckpointError, ConfigError
from jdnas.spec import DetectorSpec

InputForm = Literal["normalized", "uint8", "uint8-nhwc", "image"]
INPUT_FORMS: tuple[InputForm, ...] = get_args(InputForm)
INPUT_NAMES = ("images", "sizes_hw")
OUTPUT_NAMES = ("boxes", "scores", "labels", "count")


@dataclass(frozen=True, slots=True)
class ArtifactInfo:
    """Metadata of an artifact.

    `size_hw` (height, width) and `batch` are the canvas and the only batch it takes; `mean` and `std` normalize RGB in [0, 1];
    `classes` name the labels 1..K; `provenance` says where the weights came from, and of int8 how it was quantized. `parity` is what
    the comparison with PyTorch said, None where none was made; `forms`, which forms of the detection head are inside.

    `input` is what `images` holds: "normalized" `[B, 3, H, W]` float32, zero outside the images; "uint8" the same canvas as RGB bytes
    and "uint8-nhwc" `[B, H, W, 3]`, where what lies outside the images does not matter; "image" one RGB image `[1, h, w, 3]` uint8 of
    any size, without `sizes_hw`, whose boxes come in its own pixels.
    """

    spec: DetectorSpec
    classes: tuple[str, ...]
    size_hw: tuple[int, int]
    batch: int
    precision: str
    provenance: Mapping[str, Any]
    forms: Mapping[str, Any] = field(default_factory=dict)
    version: str = jdnas.__version__
    input: InputForm = "normalized"
    parity: Mapping[str, Any] | None = None

    def to_properties(self) -> dict[str, str]:
        """Return the metadata as the flat text properties that ONNX files hold."""
        traits = self.spec.traits
        values = {
            "version": self.version,
            "spec": self.spec.to_dict(),
            "classes": self.classes,
            "size_hw": self.size_hw,
            "batch": self.batch,
            "mean": traits.mean,
            "std": traits.std,
            "precision": self.precision,
            "provenance": dict(self.provenance),
            "forms": dict(self.forms),
            "input": self.input,
            "parity": None if self.parity is None else dict(self.parity),
        }
        return {f"jdnas.{name}": json.dumps(value, sort_keys=True) for name, value in values.items()}

    @staticmethod
    def from_properties(properties: Mapping[str, str], where: str) -> "ArtifactInfo":
        """Read what `to_properties` wrote; a CheckpointError naming `where` if it is not there or malformed."""
        try:
            values = {name: json.loads(properties[f"jdnas.{name}"]) for name in _REQUIRED}
            height, width = values["size_hw"]
            form = json.loads(properties.get("jdnas.input", '"normalized"'))
            if form not in INPUT_FORMS:
                raise ValueError(f"jdnas.input {form!r}")
            return ArtifactInfo(
                spec=DetectorSpec.from_dict(values["spec"]),
                classes=tuple(values["classes"]),
                size_hw=(height, width),
                batch=values["batch"],
                precision=values["precision"],
                provenance=values["provenance"],
                forms=json.loads(properties.get("jdnas.forms", "{}")),
                version=values["version"],
                input=form,
                parity=json.loads(properties.get("jdnas.parity", "null")),
            )
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise CheckpointError(
                f"{where} was not exported by this jdnas: property {error}; export it again with: jdnas export"
            ) from error


_REQUIRED = ("version", "spec", "classes", "size_hw", "batch", "precision", "provenance")
