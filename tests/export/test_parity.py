from types import SimpleNamespace

import pytest
import torch

from export.parity import Tolerances, compare

SLOTS = 5


def _detections(*images):
    """Each image: rows of (x0, y0, x1, y1, score, label)."""
    table = torch.zeros(len(images), SLOTS, 6)
    for index, rows in enumerate(images):
        if rows:
            table[index, : len(rows)] = torch.tensor(rows)
    count = torch.tensor([len(rows) for rows in images])
    return SimpleNamespace(boxes_xyxy=table[..., :4], scores=table[..., 4], labels=table[..., 5].long(), count=count)


def _compare(ours, theirs, **settings):
    batch = SimpleNamespace(images=torch.zeros(len(ours), 3, 32, 32), sizes_hw=torch.tensor([[32, 32]] * len(ours)))
    return compare(lambda *_: _detections(*ours), lambda *_: _detections(*theirs), [batch], **settings)


A = (0.0, 0.0, 10.0, 10.0, 0.9, 1)
B = (20.0, 0.0, 30.0, 10.0, 0.6, 2)


def test_equal():
    result = _compare([[A, B], []], [[A, B], []])
    assert result.passed
    assert (result.images, result.detections, result.matched, result.unmatched, result.borderline) == (2, 4, 1.0, 0, 0)


def test_order_among_equal_scores_does_not_matter():
    assert _compare([[A, B]], [[B, A]]).passed


def test_small_differences_are_measured():
    moved = (0.0, 0.0, 10.0, 10.05, 0.9005, 1)
    result = _compare([[A]], [[moved]])
    assert result.passed
    assert result.max_box_px == pytest.approx(0.05, abs=1e-5)
    assert result.max_score == pytest.approx(0.0005, abs=1e-6)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ((0.0, 0.0, 10.0, 10.2, 0.9, 1), "box difference 0.2 px exceeds 0.1 px"),
        ((0.0, 0.0, 10.0, 10.0, 0.898, 1), "score difference 0.002 exceeds 0.001"),
        ((0.0, 0.0, 10.0, 10.0, 0.9, 2), "2 of 2 detections have no partner"),
        ((0.0, 0.0, float("nan"), 10.0, 0.9, 1), "no partner"),
    ],
)
def test_failures_say_what_differs(other, message):
    result = _compare([[A]], [[other]])
    assert not result.passed
    assert message in result.message


def test_missing_detection_fails_unless_it_is_at_the_threshold():
    assert not _compare([[A, B]], [[A]]).passed
    barely = (20.0, 0.0, 30.0, 10.0, 0.0505, 2)
    result = _compare([[A, barely]], [[A]])
    assert result.passed
    assert (result.borderline, result.unmatched) == (1, 0)
    assert result.matched == pytest.approx(2 / 3)


def test_extra_detection_fails_too():
    assert not _compare([[A]], [[A, B]]).passed


def test_last_place_of_a_full_list():
    rows = [(10.0 * i, 0.0, 10.0 * i + 8, 10.0, 0.9 - 0.1 * i, 1) for i in range(SLOTS)]
    rival = (90.0, 0.0, 98.0, 10.0, rows[-1][4] + 0.0005, 1)
    assert _compare([rows], [[*rows[:-1], rival]]).passed
    better = (90.0, 0.0, 98.0, 10.0, rows[-1][4] + 0.05, 1)
    assert not _compare([rows], [[*rows[:-1], better]]).passed


def test_ap():
    assert _compare([[A]], [[A]], reference_ap=0.3, runner_ap=0.2996).passed
    result = _compare([[A]], [[A]], reference_ap=0.3, runner_ap=0.297)
    assert not result.passed
    assert result.delta_ap == pytest.approx(-0.003)
    assert not _compare([[A]], [[A]], reference_ap=0.3, runner_ap=float("nan")).passed
    assert _compare([[A]], [[A]], reference_ap=0.3, runner_ap=0.297, tolerances=Tolerances(ap=0.01)).passed


def test_no_images_is_no_proof():
    assert not compare(None, None, []).passed


def test_no_detections_on_either_side_are_no_proof():
    result = _compare([[], []], [[], []])
    assert not result.passed
    assert result.message == (
        "neither side detected anything on 2 images, so that nothing was compared; compare on images with objects: --data FOLDER"
    )
    assert _compare([[], []], [[], []], reference_ap=0.0, runner_ap=0.0).passed
    assert _compare([[A], []], [[A], []]).passed


def test_result_is_plain_data():
    assert _compare([[A]], [[A]]).to_dict()["passed"] is True
