"""Torch-Pruning's BN-scale pruner on our detectors: what our channel ranking is held against."""

import copy

import torch
import torch_pruning as tp
from torch import Tensor, nn

from jdnas.models.complexity import multiply_adds
from jdnas.models.detector import Detector, build
from jdnas.models.weights import State, axes_of, check_state
from jdnas.spec import DetectorSpec
from jdnas.student.actions import prunable_widths, with_widths
from jdnas.student.importance import prunable_axes

BISECTIONS = 9


def _spec_of(state: State, spec: DetectorSpec) -> DetectorSpec:
    """Read the widths of a pruned state back into a spec."""
    entry_of: dict[str, tuple[str, int]] = {}
    for name, axes in axes_of(spec).items():
        for dim, axis in enumerate(axes):
            if axis is not None:
                entry_of.setdefault(axis.name, (name, dim))
    widths = {}
    for width, group in prunable_axes(spec).items():
        sizes = {state[entry_of[axis][0]].shape[entry_of[axis][1]] for axis in group}
        if len(sizes) > 1:
            raise ValueError(f"axes {group} were pruned to different widths {sorted(sizes)}, which a spec cannot say")
        widths[width] = sizes.pop()
    return with_widths(spec, {name: width for name, width in widths.items() if name in prunable_widths(spec)})


class _Trunk(nn.Module):
    """Backbone and neck: what the pruner traces. Heads read the neck, whose width stays."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.backbone, self.fpn = detector.backbone, detector.fpn

    def forward(self, images: Tensor) -> list[Tensor]:
        pyramid: list[Tensor] = self.fpn(self.backbone(images))
        return pyramid


def _pruned(spec: DetectorSpec, state: State, ratio: float, round_to: int) -> tuple[State, DetectorSpec]:
    detector = build(spec)
    detector.load_state_dict(copy.deepcopy(state))
    trunk = _Trunk(detector.eval())
    tp.pruner.BNScalePruner(
        trunk, torch.zeros(1, 3, 64, 64), importance=tp.importance.BNScaleImportance(), global_pruning=True, pruning_ratio=ratio,
        ignored_layers=[trunk.fpn], round_to=round_to,
    ).step()  # fmt: skip
    result = {name: tensor.detach().clone() for name, tensor in detector.state_dict().items()}
    smaller = _spec_of(result, spec)
    check_state(result, smaller)
    return result, smaller


def prune_to(
    spec: DetectorSpec, state: State, multiply_adds_goal: int, size_hw: tuple[int, int], *, round_to: int
) -> tuple[State, DetectorSpec]:
    """Prune with the share of channels whose multiply-adds come closest to the goal (bisection; they move in steps of widths)."""
    low, high = 0.0, 0.9
    best = (state, spec)

    def distance(found: DetectorSpec) -> int:
        return abs(multiply_adds(found, size_hw) - multiply_adds_goal)

    for _ in range(BISECTIONS):
        ratio = (low + high) / 2
        result = _pruned(spec, state, ratio, round_to)
        best = min(best, result, key=lambda pair: distance(pair[1]))
        if multiply_adds(result[1], size_hw) > multiply_adds_goal:
            low = ratio
        else:
            high = ratio
    return best
