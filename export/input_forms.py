"""What stands before a detector's graph: bytes to normalized pixels, and a whole image to a canvas, by standard operators."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.artifact import INPUT_NAMES, OUTPUT_NAMES, ArtifactInfo

CANVAS = "input.canvas"
_PREFIX = "input."
_ROUND_UP = 1e-9  # as in jdnas.data.augment.fit: lets 512 * (320 / 512) be 320 and not 319
# Resize takes its factors as float32 and rounds their product with the size down: two roundings must not lose the last pixel.
_FLOAT32_SLACK = 1 + 2.0**-22
_IMAGES, _SIZES = INPUT_NAMES
_BOXES = OUTPUT_NAMES[0]


def with_input_form(model: ModelProto, info: ArtifactInfo) -> ModelProto:
    """Return a graph of normalized canvases with the inputs that `info.input` names; the given model is changed.

    Bytes become what `jdnas.data.batches` feeds to PyTorch, bit by bit. An image is scaled, cropped and laid on the canvas as
    `jdnas.data.augment.letterbox` does, up to the rounding of its resize (docs/export.md), and boxes are taken back to its pixels.
    """
    if info.input == "normalized":
        return model
    graph, height, width = model.graph, *info.size_hw
    build = _Builder()
    _rename(graph, _IMAGES, _PREFIX + "normalized")
    if info.input == "image":
        _rename(graph, _SIZES, _PREFIX + "sizes")
        canvas, sizes, scale, image_hw = _letterbox(build, info.size_hw)
    else:
        canvas, sizes = _IMAGES, _SIZES
        if info.input == "uint8-nhwc":
            canvas = build.op("Transpose", canvas, perm=(0, 3, 1, 2))
    _normalize(build, canvas, sizes, info, _PREFIX + "normalized")
    shapes: dict[str, Sequence[int | str]] = {
        "uint8": (info.batch, 3, height, width),
        "uint8-nhwc": (info.batch, height, width, 3),
        "image": (1, "height", "width", 3),
    }
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(_IMAGES, TensorProto.UINT8, shapes[info.input]))
    if info.input != "image":
        graph.input.append(helper.make_tensor_value_info(_SIZES, TensorProto.INT64, (info.batch, 2)))
    before = len(build.nodes)
    if info.input == "image":
        _rename(graph, _BOXES, _PREFIX + "boxes", outputs=True)
        _boxes_in_image(build, _PREFIX + "boxes", scale, image_hw)
    nodes = [*build.nodes[:before], *graph.node, *build.nodes[before:]]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(build.constants)
    return model


class _Builder:
    """Nodes in order, each with one output, and their constants."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def op(self, kind: str, *inputs: "str | np.ndarray[Any, Any]", named: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its output, `named` if given; arrays become constants."""
        output = named or f"{_PREFIX}{kind.lower()}.{len(self.nodes)}"
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self.nodes.append(helper.make_node(kind, names, [output], name=f"{output}.node", **attributes))
        return output

    def cast(self, value: str, kind: int) -> str:
        """Add a cast to a type of TensorProto."""
        return self.op("Cast", value, to=kind)

    def _constant(self, value: "np.ndarray[Any, Any]") -> str:
        self.constants.append(numpy_helper.from_array(value, f"{_PREFIX}constant.{len(self.constants)}"))
        return self.constants[-1].name


def _normalize(build: _Builder, canvas: str, sizes: str, info: ArtifactInfo, to: str) -> None:
    # The order of operations and roundings is that of jdnas.data.batches; what lies outside an image is zero after normalization.
    traits, (height, width) = info.spec.traits, info.size_hw
    mean, factor = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (traits.mean, 1 / np.array(traits.std)))
    pixels = build.op("Mul", build.cast(canvas, TensorProto.FLOAT), np.array(1 / 255, np.float32))
    pixels = build.op("Mul", build.op("Sub", pixels, mean), factor)
    inside = []
    for axis, (side, shape) in enumerate(((height, (1, 1, height, 1)), (width, (1, 1, 1, width)))):
        limit = build.op("Gather", sizes, np.array([axis], np.int64), axis=1)  # [B, 1]
        limit = build.op("Reshape", limit, np.array([info.batch, 1, 1, 1], np.int64))
        inside.append(build.op("Less", np.arange(side, dtype=np.int64).reshape(shape), limit))
    build.op("Where", build.op("And", *inside), pixels, np.zeros((), np.float32), named=to)


def _letterbox(build: _Builder, size_hw: tuple[int, int]) -> tuple[str, str, str, str]:
    """Add the nodes of jdnas.data.augment.fit and look; return canvas, sizes [1, 2], scale float32 [1] and the image's size [2]."""
    canvas_hw = np.array(size_hw, np.float64)
    one = np.array([1], np.int64)
    image_hw = build.op("Shape", _IMAGES, start=1, end=3)
    sides = build.cast(image_hw, TensorProto.DOUBLE)
    scale = build.op("ReduceMin", build.op("Div", canvas_hw, sides), keepdims=1)
    # Not as one factor: ONNX Runtime drops multiplications by what is nearly 1.
    scale = build.op("Add", scale, build.op("Mul", scale, np.array([_ROUND_UP], np.float64)))
    seen = build.op("Floor", build.op("Mul", sides, scale))
    seen = build.op("Min", build.op("Max", seen, np.ones(2, np.float64)), canvas_hw)
    needed = build.cast(build.op("Ceil", build.op("Div", seen, scale)), TensorProto.INT64)
    whole = build.cast(seen, TensorProto.INT64)
    zeros, axes = np.zeros(2, np.int64), np.array([2, 3], np.int64)
    planes = build.op("Transpose", _IMAGES, perm=(0, 3, 1, 2))
    planes = build.op("Slice", planes, zeros, build.op("Add", needed, one), axes)
    factor = build.cast(build.op("Mul", scale, np.array([_FLOAT32_SLACK], np.float64)), TensorProto.FLOAT)
    factors = build.op("Concat", np.ones(2, np.float32), factor, factor, axis=0)
    scaled = build.op(
        "Resize", planes, "", factors, mode="linear", antialias=1, exclude_outside=1, coordinate_transformation_mode="half_pixel"
    )
    scaled = build.op("Slice", scaled, zeros, whole, axes)
    missing = build.op("Sub", np.array(size_hw, np.int64), whole)
    pads = build.op("Concat", np.zeros(6, np.int64), missing, axis=0)
    padded = build.op("Pad", scaled, pads)
    canvas = build.op("Reshape", padded, np.array([1, 3, *size_hw], np.int64), named=CANVAS)
    sizes = build.op("Unsqueeze", whole, np.zeros(1, np.int64), named=_PREFIX + "sizes")
    return canvas, sizes, build.cast(scale, TensorProto.FLOAT), image_hw


def _boxes_in_image(build: _Builder, boxes: str, scale: str, image_hw: str) -> None:
    # As jdnas.data.canvas.boxes_in_image; the rows that mean nothing stay zero.
    limit = build.op("Gather", build.cast(image_hw, TensorProto.FLOAT), np.array([1, 0, 1, 0], np.int64), axis=0)
    build.op("Min", build.op("Max", build.op("Div", boxes, scale), np.zeros((), np.float32)), limit, named=_BOXES)


def _rename(graph: GraphProto, old: str, new: str, *, outputs: bool = False) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new
        if outputs:
            for index, name in enumerate(node.output):
                if name == old:
                    node.output[index] = new
    for value in graph.value_info:
        if value.name == old:
            value.name = new
