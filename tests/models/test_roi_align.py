import math

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

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


@pytest.mark.parametrize("form", ["levels", "bags", "gather", "atlas"])
def test_pooling_equals_torchvision(form, expected):
    atol = 1e-4 if form == "atlas" else 1e-5  # coordinates in the atlas are larger and have fewer digits behind the point
    torch.testing.assert_close(pool_rois(pyramid(), boxes_of_all_kinds(), form), expected, atol=atol, rtol=0)


def test_gathering_in_parts_gives_the_same(expected):
    found = pool_rois(pyramid(), boxes_of_all_kinds(), "gather", values_at_once=49 * 16 * 5 * 7)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_eager_form_is_exact_for_any_sampling():
    maps, boxes = pyramid(batch=1, channels=2), boxes_of_all_kinds(batch=1, count=8)
    assert torch.equal(pool_rois(maps, boxes, "eager"), pool_rois(maps, boxes, "bags"))
    assert torch.equal(pool_rois(maps, boxes, "eager", sampling=0), pool_rois(maps, boxes, "levels", sampling=0))


def test_boxes_of_area_224_squared_come_from_p4():
    sides = torch.tensor([0.0, 56, 111, 112, 223, 224, 447, 448, 2000])
    boxes = torch.stack((torch.zeros(9), torch.zeros(9), sides, sides), -1)
    assert level_index(boxes).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_gradients_of_all_forms_agree():
    boxes = boxes_of_all_kinds(count=20)
    weight = torch.randn(2, 26, 5, 7, 7, generator=torch.Generator().manual_seed(2))
    found = []
    for form in ("levels", "bags", "gather", "atlas"):
        maps = [features.requires_grad_() for features in pyramid()[:4]]
        found.append(torch.autograd.grad((pool_rois(maps, boxes, form) * weight).sum(), maps))
    for by_level, *others in zip(*found, strict=True):
        assert by_level.abs().sum() > 0
        for other in others:
            torch.testing.assert_close(other, by_level, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", ["gather", "atlas"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_non_finite_boxes_only_spoil_themselves(bad, form):
    boxes = boxes_of_all_kinds(count=4)
    clean = pool_rois(pyramid(), boxes, form)
    boxes[0, 1, 2] = bad
    found = pool_rois(pyramid(), boxes, form)
    rest = torch.ones(2, 10, dtype=torch.bool)
    rest[0, 1] = False
    assert torch.equal(found[rest], clean[rest])


@pytest.mark.parametrize("form", ["levels", "bags", "gather", "atlas"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_maps_keep_their_type_and_do_not_round_boxes(form, dtype):
    found = pool_rois(pyramid(dtype=dtype), boxes_of_all_kinds(), form)
    assert found.dtype == dtype
    exact = pool_rois([features.float() for features in pyramid(dtype=dtype)], boxes_of_all_kinds(), "levels")
    torch.testing.assert_close(found.float(), exact, atol=0.03, rtol=0.02)


def by_hand(features, box, scale, aligned):
    """RoIAlign of one box as Detectron2 and mmcv define it, sample by sample: as many samples as the bin has pixels, rounded up."""
    channels, height, width = features.shape
    shift = 0.5 if aligned else 0.0
    x0, y0, x1, y1 = (float(side) * scale - shift for side in box)
    across, down = (x1 - x0, y1 - y0) if aligned else (max(x1 - x0, 1.0), max(y1 - y0, 1.0))
    nx, ny = math.ceil(across / 7), math.ceil(down / 7)
    pooled = torch.zeros(channels, 7, 7)
    for row in range(7):
        for column in range(7):
            for i in range(ny):
                for j in range(nx):
                    y, x = y0 + (row + (i + 0.5) / ny) * down / 7, x0 + (column + (j + 0.5) / nx) * across / 7
                    if not (-1 <= y <= height and -1 <= x <= width):
                        continue
                    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
                    top, left = int(y), int(x)
                    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
                    v, h = y - top, x - left
                    pooled[:, row, column] += (
                        (1 - v) * ((1 - h) * features[:, top, left] + h * features[:, top, right])
                        + v * ((1 - h) * features[:, bottom, left] + h * features[:, bottom, right])
                    ) / (nx * ny)
    return pooled


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("form", ["levels", "bags", "gather", "atlas"])
def test_as_many_samples_as_pixels(form, aligned):
    boxes = torch.tensor([[[0.0, 0, 40, 30], [3.3, 250.7, 111.9, 333.3], [-5, -5, 180, 90], [100, 20, 640, 512], [200, 200, 200, 260]]])
    if form == "atlas":  # takes boxes within the canvas only
        boxes = boxes.clamp(min=0)
    maps = pyramid(batch=1, channels=2)
    found = pool_rois(maps, boxes, form, sampling=0, aligned=aligned)
    for row, (box, level) in enumerate(zip(boxes[0], level_index(boxes)[0], strict=True)):
        expected = by_hand(maps[level][0], box, 1 / 2 ** (int(level) + 2), aligned)
        torch.testing.assert_close(found[0, row], expected, atol=1e-4, rtol=0)


def test_aligned_boxes_with_two_samples():
    boxes = boxes_of_all_kinds(count=20)
    by_level, *others = (pool_rois(pyramid(), boxes, form, aligned=True) for form in ("levels", "bags", "gather", "atlas"))
    for other in others:
        torch.testing.assert_close(other, by_level, atol=1e-4, rtol=0)
    assert (by_level - pool_rois(pyramid(), boxes, "levels")).abs().max() > 0.1


def test_more_samples_than_the_limit_are_spread_over_the_bin():
    flat = [torch.ones(1, 1, 512 // 2**level, 640 // 2**level) for level in range(2, 7)]
    boxes = torch.tensor([[[0.0, 0, 640, 16]]])  # 160 pixels of P2 wide: 23 samples per bin
    torch.testing.assert_close(pool_rois(flat, boxes, "gather", sampling=0, limit=4), torch.ones(1, 1, 1, 7, 7))
