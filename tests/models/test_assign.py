import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from jdnas.models import assign
from jdnas.models.assign import BACKGROUND, IGNORED, match, sample_balanced

RPN = {"foreground_iou": 0.7, "background_iou": 0.3, "rescue": True}
ROI = {"foreground_iou": 0.5, "background_iou": 0.5, "rescue": False}


def random_boxes(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * 40
    return torch.cat((corner, corner + 5 + torch.rand(*shape, 2, generator=generator) * 30), -1)


def test_thresholds_and_rescue_by_hand():
    truth = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 60, 60]]])
    boxes = torch.tensor([
        [0.0, 0, 10, 10],  # IoU 1 with the first
        [0, 0, 10, 5],  # 0.5: between
        [0, 0, 10, 2],  # 0.2: background
        [50, 50, 60, 52],  # 0.2 with the second, and its best
        [80, 80, 90, 90],
    ])  # fmt: skip
    valid = torch.ones(1, 2, dtype=torch.bool)
    index, side = match(boxes, truth, valid, **RPN)
    assert side.tolist() == [[1, IGNORED, BACKGROUND, 1, BACKGROUND]]
    assert index[0, [0, 3]].tolist() == [0, 1]
    assert match(boxes, truth, valid, **{**RPN, "rescue": False})[1].tolist() == [[1, IGNORED, BACKGROUND, BACKGROUND, BACKGROUND]]


def test_padding_never_matches_and_an_empty_image_is_all_background():
    boxes = random_boxes(20, seed=0)
    truth = boxes[:3].repeat(2, 1, 1)
    _, side = match(boxes, truth, torch.tensor([[True, False, False], [False, False, False]]), **ROI)
    assert side[0, 0] == 1
    assert not side[1].any()


def test_a_truth_that_touches_no_box_claims_none():
    boxes = random_boxes(20, seed=1)
    _, side = match(boxes, torch.tensor([[[500.0, 500, 600, 600]]]), torch.ones(1, 1, dtype=torch.bool), **RPN)
    assert not side.any()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 6), rescue=st.booleans())
def test_matching_equals_torchvision(seed, count, rescue):
    boxes, truth = random_boxes(60, seed=seed), random_boxes(1, count, seed=seed + 1)
    truth[0, 0] = boxes[7]
    high, low = (0.7, 0.3) if rescue else (0.5, 0.5)
    expected = Matcher(high, low, allow_low_quality_matches=rescue)(box_iou(truth[0], boxes))
    valid = torch.ones(1, count, dtype=torch.bool)
    index, side = match(boxes, truth, valid, foreground_iou=high, background_iou=low, rescue=rescue)
    assert torch.equal(side[0], torch.where(expected >= 0, 1, torch.where(expected == -1, BACKGROUND, IGNORED)))
    assert torch.equal(index[0][expected >= 0], expected[expected >= 0])


@pytest.mark.parametrize("pairs", [2 * 30 * 4, 7 * 4, 1])  # two images at once, seven boxes, one box
@pytest.mark.parametrize("per_image", [True, False])
def test_matching_in_parts_gives_the_same(monkeypatch, per_image, pairs):
    boxes = random_boxes(*((5, 30) if per_image else (30,)), seed=2)
    truth, valid = random_boxes(5, 4, seed=3), torch.rand(5, 4, generator=torch.Generator().manual_seed(4)) > 0.3
    whole = match(boxes, truth, valid, **RPN)
    monkeypatch.setattr(assign, "_PAIRS_AT_ONCE", pairs)
    parts = match(boxes, truth, valid, **RPN)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


@settings(deadline=None, max_examples=60)
@given(
    positives=st.integers(0, 30), negatives=st.integers(0, 30), ignored=st.integers(0, 10), size=st.integers(1, 40), seed=st.integers(0, 99)
)
def test_samples_are_balanced_distinct_and_as_large_as_can_be(positives, negatives, ignored, size, seed):
    labels = torch.tensor([3] * positives + [BACKGROUND] * negatives + [IGNORED] * (ignored + 1))
    generator = torch.Generator().manual_seed(seed)
    labels = labels[torch.randperm(len(labels), generator=generator)][None]
    index, chosen = sample_balanced(labels, torch.rand(labels.shape, generator=generator), size=size, positive_fraction=0.25)
    drawn = labels[0, index[0][chosen[0]]]
    want_positive = min(positives, int(size * 0.25))
    assert (drawn > 0).sum() == want_positive
    assert (drawn == BACKGROUND).sum() == min(negatives, size - want_positive)
    assert (drawn != IGNORED).all()
    assert len(index[0][chosen[0]].unique()) == chosen.sum()
    assert index.shape[1] == min(size, labels.shape[1])


def test_every_positive_is_as_likely():
    labels = torch.ones(2000, 8, dtype=torch.int64)
    noise = torch.rand(labels.shape, generator=torch.Generator().manual_seed(0))
    index, chosen = sample_balanced(labels, noise, size=4, positive_fraction=0.5)
    shares = torch.bincount(index[chosen], minlength=8) / 4000
    assert ((shares - 1 / 8).abs() < 0.02).all()
