"""A detector of a few thousand weights, and its engine."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from export.graph import export_onnx
from jdnas.models.detector import build
from jdnas.presets import preset, scale_backbone
from jdnas.training.checkpoint import save_detector

CLASSES = ("circle", "square")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write tiny.safetensors (with tiny.json) and tiny.onnx; return the first."""
    spec = scale_backbone(preset("r18", len(CLASSES)), 0.125)
    head = replace(spec.head, width=16, rpn_width=8, proposals=16, candidates=30, anchor_sizes=(8, 16, 32, 48, 64), score_threshold=0.0)
    spec = replace(spec, neck=8, head=head)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = build(spec).state_dict()
    stem = tmp_path_factory.mktemp("tiny") / "tiny"
    save_detector(stem, spec, state, {"classes": list(CLASSES), "size_hw": [64, 96]})
    export_onnx(state, spec, size_hw=(64, 96), batch=1, path=stem.with_suffix(".onnx"), classes=CLASSES, provenance={})
    return stem.with_suffix(".safetensors")
