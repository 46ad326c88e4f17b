"""What the tests of the student share."""

from types import SimpleNamespace

import torch

from jdnas.models.weights import State
from jdnas.spec import FAMILIES, DetectorSpec
from jdnas.student.actions import ActionRules
from tests.models.specs import SIZE_HW, images, loaded

FAMILY_NAMES = sorted(FAMILIES)
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
