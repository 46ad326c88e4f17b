"""Targets of runtimes other than ONNX Runtime: the same blocks, tables and reports through them, on the CPU of this machine."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from export.forms import forms_for
from export.session import BoundCall
from jdnas.errors import TargetError
from jdnas.models.detector import build
from latency import block_calls
from latency.bench_report import markdown_text
from latency.benchmark import benchmark
from latency.block_calls import block_call
from latency.block_graphs import layer_graph
from latency.block_modules import layer_module, rest_module
from latency.blocks import REST, Block
from latency.exports import export_path
from latency.measure import measure_block, measure_table
from latency.plan import TablePlan, plan_table, rest_spec
from latency.predictor import Predictor
from latency.tables import read_table
from latency.targets import Target, load_target
from latency.timing import time_call

OPENVINO, AOTI = load_target("cpu-openvino"), load_target("cpu-aoti")
HALF = Target(name="half", device="cpu", runtime="ort-cpu", precision="fp16")
BLOCKS = [
    Block("conv 3x3/1", (8, 16, 6, 8, 1)), Block("conv 3x3/2", (8, 16, 6, 8, 1)), Block("conv 7x7/2", (3, 8, 6, 8, 1)),
    Block("depthwise 3x3/1", (8, 8, 6, 8, 1)), Block("grouped4 3x3/1", (8, 8, 6, 8, 1)), Block("linear", (32, 8, 1, 1, 20)),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _own_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))


def test_the_devices_own_clock_counts_where_there_is_one():
    found = time_call(BoundCall(lambda: pytest.fail("timed by the host"), lambda: 3.0), seconds=0.01, warmup=0)
    assert found.median_ms == 3.0


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.family)
def test_a_layers_module_is_what_its_graph_is(block):
    model, feeds = layer_graph(block, 3)
    module, inputs = layer_module(block, 3)
    assert {name: tuple(tensor.shape) for name, tensor in inputs.items()} == {name: array.shape for name, array in feeds.items()}
    weights = [p for name, p in module.named_parameters() if name.endswith("weight")]
    shapes = [tuple(t.dims) for t in model.graph.initializer if t.name.startswith("w")]
    assert [tuple(weight.shape) for weight in weights] == shapes
    (output,) = module(*inputs.values())
    wanted = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    assert list(output.shape) == wanted and float(output.min()) == 0.0


def test_layers_in_half(tmp_path):
    model, feeds = layer_graph(BLOCKS[0], 2, half=True)
    assert {t.data_type for t in model.graph.initializer} == {TensorProto.FLOAT16}
    assert feeds["x"].dtype == np.float16


@torch.no_grad()
def test_the_rest_is_the_detector_without_its_layers():
    """Fed with what the layers of a detector gave, the rest finds what the detector found."""
    block = Block(REST, (64, 96, 30, 20, 10, 16, 3))
    module, inputs, names = rest_module(block)
    detector = build(rest_spec(block), forms=forms_for("aoti")).eval()
    detector.rpn.objectness.weight.normal_(std=0.5)
    detector.box_head.class_logits.weight.normal_(std=1.0)
    given = []

    def note(_module, _inputs, output):
        given.extend(output if isinstance(output, tuple) else (output,))

    for part in (*detector.fpn.lateral, *detector.fpn.output, detector.rpn.objectness, detector.rpn.deltas, detector.box_head):
        part.register_forward_hook(note)
    wanted = detector(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(3)), torch.tensor([[64, 96]]))
    assert [tuple(tensor.shape) for tensor in given] == [tuple(tensor.shape) for tensor in list(inputs.values())[1:]]
    found = module(torch.tensor([[64, 96]]), *given)
    assert int(wanted.count) > 3 and len(found) == len(names)
    for ours, theirs in zip(found, wanted, strict=False):
        torch.testing.assert_close(ours, theirs)


def test_files_of_one_runtime_or_precision_do_not_stand_for_anothers(tmp_path):
    targets = [*map(load_target, ("cpu-ort", "h100-ort", "h100-aoti", "cpu-aoti", "t4-trt")), HALF]
    names = {export_path("x", tmp_path, target).name for target in targets}
    assert names == {
        "x.onnx",
        "x_ort-cpu_fp16.onnx",
        "x_ort-cuda_fp16.onnx",
        "x_aoti_fp16_gpu.pt2",
        "x_aoti_fp32_cpu.pt2",
        "x_tensorrt_fp16.onnx",
    }


def test_rests_of_one_precision_do_not_stand_for_anothers(tmp_path, monkeypatch):
    monkeypatch.setattr(block_calls, "rest_graph", lambda spec, size_hw, **_: helper.make_model(helper.make_graph([], "rest", [], [])))
    for target in (load_target("cpu-ort"), HALF):
        block_calls.graph_of(Block(REST, (64, 96, 40, 30, 20, 48, 5)), target, tmp_path)
    assert len(list(tmp_path.glob("rest_*.onnx"))) == 2


def test_tables_of_int8_are_refused(tmp_path):
    target = replace_target(load_target("cpu-ort"), precision="int8")
    with pytest.raises(TargetError, match="tables are measured in fp32 and fp16; time whole int8 engines"):
        measure_table(target, TablePlan((), ()), budget_s=1, path=tmp_path / "x.json")


def replace_target(target, **changes):
    return Target(**target.model_dump() | changes)


class TestOpenVino:
    @pytest.fixture(autouse=True)
    def _package(self):
        pytest.importorskip("openvino", reason="the extra openvino is not installed")

    def test_a_report_with_layers(self, fake_engine):
        report = benchmark([fake_engine], "cpu-openvino", seconds=0.05, profile=True)
        (row,) = report.rows
        assert row.runs_in == "openvino" and row.median_ms > 0 and row.peak_rss_mib > 20
        assert report.provenance["provider"] == "cpu" and "runtime_version" in report.provenance
        assert "openvino" in markdown_text(report)
        (profile,) = report.profiles.values()
        assert profile.layers and profile.run_ms > 0

    def test_a_table_and_what_it_predicts(self, spec, tmp_path, monkeypatch):
        monkeypatch.setattr("latency.measure._BLOCK_SECONDS", 1e-4)
        cases = [(spec, (64, 64))]
        plan = plan_table(cases, [], [])
        layers = tuple(block for block in plan.blocks if block.family != REST)[:6]
        path = tmp_path / "t.json"
        table = measure_table(OPENVINO, TablePlan(layers, ()), budget_s=1e9, path=path)
        read = read_table(path)
        assert (read.target, read.runtime) == ("cpu-openvino", "openvino") and set(read.blocks) == set(layers)
        assert all(timing.median_ms > 0 for timing in table.blocks.values())
        with pytest.raises(TargetError, match="is of"):
            measure_table(replace_target(OPENVINO, name="other"), TablePlan(layers, ()), budget_s=1, path=path)

    def test_blocks_grow_with_their_work(self):
        small, large = (measure_block(Block("conv 3x3/1", (w, w, side, side, 1)), OPENVINO).median_ms for w, side in ((8, 8), (64, 64)))
        assert 0 < small < large

    @pytest.mark.slow
    def test_the_rest_and_whole_engines(self, spec, tmp_path, monkeypatch):
        monkeypatch.setattr("latency.prepared._ENGINE_SECONDS", 1e-3)
        small = replace(spec, head=replace(spec.head, candidates=20, proposals=20, train_candidates=20, train_proposals=20))
        plan = plan_table([(small, (64, 64))], [], [(small, (64, 64))])
        table = measure_table(OPENVINO, plan, budget_s=1e9, path=tmp_path / "t.json", engines_dir=tmp_path / "engines")
        assert len(table.engines) == 1 and any(block.family == REST for block in table.blocks)
        assert {path.name.split("_")[0] for path in (tmp_path / "engines").iterdir()} >= {"rest"}
        assert Predictor(table).latency_ms(small, (64, 64)) > 0


@pytest.mark.slow
class TestAotInductor:
    @pytest.fixture(autouse=True)
    def _compiler(self):
        from export.compiler import check_compiler

        try:
            check_compiler("cpu")
        except TargetError as error:
            pytest.skip(str(error))

    def test_a_block_through_the_same_contract(self):
        block = Block("conv 3x3/1", (8, 8, 4, 4, 1))
        with block_call(block, AOTI, copies=2) as (call, info):
            assert info.name == "aoti" and info.provider == "cpu"
            assert time_call(call, seconds=0.01).median_ms > 0
