"""Torch-Pruning's dependency groups, found by tracing, are the oracle for the table of named axes."""

import warnings

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
                    reads = graph.is_in_channel_pruning_fn(dependency.handler) and not isinstance(module, nn.BatchNorm2d)
                    depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
                    members.add(f"{names[module]}.weight:{int(reads and not depthwise)}")
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


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_named_axes_are_the_groups_that_tracing_finds(family: str) -> None:
    spec = plain_spec(family, width=8, depth=2)
    table, groups = _table(spec), _groups(spec)
    for axis, members in table.items():
        print(axis, members in groups)
    extra = groups - set(table.values())
    print(extra)
    assert set(table.values()) == groups
