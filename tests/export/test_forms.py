"""Every form that an exporter may pick gives the same detections, and the file says which one it has."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import onnx
import pytest
import torch

from export.artifact import ArtifactInfo
from export.forms import forms_for
from export.graph import export_onnx
from export.parity import compare
from export.runners import open_runner, predictor
from export.runtimes import RUNTIMES
from export.tensors import properties_of
from jdnas.models.detector import build
from jdnas.models.forms import EXPORT
from jdnas.spec import DetectorSpec, Head, Stage


def detector_with(head):
    """A small detector that finds something in noise, of any head."""
    torch.manual_seed(0)
    spec = DetectorSpec("resnet_basic", 8, tuple(Stage(width, (width,)) for width in (8, 8, 16, 16)), 3, neck=8, head=head)
    detector = build(spec).eval()
    with torch.no_grad():
        for layer, std in ((detector.rpn.objectness, 0.5), (detector.rpn.deltas, 0.1)):
            layer.weight.normal_(std=std)
        for box_head in (detector.box_head, *detector.cascade):
            box_head.class_logits.weight.normal_(std=1.0)
            box_head.box_deltas.weight.normal_(std=0.2)
    return detector


HEAD = Head(width=16, rpn_width=8, anchor_sizes=(8, 16, 32, 64, 128), candidates=50, proposals=50, detections=20)


@pytest.mark.parametrize(
    ("head", "runtimes"),
    [
        pytest.param(HEAD, ("ort-cpu", "ort-cuda"), id="rcnn"),
        # What test_families leaves out: the form of one RoiAlign operator with the other heads.
        pytest.param(replace(HEAD, kind="cascade", convs=(8,), fcs=1), ("ort-cuda",), id="cascade", marks=pytest.mark.slow),
        pytest.param(replace(HEAD, roi_aligned=True, roi_sampling=0), ("ort-cuda",), id="detectron2", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_every_runtimes_forms_give_the_detectors_detections(head, runtimes, tmp_path):
    detector, size_hw = detector_with(head), (96, 64)
    noise = torch.Generator().manual_seed(1)
    sizes = torch.tensor([[96, 64], [70, 41]])
    batches = [SimpleNamespace(images=torch.randn(2, 3, *size_hw, generator=noise), sizes_hw=sizes) for _ in range(3)]
    for runtime in runtimes:
        forms = forms_for(runtime)
        path = export_onnx(
            detector.state_dict(), detector.spec, size_hw=size_hw, batch=2, path=tmp_path / "x.onnx", classes=("a", "b", "c"), forms=forms
        )
        graph = onnx.load(path)
        assert ArtifactInfo.from_properties(properties_of(graph), "x").forms == asdict(forms)
        operators = sum(node.op_type == "RoiAlign" for node in graph.graph.node)
        assert operators == (1 + len(detector.cascade) if forms.roi == "atlas" else 0)
        with open_runner(path, threads=1) as runner:
            result = compare(detector, predictor(runner), batches)
        assert result.passed and result.detections > 50, (forms.roi, result.message)


def test_only_runtimes_whose_roi_align_is_one_kernel_get_it():
    assert {name for name in RUNTIMES if forms_for(name).roi == "atlas"} >= {"ort-cuda"}
    assert forms_for("ort-cpu") == forms_for("tensorrt") == forms_for("tensorrt-rtx") == EXPORT  # TensorRT would need a plugin
