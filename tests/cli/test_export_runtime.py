"""`jdnas export --runtime`: what runs here is compared, what does not is built and said not to have run."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from export.artifact import ArtifactInfo
from export.forms import forms_for
from export.tensors import load_graph, properties_of
from jdnas.models.detector import build
from jdnas.spec import DetectorSpec, Head, Stage
from jdnas.training.checkpoint import save_detector

HEAD = Head(width=16, rpn_width=8, anchor_sizes=(8, 16, 32, 64, 128), candidates=50, proposals=50, detections=20)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    spec = DetectorSpec("resnet_basic", 8, tuple(Stage(8, (8,)) for _ in range(4)), 2, neck=8, head=HEAD)
    save_detector(tmp_path / "small", spec, build(spec).state_dict(), {"size_hw": [64, 64], "classes": ["a", "b"]})
    return tmp_path / "small.safetensors"


def test_onnx_for_openvino_is_compared_there(jdnas, weights: Path) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    out = jdnas("export", weights, "--out", "small.onnx", "--runtime", "openvino").out
    assert "small.onnx: 64x64, batch 1" in out and "not run" not in out
    info = ArtifactInfo.from_properties(properties_of(load_graph(Path("small.onnx"), "x")), "x")
    assert info.forms == asdict(forms_for("openvino")) and info.precision == "fp32"


@pytest.mark.tensorrt
def test_an_engine_for_a_gpu_that_is_not_here_is_built_and_not_run(jdnas, weights: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
    said = jdnas("export", weights, "--out", "small.engine", "--runtime", "tensorrt-rtx", "--compute-capability", "8.9").out
    assert "small.onnx: 64x64, batch 1" in said
    assert "small.engine: tensorrt-rtx" in said and "fp32, for SM89, built in" in said
    assert "built, not run:" in said
    record = json.loads(Path("small.engine.json").read_text())
    assert (record["status"], record["capability"], record["runtime"]) == ("built, not run", "SM89", "tensorrt-rtx")
    assert record["properties"]["jdnas.classes"] == '["a", "b"]'


def test_what_does_not_fit(jdnas, weights: Path) -> None:
    assert "unknown runtime 'tvm'; known: aoti," in jdnas("export", weights, "--out", "x.onnx", "--runtime", "tvm").error
    assert "--out must end in .pt2 for --runtime aoti, got x.onnx" in jdnas("export", weights, "--out", "x.onnx", "--runtime", "aoti").error
    assert "--out must end in .engine or .plan" in jdnas("export", weights, "--out", "x.onnx", "--runtime", "tensorrt").error
    assert (
        "--compute-capability is for --runtime tensorrt-rtx"
        in jdnas("export", weights, "--out", "x.onnx", "--compute-capability", "8.9").error
    )
    assert "leave out one of the two" in jdnas("export", weights, "--out", "x.onnx", "--runtime", "openvino", "--triton", "r").error
    auto = jdnas("export", weights, "--out", "x.onnx", "--runtime", "openvino", "--precision", "auto").error
    assert "--precision auto measures on the target cpu-ort, which runs ort-cpu and not openvino" in auto
    assert not list(Path().iterdir())
