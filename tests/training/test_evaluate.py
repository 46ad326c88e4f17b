import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from jdnas.data.coco import load_split
from jdnas.data.records import DetectionSet, Record
from jdnas.data.shapes import make_shapes
from jdnas.errors import ConfigError
from jdnas.training.evaluate import STAT_NAMES, coco_stats, collect_detections, evaluate, score

NORMALIZE = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


class Found(NamedTuple):
    boxes_xyxy: Any
    scores: Any
    labels: Any
    count: Any


def random_set(seed: int, images: int = 12, classes: int = 4, crowds: bool = True) -> DetectionSet:
    rng = np.random.default_rng(seed)
    records = []
    for image in range(images):
        count = int(rng.integers(0, 9))
        corner, extent = rng.uniform(0, 200, (count, 2)), rng.uniform(4, 140, (count, 2))
        boxes = np.concatenate([corner, corner + extent], axis=1).astype(np.float32)
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).astype(np.float64) * rng.uniform(0.5, 1, count)
        crowd = rng.random(count) < (0.15 if crowds else 0)
        records.append(Record(image * 3 + 1, Path(f"{image}.png"), 400, 400, boxes, rng.integers(1, classes + 1, count), crowd, areas))
    names = tuple(f"class{i}" for i in range(classes))
    return DetectionSet("random", Path("."), "val", names, tuple(range(0, 3 * classes, 3)), tuple(records))


def random_results(data: DetectionSet, seed: int, jitter: float) -> list[dict[str, Any]]:
    """Shaken ground truth with random scores and some wrong labels, and as many boxes out of nowhere."""
    rng = np.random.default_rng(seed)
    results = []
    for record in data.records:
        boxes = np.concatenate([record.boxes_xyxy, rng.uniform(0, 300, record.boxes_xyxy.shape).astype(np.float32)])
        for box, label in zip(boxes, np.tile(record.labels, 2), strict=True):
            x1, y1, x2, y2 = (box + rng.normal(0, jitter, 4)).tolist()
            if x2 > x1 and y2 > y1:
                chosen = label if rng.random() < 0.8 else rng.integers(1, len(data.classes) + 1)
                category = data.category_ids[int(chosen) - 1]
                score_ = round(float(rng.random()), 2)  # ties too
                results.append({"image_id": record.image_id, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score_})
    return results


