"""Stand-ins that are quick to run: an artifact with the right contract and no detector in it, and tables by formula."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.artifact import ArtifactInfo
from jdnas.presets import preset, scale_backbone
from jdnas.spec import DetectorSpec
from latency.blocks import blocks_of, features_of
from latency.plan import Case, TablePlan, plan_table
from latency.tables import LatencyTable
from latency.timing import Timing


@pytest.fixture(autouse=True)
def _no_tables_of_this_machine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JDNAS_LATENCY_DIR", str(tmp_path_factory.mktemp("tables")))


@pytest.fixture
def spec() -> DetectorSpec:
    small = scale_backbone(preset("r18", 3), 0.25)
    return replace(small, neck=32, head=replace(small.head, width=64, rpn_width=32, candidates=50, proposals=50))


@pytest.fixture
def fake_engine(tmp_path: Path, spec: DetectorSpec) -> Path:
    """Write an artifact that answers zeros."""
    values = {"boxes": (1, 4, 4), "scores": (1, 4), "labels": (1, 4), "count": (1,)}
    types = {"boxes": np.float32, "scores": np.float32, "labels": np.int64, "count": np.int64}
    zeros = [numpy_helper.from_array(np.zeros(shape, types[name]), f"zero_{name}") for name, shape in values.items()]
    reduced = {"boxes": "images", "scores": "images", "labels": "sizes_hw", "count": "sizes_hw"}
    nodes = [helper.make_node("ReduceMax", [of], [f"max_{name}"], keepdims=0) for name, of in reduced.items()]
    nodes += [helper.make_node("Mul", [f"max_{name}", f"zero_{name}"], [name]) for name in values]
    graph = helper.make_graph(
        nodes,
        "fake",
        [
            helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 3, 32, 64)),
            helper.make_tensor_value_info("sizes_hw", TensorProto.INT64, (1, 2)),
        ],
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.dtype(types[n])), s) for n, s in values.items()],
        zeros,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.helper.set_model_props(model, ArtifactInfo(spec, ("a", "b", "c"), (32, 64), 1, "fp32", {}).to_properties())
    path = tmp_path / "fake.onnx"
    onnx.save(model, path)
    return path


def formula_ms(block):
    """Milliseconds that grow with every feature of a block."""
    (features,) = features_of(block.family)(block.family, np.array([block.sizes], float), 1)
    return 0.01 * features[0] + sum(1e-6 * feature for feature in features[1:])


@pytest.fixture
def cases(spec: DetectorSpec) -> list[Case]:
    return [(spec, (64, 64)), (spec, (96, 96))]


@pytest.fixture
def plan(cases: list[Case]) -> TablePlan:
    narrow = [(scale_backbone(spec, factor), size_hw) for spec, size_hw in cases for factor in (0.75, 0.5)]
    return plan_table(cases, narrow, [*cases, *narrow[:1]])


@pytest.fixture
def table(cases: list[Case]) -> LatencyTable:
    made = LatencyTable("cpu-ort", "ort-cpu", "fp32", 1, {"cpu": "test", "threads": 1})
    for block in plan_table(cases, [], []).blocks:
        ms = formula_ms(block)
        made.blocks[block] = Timing(ms, 0.9 * ms, 1.1 * ms, 10)
    return made


def spec_formula_ms(spec, size_hw):
    return sum(count * formula_ms(block) for block, count in blocks_of(spec, size_hw))


@pytest.fixture
def by_formula():
    """The latency that the table of these tests stands for."""
    return spec_formula_ms
