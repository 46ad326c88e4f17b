"""int8 graphs: which layers, ranges and scales by hand, what stays in float, and how the choice between layers and accuracy goes."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from export.artifact import ArtifactInfo
from export.graph import verify, write_artifact
from export.int8 import Calibrated, calibrate, quantized
from export.int8_layers import quantizable
from export.int8_search import choose, sensitivities
from export.ort_session import OrtSession
from export.parity import ParityResult
from export.runners import open_runner
from export.settings import TOLERANCES, Int8Settings, tolerances_of
from jdnas.errors import DataError
from tests.export.conftest import TinyEngine


def _feeds(tiny: TinyEngine, count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    sizes = np.array([tiny.size_hw] * 2, np.int64)
    return [{"images": rng.standard_normal((2, 3, *tiny.size_hw)).astype(np.float32), "sizes_hw": sizes} for _ in range(count)]


@pytest.fixture(scope="module")
def calibrated(tiny: TinyEngine) -> Calibrated:
    return calibrate(onnx.load(tiny.path), _feeds(tiny, 3), Int8Settings(method="minmax", reduce_range=False))


def _constants(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_layers_are_those_with_weights_but_predictors(tiny: TinyEngine) -> None:
    found = quantizable(onnx.load(tiny.path))
    names = {layer.name for layer in found.layers}
    weights = {name.removesuffix(".weight") for name, tensor in tiny.state.items() if name.endswith(".weight") and tensor.dim() > 1}
    predictors = {"rpn.objectness", "rpn.deltas", "box_head.class_logits", "box_head.box_deltas"}
    assert names == weights - predictors
    assert found.groups[:2] == ("backbone.stem", "backbone.stages.0.0")
    assert {"fpn.output.0", "fpn.lateral.3", "rpn", "box_head.fc6", "box_head.fc7"} < set(found.groups)
    kinds = {node.name: node.op_type for node in onnx.load(tiny.path).graph.node}
    assert sum(layer.name == "rpn.conv" for layer in found.layers) == 5  # one for each level
    assert {kinds.get(node, "") for node, _ in found.joints} <= {"Relu", "Add", "MaxPool", "Resize", "Pad", ""}


def test_ranges_and_scales_by_hand(tiny: TinyEngine, calibrated: Calibrated) -> None:
    pixels = np.stack([feeds["images"] for feeds in _feeds(tiny, 3)])
    low, high = (float(value.item()) for value in calibrated.ranges["images"].range_value)
    assert (low, high) == (pixels.min(), pixels.max()) and calibrated.images == 6
    constants = _constants(quantized(calibrated))
    assert constants["images_scale"].item() == pytest.approx((high - low) / 255, rel=1e-5)
    assert constants["images_zero_point"].item() == round(-low / ((high - low) / 255))
    (weight,) = (name for name in _constants(onnx.load(tiny.path)) if name == "backbone.stem.conv.weight")
    float_weight = _constants(onnx.load(tiny.path))[weight]
    scale = np.abs(float_weight).max((1, 2, 3)) / 127
    np.testing.assert_allclose(constants[f"{weight}_scale"], scale, rtol=1e-5)
    np.testing.assert_allclose(constants[f"{weight}_quantized"], np.round(float_weight / scale[:, None, None, None]), atol=1)


def test_the_graph_is_standard_runs_in_int8_and_finds_nearly_the_same(tiny: TinyEngine, calibrated: Calibrated, tmp_path) -> None:
    info = ArtifactInfo(tiny.spec, tiny.classes, tiny.size_hw, 2, "int8", {})
    path = write_artifact(quantized(calibrated), info, tmp_path / "int8.onnx")
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == {""} and path.stat().st_size < tiny.path.stat().st_size
    constants = _constants(model)
    assert constants["rpn.objectness.weight"].dtype == np.float32  # predictors stay
    assert "backbone.stem.conv.weight" not in constants
    with open_runner(tiny.path, threads=1) as floats, open_runner(path, threads=1) as ints:
        feeds = _feeds(tiny, 1)[0]
        wanted, got = (runner.run(feeds["images"], feeds["sizes_hw"]) for runner in (floats, ints))
    assert abs(int(wanted["count"].sum()) - int(got["count"].sum())) <= 8
    assert abs(wanted["scores"].mean() - got["scores"].mean()) < 0.05


def test_groups_that_are_kept_are_left_alone(tiny: TinyEngine, calibrated: Calibrated) -> None:
    groups = frozenset(calibrated.parts.groups)
    assert "QuantizeLinear" not in {node.op_type for node in quantized(calibrated, groups).graph.node}
    constants = _constants(quantized(calibrated, groups - {"backbone.stem"}))
    changed = {name for name, value in constants.items() if value.dtype == np.int8 and value.size > 1 and name.endswith("_quantized")}
    assert changed == {"backbone.stem.conv.weight_quantized"}


@pytest.fixture(scope="module")
def found(tiny: TinyEngine, calibrated: Calibrated) -> dict[str, float]:
    return sensitivities(calibrated, _feeds(tiny, 1, seed=5))


def test_sensitivity_is_the_disagreement_that_a_group_causes(calibrated: Calibrated, found: dict[str, float]) -> None:
    assert tuple(found) == calibrated.parts.groups and all(0 <= value <= 1 for value in found.values())
    assert max(found.values()) > 0


def _verdict(passed: bool, delta: float) -> ParityResult:
    return ParityResult(1, 2, 1.0, 0, 0, 0.0, 0.0, 0.0, 0.0, delta, None, None, passed, "said by the test")


@pytest.mark.parametrize(
    ("needed", "tried"), [(0, [0]), (1, [0, 1]), (3, [0, 1, 2, 4, 3]), (6, [0, 1, 2, 4, 8, 6, 5]), (99, [0, 1, 2, 4, 8])]
)
def test_the_fewest_groups_that_pass_are_kept(monkeypatch, calibrated: Calibrated, found: dict[str, float], needed, tried) -> None:
    asked: list[int] = []
    monkeypatch.setattr("export.int8_search.quantized", lambda _, kept=frozenset(): kept)
    monkeypatch.setattr("export.int8_search.sensitivities", lambda *_: found)

    def check(kept: frozenset[str]) -> ParityResult:
        asked.append(len(kept))
        return _verdict(len(kept) >= needed, 1.0 / (1 + len(kept)))

    choice = choose(calibrated, check, [])
    order = sorted(calibrated.parts.groups, key=lambda group: -found[group])
    assert asked[: len(tried)] == tried
    assert choice.result.passed is (needed < 99)
    assert list(choice.kept) == order[: len(choice.kept)] and (len(choice.kept) == needed or needed == 99)


@pytest.fixture(scope="module")
def for_tensorrt(tiny: TinyEngine, tiny_half: ModelProto) -> ModelProto:
    """int8 with half for the rest."""
    return quantized(calibrate(tiny_half, _feeds(tiny, 2), Int8Settings(style="tensorrt")))


def test_what_tensorrt_takes(for_tensorrt: ModelProto) -> None:
    model = for_tensorrt
    verify(model)
    session = OrtSession(model.SerializeToString(), threads=1)
    assert session.inputs["images"][1] == np.float32
    constants = _constants(model)
    zero_points = [value for name, value in constants.items() if name.endswith("zero_point")]
    assert zero_points and all(value.dtype == np.int8 and not value.any() for value in zero_points)
    assert not any(value.dtype == np.int32 for value in constants.values())
    makers = {output: node for node in model.graph.node for output in node.output}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    pairs = [node for node in convs if node.input[0] in makers and makers[node.input[0]].op_type == "DequantizeLinear"]
    assert len(pairs) >= len(convs) - 10  # objectness and deltas of five levels stay in float
    for node in pairs:
        assert sum(node.input[0] in other.input for other in pairs) == 1  # a pair of its own
        assert makers[makers[node.input[1]].input[0]].op_type == "QuantizeLinear"  # weights are quantized by TensorRT


@pytest.mark.tensorrt
def test_tensorrt_rtx_builds_it(for_tensorrt: ModelProto) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(for_tensorrt.SerializeToString()), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    assert config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    assert builder.build_serialized_network(network, config) is not None


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_other_ways_to_find_ranges_lie_inside_the_extremes(tiny: TinyEngine, calibrated: Calibrated, method) -> None:
    ranges = calibrate(onnx.load(tiny.path), _feeds(tiny, 3), Int8Settings(method=method, percentile=99.0)).ranges
    low, high = (float(np.asarray(value).item()) for value in ranges["images"].range_value)
    least, most = (float(value.item()) for value in calibrated.ranges["images"].range_value)
    assert least <= low < 0 < high <= most and (low > least or method == "entropy")


def test_no_image_to_calibrate_with(tiny: TinyEngine) -> None:
    with pytest.raises(DataError, match="got none"):
        calibrate(onnx.load(tiny.path), [], Int8Settings())


def test_tolerances_by_precision() -> None:
    assert [TOLERANCES[name].ap for name in ("fp32", "fp16", "int8")] == [5e-4, 1e-3, 3e-3]
    assert tolerances_of("int8", 0.01) == replace(TOLERANCES["int8"], ap=0.01)


def test_types_of_the_int8_engine(calibrated: Calibrated) -> None:
    session = OrtSession(quantized(calibrated).SerializeToString(), threads=1)
    assert session.inputs["images"][1] == np.float32
    weights = {tensor.data_type for tensor in quantized(calibrated).graph.initializer}
    assert {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32} < weights
