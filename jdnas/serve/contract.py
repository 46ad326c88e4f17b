"""The tensors of a served model, as its metadata tells them and as requests are checked against them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from export.artifact import ArtifactInfo
from export.session import Array
from jdnas.serve.limits import Refusal

VERSION = "1"
ENCODED = "encoded"
DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8"), "UINT8": np.dtype("u1")}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's name, its datatype in the protocol and its shape; -1 stands first for the number of images, and later for any side."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of the model's metadata."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True)
class Contract:
    """What a model takes and gives; a request has `images` and, unless it takes whole images, `sizes_hw`; or `encoded`."""

    info: ArtifactInfo

    @cached_property
    def inputs(self) -> dict[str, TensorSpec]:
        """All inputs by name."""
        height, width = self.info.size_hw
        datatype, shape = {
            "normalized": ("FP32", (-1, 3, height, width)), "uint8": ("UINT8", (-1, 3, height, width)),
            "uint8-nhwc": ("UINT8", (-1, height, width, 3)), "image": ("UINT8", (-1, -1, -1, 3)),
        }[self.info.input]  # fmt: skip
        specs = [TensorSpec("images", datatype, shape)]
        if "sizes_hw" in self.tensors:
            specs.append(TensorSpec("sizes_hw", "INT64", (-1, 2)))
        return {spec.name: spec for spec in (*specs, TensorSpec(ENCODED, "BYTES", (-1,)))}

    @cached_property
    def tensors(self) -> tuple[str, ...]:
        """The inputs of a request that sends tensors."""
        return ("images",) if self.info.input == "image" else ("images", "sizes_hw")

    @cached_property
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
                "input_sets": [list(self.tensors), [ENCODED]], "max_images": info.batch, "classes": list(info.classes),
                "canvas_height": height, "canvas_width": width, "mean": list(traits.mean), "std": list(traits.std),
                "precision": info.precision, "input_form": info.input, "jdnas_version": info.version,
            },
        }  # fmt: skip

    def check_shape(self, spec: TensorSpec, datatype: object, shape: list[int]) -> None:
        """Refuse an input of another type or shape, or with more images than the engine takes at once."""
        fits = len(shape) == len(spec.shape) and all(
            got == want or (want == -1 and got >= 1) for got, want in zip(shape[1:], spec.shape[1:], strict=True)
        )
        if datatype != spec.datatype or not fits or not 1 <= shape[0] <= self.info.batch:
            sides = ("any" if side == -1 else str(side) for side in spec.shape[1:])
            wanted = ", ".join([f"1..{self.info.batch}" if self.info.batch > 1 else "1", *sides])
            got = f"{str(shape)[:80]} {str(datatype)[:20]}"
            raise Refusal(400, f"input {spec.name!r} must be [{wanted}] {spec.datatype}, got {got}")

    def check_tensors(self, images: Array, sizes_hw: Array | None) -> None:
        """Refuse values that no image has, and inputs of different numbers of images."""
        if sizes_hw is None:  # whole images, of any size
            return
        if len(images) != len(sizes_hw):
            raise Refusal(400, f"inputs 'images' and 'sizes_hw' differ in their number of images: {len(images)} and {len(sizes_hw)}")
        if (sizes_hw < 1).any() or (sizes_hw > np.array(self.info.size_hw)).any():
            height, width = self.info.size_hw
            raise Refusal(400, f"input 'sizes_hw' must hold heights in 1..{height} and widths in 1..{width}")
        if images.dtype == np.uint8:
            return
        flat = images.reshape(-1)
        with np.errstate(all="ignore"):
            quick = np.isfinite(np.dot(flat, flat))  # one pass; may overflow on values that are allowed
        if not quick and not np.isfinite(flat).all():
            raise Refusal(400, "input 'images' must hold finite values")