@pytest.mark.parametrize(("seed", "jitter"), [(0, 1.0), (1, 4.0), (2, 8.0), (3, 0.0)])
def test_both_engines_give_the_same_twelve_numbers(seed, jitter, capsys):
    data = random_set(seed)
    results = random_results(data, seed, jitter)
    faster, faster_precision = coco_stats(data.ground_truth(), results, engine="faster")
    reference, precision = coco_stats(data.ground_truth(), results, engine="pycocotools")
    assert len(STAT_NAMES) == len(faster) == 12
    np.testing.assert_allclose(faster, reference, atol=1e-9)
    np.testing.assert_allclose(faster_precision, precision, atol=1e-9)
    assert 0.05 < faster[0] < 1
    first, second = (score(data, results, engine=name).per_class for name in ("faster", "pycocotools"))
    assert first == pytest.approx(second) and len(first) == 4
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("engine", ["faster", "pycocotools"])
def test_results_equal_pycocotools_own_way_of_loading(engine, tmp_path, capsys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    data = random_set(5)
    results = random_results(data, 5, 3.0)
    (tmp_path / "gt.json").write_text(json.dumps(data.ground_truth()))
    truth = COCO(str(tmp_path / "gt.json"))
    reference = COCOeval(truth, truth.loadRes([dict(r) for r in results]), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    np.testing.assert_allclose(coco_stats(data.ground_truth(), results, engine=engine)[0], reference.stats, atol=1e-9)


@pytest.mark.parametrize("engine", ["faster", "pycocotools"])
def test_no_detections_give_zero(engine):
    data = random_set(0)
    metrics = score(data, [], engine=engine)
    assert (metrics.ap, metrics.ap50, metrics.ap75, metrics.images, metrics.detections) == (0.0, 0.0, 0.0, 12, 0)
    assert set(metrics.per_class.values()) == {0.0}


@pytest.mark.parametrize("engine", ["faster", "pycocotools"])
def test_classes_without_ground_truth_are_omitted_and_do_not_count(engine):
    box = np.array([[10, 10, 40, 50]], np.float32)
    record = Record(1, Path("a.png"), 100, 100, box, np.array([2]), np.array([False]), np.array([1200.0]))
    data = DetectionSet("one", Path("."), "val", ("a", "b", "c"), (5, 7, 9), (record,))
    results = [{"image_id": 1, "category_id": category, "bbox": [10, 10, 30, 40], "score": 0.9} for category in (5, 7)]
    metrics = score(data, results, engine=engine)
    assert metrics.per_class == {"b": pytest.approx(1.0)} and metrics.ap == pytest.approx(1.0)
    assert (metrics.ap_small, metrics.ap_medium, metrics.ap_large) == (-1, pytest.approx(1.0), -1)
    assert json.loads(json.dumps(metrics.to_dict()))["per_class"] == metrics.per_class


def test_average_precision_worked_by_hand():
    boxes = np.array([[0, 0, 40, 40], [50, 50, 90, 90]], np.float32)
    record = Record(1, Path("a.png"), 100, 100, boxes, np.array([1, 1]), np.zeros(2, bool), np.full(2, 1600.0))
    data = DetectionSet("one", Path("."), "val", ("a",), (1,), (record,))
    hit, miss = {"bbox": [0, 0, 40, 40], "score": 0.9}, {"bbox": [60, 0, 20, 20], "score": 0.8}
    metrics = score(data, [{"image_id": 1, "category_id": 1, **r} for r in (hit, miss)])
    assert metrics.ap50 == pytest.approx(51 / 101)  # precision 1 up to recall 0.5, of 101 recall points


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes") / "s"
    make_shapes(root, train=1, val=7, size=80, seed=3)
    return load_split(root, "val")


def oracle(data: DetectionSet, wrap: Any, batch: int, size_hw: tuple[int, int], extra: int = 3) -> Any:
    """A predictor that knows the answers for batches in order; entries past `count` are rubbish."""
    starts = itertools.count(0, batch)

    def predict(images: torch.Tensor, sizes_hw: torch.Tensor) -> Found:
        assert torch.is_inference_mode_enabled()
        assert images.shape == (batch, 3, *size_hw) and sizes_hw.shape == (batch, 2)
        start, most = next(starts), max(len(r.labels) for r in data.records) + extra
        boxes, labels = torch.full((batch, most, 4), float("nan")), torch.full((batch, most), 99)
        count = torch.zeros(batch, dtype=torch.int64)
        for row in range(batch):
            record = data.records[min(start + row, len(data.records) - 1)]
            scale = min(size_hw[0] / record.height, size_hw[1] / record.width)
            assert sizes_hw[row].tolist() == [int(record.height * scale + 1e-6), int(record.width * scale + 1e-6)]
            count[row] = len(record.labels)
            boxes[row, : count[row]] = torch.from_numpy(record.boxes_xyxy * np.float32(scale))
            labels[row, : count[row]] = torch.from_numpy(record.labels)
        return Found(wrap(boxes), wrap(torch.ones(batch, most)), wrap(labels), wrap(count))

    return predict


@pytest.mark.parametrize("wrap", [lambda tensor: tensor, lambda tensor: tensor.numpy()], ids=["tensors", "arrays"])
@pytest.mark.parametrize(("batch", "size_hw", "workers"), [(3, (96, 128), 0), (7, (64, 64), 2), (16, (160, 96), 0)])
def test_a_perfect_detector_scores_one_at_any_size(shapes, wrap, batch, size_hw, workers):
    done: list[int] = []
    predict = oracle(shapes, wrap, batch, size_hw)
    metrics = evaluate(predict, shapes, size_hw=size_hw, batch=batch, **NORMALIZE, on_batch=done.append, workers=workers)
    assert metrics.ap == pytest.approx(1.0)
    assert (metrics.images, metrics.detections) == (7, sum(len(r.labels) for r in shapes.records))
    assert done == [*range(batch, 7, batch), 7]


def test_results_are_in_original_pixels_and_inside_the_image(shapes):
    def predict(images: torch.Tensor, sizes_hw: torch.Tensor) -> Found:
        boxes = torch.tensor([[[-8.0, 16, 32, 200], [160, 10, 170, 20], [4, 4, float("inf"), 8], [4, 4, 20, 20]]])
        scores = torch.tensor([[0.5, 0.9, 0.9, float("nan")]])
        return Found(boxes, scores, torch.tensor([[2, 1, 1, 1]]), torch.tensor([4]))

    results = collect_detections(predict, shapes, size_hw=(160, 160), batch=1, **NORMALIZE)
    assert len(results) == 7 * 2  # outside of the image and without a score are left out; without an end is cut
    assert results[0] == {"image_id": 1, "category_id": 2, "bbox": pytest.approx([0, 8, 16, 72]), "score": 0.5}


def test_labels_that_the_set_does_not_have(shapes):
    def predict(images: torch.Tensor, sizes_hw: torch.Tensor) -> Found:
        return Found(torch.ones(1, 1, 4), torch.ones(1, 1), torch.tensor([[4]]), torch.tensor([1]))

    with pytest.raises(ConfigError, match=r"label 4, but 's' has labels 1\.\.3"):
        collect_detections(predict, shapes, size_hw=(64, 64), batch=1, **NORMALIZE)


def test_bfloat16_detections(shapes):
    predict = oracle(shapes, lambda tensor: tensor.bfloat16() if tensor.is_floating_point() else tensor, 7, (96, 96))
    assert evaluate(predict, shapes, size_hw=(96, 96), batch=7, **NORMALIZE).ap50 == pytest.approx(1.0)


def test_unknown_engine(shapes):
    with pytest.raises(ConfigError, match="unknown evaluation engine 'fast'; known: faster, pycocotools"):
        score(shapes, [], engine="fast")  # type: ignore[arg-type]
