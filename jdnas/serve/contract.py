"""The tensors of a served model, as its metadata tells them and as requests are checked against them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from export.artifact import ArtifactInfo
from export.session import Array
from jdnas.serve.limits import Refusal

VERSION = "1"
ENCODED = "encoded"
DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8")}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's name, its datatype in the protocol and its shape, where -1 stands for the number of images."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of the model's metadata."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class Contract:
    """What a model takes and gives; a request has `images` and `sizes_hw`, or `encoded`."""

    info: ArtifactInfo

    @property
    def inputs(self) -> dict[str, TensorSpec]:
        """All inputs by name."""
        images = TensorSpec("images", "FP32", (-1, 3, *self.info.size_hw))
        return {spec.name: spec for spec in (images, TensorSpec("sizes_hw", "INT64", (-1, 2)), TensorSpec(ENCODED, "BYTES", (-1,)))}

    @property
    def outputs(self) -> dict[str, TensorSpec]:
        """All outputs by name."""
        most = self.info.spec.head.detections
        rows = (
            ("boxes", "FP32", (-1, most, 4)),
            ("scores", "FP32", (-1, most)),
            ("labels", "INT64", (-1, most)),
            ("count", "INT64", (-1,)),
        )
        return {name: TensorSpec(name, datatype, shape) for name, datatype, shape in rows}

    def metadata(self, name: str) -> dict[str, Any]:
        """Return the model metadata of the protocol; `parameters` say what a client needs to prepare images itself."""
        info, traits = self.info, self.info.spec.traits
        height, width = info.size_hw
        return {
            "name": name, "versions": [VERSION], "platform": "onnxruntime_onnx",
            "inputs": [spec.to_dict() for spec in self.inputs.values()],
            "outputs": [spec.to_dict() for spec in self.outputs.values()],
            "parameters": {
                "input_sets": [["images", "sizes_hw"], [ENCODED]], "max_images": info.batch, "classes": list(info.classes),
                "canvas_height": height, "canvas_width": width, "mean": list(traits.mean), "std": list(traits.std),
                "precision": info.precision, "jdnas_version": info.version,
            },
        }  # fmt: skip

    def check_shape(self, spec: TensorSpec, datatype: object, shape: list[int]) -> None:
        """Refuse an input of another type or shape, or with more images than the engine takes at once."""
        fits = len(shape) == len(spec.shape) and all(got == want for got, want in zip(shape[1:], spec.shape[1:], strict=True))
        if datatype != spec.datatype or not fits or not 1 <= shape[0] <= self.info.batch:
            wanted = ", ".join([f"1..{self.info.batch}" if self.info.batch > 1 else "1", *map(str, spec.shape[1:])])
            got = f"{str(shape)[:80]} {str(datatype)[:20]}"
            raise Refusal(400, f"input {spec.name!r} must be [{wanted}] {spec.datatype}, got {got}")

    def check_tensors(self, images: Array, sizes_hw: Array) -> None:
        """Refuse values that no image has, and inputs of different numbers of images."""
        if len(images) != len(sizes_hw):
            raise Refusal(400, f"inputs 'images' and 'sizes_hw' differ in their number of images: {len(images)} and {len(sizes_hw)}")
        if (sizes_hw < 1).any() or (sizes_hw > np.array(self.info.size_hw)).any():
            height, width = self.info.size_hw
            raise Refusal(400, f"input 'sizes_hw' must hold heights in 1..{height} and widths in 1..{width}")
        flat = images.reshape(-1)
        with np.errstate(all="ignore"):
            quick = np.isfinite(np.dot(flat, flat))  # one pass; may overflow on values that are allowed
        if not quick and not np.isfinite(flat).all():
            raise Refusal(400, "input 'images' must hold finite values")
