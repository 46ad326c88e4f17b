"""Families and heads as ONNX files: standard operators, static shapes, the detections of the eager detector."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from export.graph import export_onnx
from export.parity import compare
from export.runners import open_runner, predictor
from jdnas.models.detector import build
from jdnas.spec import DetectorSpec, Head
from tests.models.specs import plain_spec

HEAD = Head(width=16, rpn_width=8, anchor_sizes=(8, 16, 32, 64, 128), candidates=50, proposals=40, detections=20)
SIZE_HW = (64, 96)
CASCADE = replace(HEAD, kind="cascade", convs=(8,), fcs=1)
TWICE = replace(HEAD, strides=(32, 32, 64), anchor_sizes=(32,) * 3, anchor_scales=(1.0, 2.0), rpn_convs=2, rpn_score_threshold=0.02)
IMAGES = 50
BATCHES = {"resnet_bottleneck": 8}
EXTRAS = {
    "resnext_4d": {"deformable": (3,), "modulated": True, "head": CASCADE, "neck_norm": True},
    "mobilenet_v3": {"tail": 16, "head": TWICE},
}


def _spec(family: str) -> DetectorSpec:
    return replace(plain_spec(family, width=8, depth=1), num_classes=2, neck=8, **{"head": HEAD, **EXTRAS.get(family, {})})


@pytest.mark.parametrize(
    "family",
    ["resnext_4d", "mobilenet_v3", "efficientnet_lite", "resnet_bottleneck", pytest.param("mobilenet_v2", marks=pytest.mark.slow)],
)
@torch.no_grad()
def test_an_engine_finds_what_the_detector_finds(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = build(_spec(family)).eval()
    for name, tensor in detector.state_dict().items():
        if ".offset." in name:
            tensor.normal_(std=0.5)
        elif name.endswith(("norm.weight", "running_var")):
            tensor.uniform_(0.5, 1.5)
        elif "class_logits.weight" in name or "rpn.objectness.weight" in name:
            tensor.normal_(std=0.8)
        elif name.startswith("rpn.") and name.endswith("weight"):  # hidden units that are 0 everywhere would make scores tie
            tensor.normal_(std=0.3)
        elif name.startswith("rpn.") and name.endswith("bias"):
            tensor.uniform_(0.2, 1.0)
    size = BATCHES.get(family, 1)
    path = export_onnx(detector.state_dict(), detector.spec, size_hw=SIZE_HW, batch=size, path=tmp_path / "model.onnx", classes=("a", "b"))
    noise = torch.Generator().manual_seed(1)
    batches = [
        SimpleNamespace(
            images=torch.randn(size, 3, *SIZE_HW, generator=noise), sizes_hw=torch.tensor([[60 - at, 90] for at in range(size)])
        )
        for _ in range(-(-IMAGES // size))
    ]
    assert all(int(detector(batch.images, batch.sizes_hw).count.sum()) > 3 for batch in batches)
    with open_runner(path) as runner:
        results = [compare(detector, predictor(runner), [batch]) for batch in batches]
    # Overlaps of random boxes can lie on a threshold to the last bit; then another box survives suppression.
    wrong = [result.message for result in results if not result.passed]
    assert len(wrong) <= 1, wrong
    assert sum(result.images for result in results) >= IMAGES and all(result.moved < 0.2 for result in results)
