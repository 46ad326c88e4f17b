import itertools
import threading
from dataclasses import fields

import numpy as np
import pytest
import torch

from jdnas.data.augment import NO_AUGMENT, AugmentSettings
from jdnas.data.batches import eval_batches, train_batches
from jdnas.data.coco import load_split
from jdnas.data.images import read_image
from jdnas.data.types import Batch
from jdnas.errors import ConfigError, DataError

NORMALIZE = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
SIZES = [(32, 64), (64, 64), (64, 96)]


def equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Batch))


@pytest.fixture
def data(write_coco):
    boxes = [[(1 + i % 2, (2 + i, 3, 20, 15))] * (i % 4) for i in range(7)]
    return load_split(write_coco(boxes=boxes), "train")


def first(data, count=5, **changed):
    options = {"sizes_hw": SIZES, "batch": 3, "seed": 5, "start_step": 0, "augment": AugmentSettings(), **NORMALIZE, **changed}
    return list(itertools.islice(train_batches(data, **options), count))


def test_shapes_types_and_padding(data):
    for batch in first(data, 8):
        count, boxes = batch.labels.shape
        assert count == 3 and boxes >= 1
        assert tuple(batch.images.shape[2:]) in SIZES and batch.images.dtype == torch.float32
        assert batch.boxes_xyxy.shape == (3, boxes, 4) and batch.boxes_xyxy.dtype == torch.float32
        assert batch.valid.dtype == torch.bool and batch.labels.dtype == batch.sizes_hw.dtype == batch.image_ids.dtype == torch.int64
        assert (batch.labels > 0).equal(batch.valid) and not batch.boxes_xyxy[~batch.valid].any()
        assert batch.valid.sum(1).max() == boxes or boxes == 1
        for row in range(3):
            height, width = batch.sizes_hw[row].tolist()
            assert not batch.images[row, :, height:].any() and not batch.images[row, :, :, width:].any()
            assert (batch.boxes_xyxy[row, :, 2] <= width).all() and (batch.boxes_xyxy[row, :, 3] <= height).all()
            assert batch.scales[row] == pytest.approx(min(batch.images.shape[2] / 40, batch.images.shape[3] / 60))


def test_a_batch_depends_on_seed_and_step_alone(data):
    reference = first(data, 9)
    assert all(equal(a, b) for a, b in zip(reference, first(data, 9), strict=True))
    assert all(equal(a, b) for a, b in zip(reference[4:], first(data, 5, start_step=4), strict=True))
    assert not any(equal(a, b) for a, b in zip(reference, first(data, 9, seed=6), strict=True))
    assert len({tuple(b.images.shape) for b in reference}) > 1


@pytest.mark.parametrize(("workers", "cache"), [(0, False), (1, True), (3, True), (3, False)])
def test_workers_and_cache_do_not_change_a_batch(data, workers, cache):
    reference, other = first(data, 12), first(data, 12, workers=workers, cache=cache)
    assert all(equal(a, b) for a, b in zip(reference, other, strict=True))


def test_workers_end_with_their_iterator(data):
    def running() -> int:
        return sum(thread.name.startswith("batches") for thread in threading.enumerate())

    threads = running()
    batches = train_batches(data, sizes_hw=SIZES, batch=2, seed=0, start_step=0, augment=AugmentSettings(), **NORMALIZE, workers=2)
    next(batches)
    workers = [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
    assert running() > threads
    batches.close()
    for thread in workers:
        thread.join(timeout=10)
    assert running() == threads


def test_an_error_in_a_worker_reaches_the_reader(data):
    data.records[0].path.unlink()
    with pytest.raises(DataError, match=r"train0\.png"):
        list(itertools.islice(train_batches(
            data, sizes_hw=SIZES, batch=7, seed=0, start_step=0, augment=AugmentSettings(), **NORMALIZE, workers=2
        ), 2))  # fmt: skip


def test_each_epoch_shows_every_image_once_in_a_new_order(data):
    ids = torch.cat([b.image_ids for b in first(data, 14, batch=3)]).tolist()
    epochs = [ids[start : start + 7] for start in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(10, 17)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_an_image_looks_new_each_time(write_coco):
    data = load_split(write_coco(boxes=[[(1, (5, 6, 10, 12))]]), "train")
    rows = torch.cat([b.images for b in first(data, 3, batch=2, sizes_hw=[(64, 96)])])
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(rows, 2))


def test_a_batch_larger_than_the_set(data):
    ids = first(data, 1, batch=16)[0].image_ids.tolist()
    assert sorted(ids[:7]) == sorted(ids[7:14]) == list(range(10, 17))


def test_crowds_are_not_trained_on(write_coco):
    crowd = {"category_id": 2, "bbox": [0, 0, 30, 30], "iscrowd": 1}
    data = load_split(write_coco(boxes=[[(1, (5, 5, 20, 20)), crowd], [crowd], []]), "train")
    batch = first(data, 1, batch=2)[0]
    assert sorted(batch.image_ids.tolist()) == [10, 12]  # without boxes is a background image, with only a crowd is neither
    assert batch.labels.unique().tolist() == [0, 1]


def test_unaugmented_pixels_are_normalized_and_boxes_scaled(data):
    batch = first(data, 1, sizes_hw=[(64, 64)], augment=NO_AUGMENT)[0]
    again = {b.image_ids[0].item(): b for b in eval_batches(data, size_hw=(64, 64), batch=1, **NORMALIZE)}
    for row, image_id in enumerate(batch.image_ids.tolist()):
        assert torch.equal(batch.images[row], again[image_id].images[0])


def test_evaluation_sees_every_image_once_in_order(data):
    batches = list(eval_batches(data, size_hw=(64, 96), batch=3, **NORMALIZE))
    assert [len(b.image_ids) for b in batches] == [3, 3, 1]
    assert torch.cat([b.image_ids for b in batches]).tolist() == list(range(10, 17))
    assert torch.cat([b.valid.sum(1) for b in batches]).tolist() == [len(r.labels) for r in data.records]
    parallel = list(eval_batches(data, size_hw=(64, 96), batch=3, **NORMALIZE, workers=2, cache=False))
    assert all(equal(a, b) for a, b in zip(batches, parallel, strict=True))


def test_an_image_of_the_canvas_size_comes_back(write_coco):
    data = load_split(write_coco(boxes=[[(1, (5, 6, 10, 12))]], size_hw=(32, 64)), "train")
    batch = next(eval_batches(data, size_hw=(32, 64), batch=1, **NORMALIZE))
    pixels = read_image(data.records[0].path).astype(np.float32).transpose(2, 0, 1) / 255
    expected = (pixels - np.reshape(NORMALIZE["mean"], (3, 1, 1))) / np.reshape(NORMALIZE["std"], (3, 1, 1))
    np.testing.assert_allclose(batch.images[0], expected, atol=1e-5)
    np.testing.assert_allclose(batch.boxes_xyxy[0], [[5, 6, 15, 18]])
    assert batch.sizes_hw.tolist() == [[32, 64]] and batch.to("cpu").image_ids.tolist() == [10]


@pytest.mark.parametrize("wrong", [{"sizes_hw": [(32, 50)]}, {"sizes_hw": []}, {"sizes_hw": [(0, 32)]}, {"batch": 0}, {"workers": -1}])
def test_wrong_options_fail_at_once(data, wrong):
    with pytest.raises(ConfigError, match=r"multiples of 32|at least 1"):
        first(data, 0, **wrong)
