"""What the tests of the student share."""

import math
from collections.abc import Sequence
from types import SimpleNamespace

import torch
from hypothesis import settings

from jdnas.models.weights import State, axes_of
from jdnas.spec import FAMILIES, DetectorSpec
from jdnas.student.actions import ActionRules, group_width_of, prunable_widths
from tests.models.specs import QUICK, SIZE_HW, images, loaded

FAMILY_NAMES = sorted(FAMILIES)
FEW = settings(QUICK, max_examples=3)  # per family
RULES = ActionRules(width_step=2, min_width=2)
HEAD_RULES = ActionRules(width_step=2, min_width=2, heads=True, head_ratios=(0.25, 0.5), min_proposals=2)


def gradients(spec: DetectorSpec, state: State, seed: int) -> State:
    """Compute the losses and go back from them; return the gradients by name."""
    detector = loaded(spec, state).train()
    truth = SimpleNamespace(
        boxes_xyxy=torch.tensor([[[4.0, 4.0, 40.0, 36.0]], [[20.0, 10.0, 90.0, 60.0]]]),
        labels=torch.ones(2, 1, dtype=torch.int64),
        valid=torch.ones(2, 1, dtype=torch.bool),
    )
    sizes = torch.tensor([SIZE_HW, SIZE_HW])
    output = detector.losses(images(seed=seed), sizes, truth, torch.Generator().manual_seed(seed))
    loss = torch.stack(list(output.terms.values())).sum()
    loss.backward()
    assert loss.isfinite()
    return {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}


def silence_channels(state: State, spec: DetectorSpec, axis: str, channels: Sequence[int]) -> None:
    """Zero gamma and beta of some channels (of whole groups, in grouped axes) in every norm that writes them."""
    for name, axes in axes_of(spec).items():
        if name.endswith(("norm.weight", "norm.bias")) and axes[0] is not None and axes[0].name == axis:
            state[name].view(axes[0].width, -1)[list(channels)] = 0


def width_steps(spec: DetectorSpec) -> dict[str, int]:
    """Return the channels that one step of pruning takes off each prunable width."""
    return {width: math.lcm(RULES.width_step, group_width_of(spec, width)) for width in prunable_widths(spec)}
