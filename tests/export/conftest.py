"""One small detector, exported once for all tests of this folder."""

from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor

import export.tensorrt_api as tensorrt_api
from export.artifact import ArtifactInfo
from export.graph import detector_graph, export_onnx, write_artifact
from jdnas.models.detector import Detector, build
from jdnas.spec import DetectorSpec, Head, Stage
from tests.export.fake_tensorrt import fake_tensorrt
from tests.export.host_device import HostDevice

CANVAS_HW = (64, 96)
CLASSES = ("circle", "square", "triangle")


@dataclass(frozen=True)
class TinyEngine:
    spec: DetectorSpec
    state: dict[str, Tensor]
    detector: Detector
    path: Path
    size_hw: tuple[int, int]
    classes: tuple[str, ...]


def _tiny_spec() -> DetectorSpec:
    head = Head(width=16, rpn_width=8, anchor_sizes=(8, 16, 32, 64, 128), candidates=50, proposals=50, detections=20)
    return DetectorSpec("resnet_basic", 8, tuple(Stage(width, (width,)) for width in (8, 8, 16, 16)), len(CLASSES), neck=8, head=head)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyEngine:
    torch.manual_seed(0)
    spec = _tiny_spec()
    detector = build(spec).eval()
    _spread_out(detector)
    path = tmp_path_factory.mktemp("engine") / "tiny.onnx"
    state = detector.state_dict()
    export_onnx(state, spec, size_hw=CANVAS_HW, batch=2, path=path, classes=CLASSES, provenance={"run": "test"})
    return TinyEngine(spec, state, detector, path, CANVAS_HW, CLASSES)


@pytest.fixture(scope="session")
def tiny_half(tiny: TinyEngine, tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """The same detector in fp16."""
    graph = detector_graph(tiny.state, tiny.spec, size_hw=tiny.size_hw, batch=2, precision="fp16")
    info = ArtifactInfo(tiny.spec, tiny.classes, tiny.size_hw, 2, "fp16", {})
    return onnx.load(write_artifact(graph, info, tmp_path_factory.mktemp("half") / "half.onnx"))


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Install a stand-in of a version on a machine with a GPU, and return it."""
    monkeypatch.setenv("JDNAS_ENGINE_CACHE", str(tmp_path / "cache"))

    def with_version(version, *, name="NVIDIA L4", capability=(8, 9), **settings):
        trt = fake_tensorrt(version, **settings)
        device = type("Device", (HostDevice,), {"name": name, "capability": capability})
        monkeypatch.setitem(tensorrt_api._IMPORTS, "tensorrt", lambda: trt)
        monkeypatch.setattr("export.tensorrt_session.CudaDevice", device)
        monkeypatch.setattr("export.tensorrt_engine.CudaDevice", device)
        monkeypatch.setattr("export.cuda_device.CudaDevice", device)
        return trt

    return with_version


@torch.no_grad()
def _spread_out(detector: Detector) -> None:
    """Make norms that matter and predictions that differ, as training would."""
    for name, tensor in detector.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    for layer, std in ((detector.rpn.objectness, 0.5), (detector.rpn.deltas, 0.1), (detector.box_head.class_logits, 1.0)):
        layer.weight.normal_(std=std)
    detector.box_head.box_deltas.weight.normal_(std=0.2)
