from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from jdnas.distill.adapters import identity_adapter
from jdnas.distill.imitation import imitation_loss, imitation_masks
from jdnas.models.anchors import base_anchors
from jdnas.spec import Head

HEAD = replace(Head(), strides=(4, 8), anchor_sizes=(8, 16), anchor_ratios=(0.5, 1.0))
MAPS = [(8, 8), (4, 4)]


def iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(0.0, width) * max(0.0, height)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return inside / (area - inside)


def slow_masks(truth: list[list[list[float]]]) -> list[torch.Tensor]:
    """Straight from the paper: threshold half of the largest overlap of each object, union over objects and anchors of a point."""
    masks = [torch.zeros(len(truth), *hw, dtype=torch.bool) for hw in MAPS]
    for image, boxes in enumerate(truth):
        for box in boxes:
            overlaps = []
            for level, (height, width) in enumerate(MAPS):
                for y in range(height):
                    for x in range(width):
                        for anchor in base_anchors(HEAD.anchor_sizes[level], HEAD.anchor_ratios).tolist():
                            stride = 32 // height
                            moved = [anchor[0] + x * stride, anchor[1] + y * stride, anchor[2] + x * stride, anchor[3] + y * stride]
                            overlaps.append((iou(moved, box), level, y, x))
            limit = 0.5 * max(overlap for overlap, *_ in overlaps)
            for overlap, level, y, x in overlaps:
                if overlap > limit:
                    masks[level][image, y, x] = True
    return masks


def test_masks_follow_the_paper() -> None:
    truth = [[[2.0, 3.0, 12.0, 9.0], [14.0, 14.0, 31.0, 30.0]], [[20.0, 1.0, 27.0, 8.0]]]
    padded = torch.tensor([truth[0], [*truth[1], [0.0] * 4]])
    valid = torch.tensor([[True, True], [True, False]])
    found = imitation_masks(MAPS, HEAD, padded, valid)
    assert all(torch.equal(mask, slow) for mask, slow in zip(found, slow_masks(truth), strict=True))
    assert all(mask.any() for mask in found)


def test_images_without_objects_have_nothing_to_imitate() -> None:
    masks = imitation_masks(MAPS, HEAD, torch.zeros(1, 1, 4), torch.tensor([[False]]))
    assert not any(mask.any() for mask in masks)
    student = [torch.randn(1, 2, *hw, requires_grad=True) for hw in MAPS]
    loss = imitation_loss(student, [torch.randn(1, 2, *hw) for hw in MAPS], masks, identity_adapter(2, 2, 3))
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("kernel", [1, 3])
def test_loss_follows_the_equation(kernel: int) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = ([torch.randn(2, c, *hw, generator=generator) for hw in MAPS] for c in (3, 4))
    masks = [torch.rand(2, *hw, generator=generator) > 0.6 for hw in MAPS]
    adapter = torch.randn(4, 3, kernel, kernel, generator=generator)
    total, points = 0.0, 0
    for features, target, mask in zip(student, teacher, masks, strict=True):
        adapted = F.conv2d(features, adapter, padding=kernel // 2)
        for b, y, x in mask.nonzero().tolist():
            points += 1
            total += sum((float(adapted[b, c, y, x]) - float(target[b, c, y, x])) ** 2 for c in range(4))
    assert imitation_loss(student, teacher, masks, adapter).item() == pytest.approx(total / (2 * points), rel=1e-5)


def test_equal_pyramids_have_no_loss() -> None:
    maps = [torch.randn(1, 2, *hw) for hw in MAPS]
    masks = [torch.ones(1, *hw, dtype=torch.bool) for hw in MAPS]
    for normalize in (False, True):
        assert imitation_loss(maps, maps, masks, identity_adapter(2, 2, 3), normalize=normalize).item() == pytest.approx(0, abs=1e-9)
