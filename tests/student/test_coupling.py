"""Torch-Pruning's dependency groups, found by tracing, are the oracle for the table of named axes."""

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jdnas.models.detector import Detector, build
from jdnas.models.weights import axes_of
from jdnas.spec import DetectorSpec
from tests.models.specs import SIZE_HW, plain_spec
from tests.student.helpers import FAMILY_NAMES

tp = pytest.importorskip("torch_pruning")

# Axes whose order means something outside the network: nothing of them is pruned.
FIXED = {"image", "anchors", "anchor_deltas", "class_logits", "class_deltas"}


class _Traced(nn.Module):
    """The detector with RoIAlign replaced by pooling, which couples channels alike and can be traced."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> list[Tensor]:
        detector = self.detector
        pyramid = detector.features(images)
        # All levels have the same readers, so one reader of their sum couples them as the network does.
        level = torch.stack([F.adaptive_avg_pool2d(level, 7) for level in pyramid]).sum(0)
        hidden = F.relu(detector.rpn.conv(level))
        head = detector.box_head
        x = F.relu(head.fc7(F.relu(head.fc6(level.flatten(1)))))
        return [detector.rpn.objectness(hidden), detector.rpn.deltas(hidden), head.class_logits(x), head.box_deltas(x)]


def _groups(spec: DetectorSpec) -> set[frozenset[str]]:
    """Return Torch-Pruning's groups, each as the set of its `weight:dimension`."""
    detector = build(spec).eval()
    names = {module: name for name, module in detector.named_modules()}
    heads = [detector.rpn.objectness, detector.rpn.deltas, detector.box_head.class_logits, detector.box_head.box_deltas]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = tp.DependencyGraph().build_dependency(_Traced(detector), torch.zeros(1, 3, *SIZE_HW))
        found = set()
        for group in graph.get_all_groups(ignored_layers=heads):
            members = set()
            for dependency, _ in group:
                module = dependency.target.module
                if module in names and isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                    # What a depthwise or grouped convolution reads lies in its first dimension too.
                    whole = isinstance(module, nn.BatchNorm2d) or (isinstance(module, nn.Conv2d) and module.groups > 1)
                    reads = graph.is_in_channel_pruning_fn(dependency.handler)
                    members.add(f"{names[module]}.weight:{int(reads and not whole)}")
            found.add(frozenset(members))
    return found


def _table(spec: DetectorSpec) -> dict[str, frozenset[str]]:
    """Return the axes of the table, each as the set of its `weight:dimension`."""
    members: dict[str, set[str]] = {}
    for name, axes in axes_of(spec).items():
        for dim, axis in enumerate(axes):
            if axis is not None and name.endswith("weight") and axis.name not in FIXED:
                members.setdefault(axis.name, set()).add(f"{name}:{dim}")
    return {axis: frozenset(found) for axis, found in members.items()}


def _spec(family: str, **extras: Any) -> DetectorSpec:
    """Return a spec of two blocks a stage and two groups in every grouped convolution."""
    spec = replace(plain_spec(family, width=8, depth=2), **extras)
    groups = zip(spec.stages, spec.traits.group_widths, strict=True)
    return spec.with_stages(tuple(replace(stage, inner=(2 * g,) * 2) if g else stage for stage, g in groups))


def _merged(groups: set[frozenset[str]]) -> set[frozenset[str]]:
    """Merge groups that share a member."""
    merged: list[set[str]] = []
    for group in groups:
        touching = [other for other in merged if other & group]
        merged = [other for other in merged if not other & group] + [set(group).union(*touching)]
    return {frozenset(group) for group in merged}


CASES = [*(_spec(family) for family in FAMILY_NAMES), _spec("mobilenet_v2", tail=8), _spec("resnet_bottleneck", neck_norm=True)]


@pytest.mark.parametrize("spec", CASES, ids=lambda spec: f"{spec.family}{'-tail' * bool(spec.tail)}{'-norm' * spec.neck_norm}")
def test_named_axes_are_the_groups_that_tracing_finds(spec: DetectorSpec) -> None:
    """One difference, in grouped convolutions.

    Torch-Pruning keeps the number of groups and takes as many channels out of each one, on either side by itself; we take whole
    groups, which have to go on both sides at once. So one axis of ours is two groups there, with the convolution in both.
    """
    groups = _groups(spec)
    grouped = [index for index, width in enumerate(spec.traits.group_widths) if width]
    assert (_merged(groups) != groups) == bool(grouped)
    assert set(_table(spec).values()) == _merged(groups)
    assert len(groups) - len(_merged(groups)) == sum(spec.depths[index] for index in grouped)
