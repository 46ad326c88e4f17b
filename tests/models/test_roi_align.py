import math

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from jdnas.models import roi_align
from jdnas.models.roi_align import level_index, pool_rois

CANVAS = (512, 640)


def pyramid(batch=2, channels=5, *, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, channels, CANVAS[0] // 2**level, CANVAS[1] // 2**level, generator=generator).to(dtype) for level in range(2, 7)
    ]


def boxes_of_all_kinds(batch=2, count=60, *, seed=1):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(batch, count, 2, generator=generator) * torch.tensor([CANVAS[1], CANVAS[0]])
    side = torch.exp(torch.randn(batch, count, 2, generator=generator) * 1.2 + 4.5)
    boxes = torch.cat((corner - side / 2, corner + side / 2), -1).clamp(min=0)
    boxes = torch.minimum(boxes, torch.tensor([CANVAS[1], CANVAS[0]] * 2).float())
    edges = torch.tensor([
        [0.0, 0, 0, 0],  # padding
        [0, 0, CANVAS[1], CANVAS[0]],
        [CANVAS[1] - 1, CANVAS[0] - 1, CANVAS[1], CANVAS[0]],
        [CANVAS[1] - 0.5, 0, CANVAS[1], CANVAS[0]],
        [0, 0, 0.25, 90],
        [10, 10, 10 + 112, 10 + 112],  # on the boundary between two levels
    ])  # fmt: skip
    return torch.cat((boxes, edges.expand(batch, *edges.shape)), 1)


@pytest.fixture
def expected():
    maps, boxes = pyramid(), boxes_of_all_kinds()
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    pooled = pool({str(level): features for level, features in enumerate(maps)}, list(boxes), [CANVAS] * 2)
    return pooled.reshape(2, -1, *pooled.shape[1:])


@pytest.mark.parametrize("form", ["levels", "gather"])
def test_pooling_equals_torchvision(form, expected):
    torch.testing.assert_close(pool_rois(pyramid(), boxes_of_all_kinds(), form), expected, atol=1e-5, rtol=0)


def test_gathering_in_parts_gives_the_same(monkeypatch, expected):
    monkeypatch.setattr(roi_align, "_GATHERED_AT_ONCE", 49 * 16 * 5 * 7)
    torch.testing.assert_close(pool_rois(pyramid(), boxes_of_all_kinds(), "gather"), expected, atol=1e-5, rtol=0)


def test_boxes_of_area_224_squared_come_from_p4():
    sides = torch.tensor([0.0, 56, 111, 112, 223, 224, 447, 448, 2000])
    boxes = torch.stack((torch.zeros(9), torch.zeros(9), sides, sides), -1)
    assert level_index(boxes).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_gradients_of_both_forms_agree():
    boxes = boxes_of_all_kinds(count=20)
    weight = torch.randn(2, 26, 5, 7, 7, generator=torch.Generator().manual_seed(2))
    found = []
    for form in ("levels", "gather"):
        maps = [features.requires_grad_() for features in pyramid()[:4]]
        found.append(torch.autograd.grad((pool_rois(maps, boxes, form) * weight).sum(), maps))
    for by_level, gathered in zip(*found, strict=True):
        assert by_level.abs().sum() > 0
        torch.testing.assert_close(by_level, gathered, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_non_finite_boxes_only_spoil_themselves(bad):
    boxes = boxes_of_all_kinds(count=4)
    clean = pool_rois(pyramid(), boxes, "gather")
    boxes[0, 1, 2] = bad
    found = pool_rois(pyramid(), boxes, "gather")
    rest = torch.ones(2, 10, dtype=torch.bool)
    rest[0, 1] = False
    assert torch.equal(found[rest], clean[rest])


@pytest.mark.parametrize("form", ["levels", "gather"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_maps_keep_their_type_and_do_not_round_boxes(form, dtype):
    found = pool_rois(pyramid(dtype=dtype), boxes_of_all_kinds(), form)
    assert found.dtype == dtype
    exact = pool_rois([features.float() for features in pyramid(dtype=dtype)], boxes_of_all_kinds(), "levels")
    torch.testing.assert_close(found.float(), exact, atol=0.03, rtol=0.02)
