"""fp16: the network in half, boxes and scores in float32, and the weights that it cannot hold."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from export.graph import detector_graph
from export.parity import compare
from export.runners import open_runner, predictor
from export.settings import TOLERANCES
from jdnas.errors import JdnasError
from tests.export.conftest import TinyEngine

_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def test_the_network_is_half_and_boxes_are_not(tiny_half: onnx.ModelProto) -> None:
    inferred = onnx.shape_inference.infer_shapes(tiny_half, strict_mode=True).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output, *inferred.input)}

    def types(*operators: str) -> set[int]:
        return {kinds[node.output[0]] for node in tiny_half.graph.node if node.op_type in operators}

    assert types("Conv", "Gemm") == {_HALF}
    # Box decoding, overlaps, scores and their order.
    assert types("Exp", "Softmax", "Sigmoid") == {_FLOAT} and _HALF not in types("Div", "TopK", "Max", "Min")
    assert {name: kinds[name] for name in ("images", "boxes", "scores")} == dict.fromkeys(("images", "boxes", "scores"), _FLOAT)
    weights = [tensor for tensor in tiny_half.graph.initializer if tensor.data_type == _FLOAT and int(np.prod(tensor.dims)) > 64]
    assert all(tensor.dims[-1] == 4 for tensor in weights), [tensor.name for tensor in weights]  # anchors alone


@torch.no_grad()
def test_detections_stay(tiny: TinyEngine, tiny_half: onnx.ModelProto, tmp_path) -> None:
    path = tmp_path / "half.onnx"
    onnx.save(tiny_half, path)
    generator = torch.Generator().manual_seed(1)
    batch = SimpleNamespace(images=torch.randn(2, 3, *tiny.size_hw, generator=generator), sizes_hw=torch.tensor([tiny.size_hw] * 2))
    with open_runner(path, threads=1) as runner:
        result = compare(tiny.detector, predictor(runner), [batch], tolerances=TOLERANCES["fp16"])
    assert result.passed and result.detections > 20 and result.moved > 0, result.message


def test_weights_beyond_half(tiny: TinyEngine) -> None:
    state = dict(tiny.state) | {"fpn.output.0.bias": torch.full_like(tiny.state["fpn.output.0.bias"], 1e6)}
    with pytest.raises(JdnasError, match=r"fpn\.output\.0\.bias exceed the range of fp16"):
        detector_graph(state, tiny.spec, size_hw=tiny.size_hw, precision="fp16")
