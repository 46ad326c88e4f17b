"""Which nodes of a detector's graph may run in int8, and which part of the network each belongs to."""

import re
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
# Between quantized layers these run in int8 too, or vanish into them; left in float they would cost two conversions each.
_JOINTS = frozenset({"Relu", "Clip", "Add", "MaxPool", "Resize", "Pad"})
_PARAMETER = re.compile(r"(?:^|\.)((?:backbone|fpn|rpn|box_head|cascade)\..+)\.(?:weight|bias)$")
# Their outputs are scores, shifts and scales: 256 steps over the range of all anchors would tie scores and move boxes by pixels. They
# are a small share of the arithmetic. Squeeze-and-excitation works on one pixel.
_IN_FLOAT = frozenset({"objectness", "deltas", "class_logits", "box_deltas", "offset", "squeeze"})
_GROUP_PARTS = {"fpn": 3, "rpn": 1, "box_head": 2, "cascade": 3, "backbone": 2}


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with weights: its node, its name as in the state dict, and its group."""

    node: str
    name: str
    group: str


@dataclass(frozen=True, slots=True)
class Quantizable:
    """The layers that may run in int8, and the nodes between them with the group that each follows."""

    layers: tuple[Layer, ...]
    joints: tuple[tuple[str, str], ...]

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups in the order of the graph: blocks of the backbone, layers of the FPN and of the heads, the RPN."""
        return tuple(dict.fromkeys(layer.group for layer in self.layers))

    def nodes(self, kept: frozenset[str] = frozenset()) -> list[str]:
        """Return the names of the nodes outside the groups `kept`."""
        layers = [layer.node for layer in self.layers if layer.group not in kept]
        return layers + [node for node, group in self.joints if group not in kept]


def quantizable(model: ModelProto) -> Quantizable:
    """Find the layers by the names of their weights; nodes without a name get one."""
    constants = {tensor.name for tensor in model.graph.initializer}
    layers: list[Layer] = []
    joints: list[tuple[str, str]] = []
    owner: dict[str, str] = {}  # tensors that a layer or a joint makes, and its group
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}.{index}"
        name = _layer_name(node) if node.op_type in _WEIGHTED and node.input[1] in constants else None
        if name is not None and not _IN_FLOAT & set(name.split(".")):
            layers.append(Layer(node.name, name, _group(name)))
            owner[node.output[0]] = layers[-1].group
        elif node.op_type in _JOINTS:
            reads = [value for value in node.input[: 2 if node.op_type == "Add" else 1] if value]
            if reads and all(value in owner for value in reads):
                owner[node.output[0]] = owner[reads[0]]
                joints.append((node.name, owner[reads[0]]))
    return Quantizable(tuple(layers), tuple(joints))


def _layer_name(node: NodeProto) -> str | None:
    # Weights of fully connected layers are stored transposed under other names: there the bias tells.
    found = (_PARAMETER.search(value) for value in node.input[1:])
    return next((match[1] for match in found if match), None)


def _group(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[: 4 if parts[1:2] == ["stages"] else _GROUP_PARTS[parts[0]]])
