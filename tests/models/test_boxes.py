import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

from jdnas.models.anchors import base_anchors, pyramid_anchors
from jdnas.models.boxes import MAX_LOG_SCALE, ROI_WEIGHTS, RPN_WEIGHTS, at_least, clip, decode, encode, pairwise_iou, take
from jdnas.spec import Head


def random_boxes(*shape, seed=0, low=1.0, high=60.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * 100
    return torch.cat((corner, corner + low + torch.rand(*shape, 2, generator=generator) * (high - low)), -1)


def test_iou_of_hand_worked_pairs():
    first = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    second = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 10, 20, 20]])
    torch.testing.assert_close(pairwise_iou(first, second), torch.tensor([[1.0, 50 / 150, 0.0], [0, 0, 0]]))


def test_iou_equals_torchvision_bit_for_bit_and_takes_batches():
    first, second = random_boxes(2, 30, seed=1), random_boxes(2, 40, seed=2)
    found = pairwise_iou(first, second)
    for row in range(2):
        assert torch.equal(found[row], box_iou(first[row], second[row]))
    assert pairwise_iou(first.half(), second.half()).dtype == torch.float32


@pytest.mark.parametrize("weights", [RPN_WEIGHTS, ROI_WEIGHTS])
def test_decode_and_encode_equal_torchvision(weights):
    coder = BoxCoder((weights[0], weights[0], weights[1], weights[1]))
    boxes, targets = random_boxes(50, seed=3), random_boxes(50, seed=4)
    deltas = torch.randn(50, 4, generator=torch.Generator().manual_seed(5)) * 3
    torch.testing.assert_close(decode(deltas, boxes, weights), coder.decode_single(deltas, boxes), atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(encode(targets, boxes, weights), coder.encode_single(targets, boxes), atol=1e-6, rtol=1e-6)


def test_decode_moves_and_scales_by_hand():
    box = torch.tensor([10.0, 10, 30, 50])
    # Half a width to the right, and twice as high.
    moved = decode(torch.tensor([0.5, 0, 0, math.log(2)]), box, RPN_WEIGHTS)
    torch.testing.assert_close(moved, torch.tensor([20.0, -10, 40, 70]))
    grown = decode(torch.tensor([0.0, 0, 99, 99]), box, RPN_WEIGHTS)
    torch.testing.assert_close(grown[2] - grown[0], torch.tensor(20 * math.exp(MAX_LOG_SCALE)))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_decode_inverts_encode(seed):
    boxes, targets = random_boxes(20, seed=seed), random_boxes(20, seed=seed + 1)
    for weights in (RPN_WEIGHTS, ROI_WEIGHTS):
        torch.testing.assert_close(decode(encode(targets, boxes, weights), boxes, weights), targets, atol=1e-3, rtol=1e-4)


def test_clip_uses_the_size_of_each_image():
    boxes = torch.tensor([[-5.0, -5, 500, 500]]).expand(2, 1, 4)
    found = clip(boxes, torch.tensor([[30, 40], [50, 20]]))
    assert found.tolist() == [[[0, 0, 40, 30]], [[0, 0, 20, 50]]]


def test_small_and_non_finite_boxes_are_refused():
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 0.5], [0, 0, math.nan, 9], [math.inf, 0, math.inf, 9]])
    assert at_least(boxes, 1.0).tolist() == [True, False, False, False]


def test_take_picks_rows_per_image_and_clamps():
    values = torch.arange(12).reshape(2, 3, 2)
    found = take(values, torch.tensor([[2, 0], [1, 99]]))
    assert found.tolist() == [[[4, 5], [0, 1]], [[8, 9], [10, 11]]]


def test_base_anchors_are_rounded_boxes_of_the_size():
    assert base_anchors(32, (0.5, 1.0, 2.0)).tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]


@pytest.mark.parametrize("rounded", [True, False])
def test_anchors_of_several_scales_equal_torchvisions(rounded):
    sizes, ratios = (32, 64, 128), (0.5, 1.0, 2.0)
    found = base_anchors(32, ratios, [size / 32 for size in sizes], rounding=rounded)
    reference = AnchorGenerator((sizes,), (ratios,)).generate_anchors(sizes, ratios)
    torch.testing.assert_close(torch.from_numpy(found), reference if rounded else torch.from_numpy(found))
    area = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
    assert area.tolist() == pytest.approx([size**2 for _ in ratios for size in sizes], rel=0.06 if rounded else 1e-6)


def test_anchor_steps_follow_the_canvas_as_in_torchvision():
    # 800 rows give 13 rows of P6, 61 pixels apart, although its nominal stride is 64.
    head = Head(strides=(32,), anchor_sizes=(512,), anchor_ratios=(1.0,))
    anchors = pyramid_anchors(((13, 21),), (800, 1344), head, device=torch.device("cpu"))
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centers[:2].tolist() == [[0, 0], [64, 0]]
    assert centers[21].tolist() == [0, 61]
    assert anchors.dtype == torch.float32


def test_exact_anchors_are_those_of_detectron2_and_mmdetection():
    """Area s², ratio r = h / w: w = s / sqrt(r); centers at whole strides; nothing rounded."""
    anchors = pyramid_anchors(
        ((25, 42), (13, 21)), (100, 168), Head(strides=(4, 8), anchor_sizes=(32, 64), round_anchors=False), device=torch.device("cpu")
    ).numpy()
    half_w, half_h = 32 / 0.5**0.5 / 2, 32 * 0.5**0.5 / 2
    np.testing.assert_allclose(anchors[0], [-half_w, -half_h, half_w, half_h], rtol=1e-6)
    np.testing.assert_allclose(anchors[3 * (42 + 2) + 1], [8 - 16, 4 - 16, 8 + 16, 4 + 16])
    # 25 rows halve to 13: the stride stays 8, where torchvision has 100 // 13 = 7.
    last = anchors[-2]
    np.testing.assert_allclose((last[:2] + last[2:]) / 2, [20 * 8, 12 * 8])


def test_anchor_centers_can_start_half_a_stride_inside():
    head = Head(strides=(4,), anchor_sizes=(4,), anchor_ratios=(1.0,), round_anchors=False, anchor_offset=0.5)
    anchors = pyramid_anchors(((2, 2),), (8, 8), head, device=torch.device("cpu"))
    assert anchors.tolist() == [[0, 0, 4, 4], [4, 0, 8, 4], [0, 4, 4, 8], [4, 4, 8, 8]]
