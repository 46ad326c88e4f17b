import io
import re
from contextlib import redirect_stdout

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latency.benchmark import benchmark
from latency.profiling import profile_engine, read_trace
from latency.targets import load_target

CPU = load_target("cpu-ort")


def node(name, operator, micros):
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": micros, "args": {"op_name": operator}}


def test_trace_by_hand():
    runs = [[("a", "Conv", 9000), ("b", "Add", 100)], [("a", "Conv", 2000), ("b", "Add", 50)], [("a", "Conv", 4000), ("b", "Add", 60)]]
    events = [{"cat": "Session", "name": "model_loading", "dur": 77}]
    for index, run in enumerate(runs):
        events += [*(node(*layer) for layer in run), {"cat": "Session", "name": "model_run", "dur": 10_000 * (index + 1)}]
    profile = read_trace(events, skip=1)
    assert [(x.name, x.operator, x.latency_ms) for x in profile.layers] == [("a", "Conv", 3.0), ("b", "Add", 0.055)]
    assert profile.run_ms == 25.0
    assert profile.by_operator() == {"Conv": 3.0, "Add": 0.055}
    assert read_trace([], skip=1).layers == ()


@pytest.fixture
def heavy_engine(fake_engine):
    """The artifact that answers zeros, with two convolutions in front that take all of its time."""
    model = onnx.load(fake_engine)
    rng = np.random.default_rng(0)
    shapes = {"w0": (256, 3, 3, 3), "w1": (256, 256, 3, 3)}
    model.graph.initializer.extend(numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items())
    front = [helper.make_node("Conv", [read, f"w{i}"], [f"c{i}"], name=f"conv{i}", pads=[1] * 4) for i, read in enumerate(("images", "c0"))]
    for made in model.graph.node:
        made.input[:] = ["c1" if name == "images" else name for name in made.input]
    nodes = [*front, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path = fake_engine.with_name("heavy.onnx")
    onnx.save(model, path)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    return path


def test_layers_of_an_engine(heavy_engine):
    profile = profile_engine(heavy_engine, CPU)
    assert profile.layers[0].operator == "Conv"
    assert profile.layers[0].latency_ms > 5 * profile.layers[2].latency_ms
    assert profile.run_ms >= 0.8 * sum(layer.latency_ms for layer in profile.layers)


def test_agrees_with_the_tool_that_comes_with_onnxruntime(heavy_engine, tmp_path, monkeypatch):
    """`onnxruntime_test` times runs that copy, on as many threads as it likes, and prints the mean: a little more than our median."""
    from onnxruntime.tools.onnxruntime_test import run_model

    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    ratios = []
    for _ in range(5):
        printed = io.StringIO()
        with redirect_stdout(printed):
            run_model(str(heavy_engine), num_iters=60, feeds={
                "images": np.zeros((1, 3, 32, 64), np.float32), "sizes_hw": np.array([[32, 64]], np.int64)})  # fmt: skip
        theirs = float(re.search(r"avg latency: ([\d.]+) ms", printed.getvalue())[1])
        ours = benchmark([heavy_engine], "cpu-ort", seconds=0.3).rows[0]
        ratios.append(1e3 / ours.throughput / theirs)
        if 0.67 < ratios[-1] < 1.5:
            return
    pytest.fail(f"mean over theirs: {ratios}")
