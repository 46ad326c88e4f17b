import json
import os
import time

import numpy as np
import pytest

from jdnas.data import shapes
from jdnas.data.coco import check_splits, load_split
from jdnas.data.shapes import CLASSES, draw_shapes, make_shapes
from jdnas.errors import ConfigError, DataError


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def stamps(root):
    return {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


def test_the_set_reads_without_problems(tmp_path):
    make_shapes(tmp_path / "s", train=12, val=5, size=64, seed=1)
    train, val = load_split(tmp_path / "s", "train"), load_split(tmp_path / "s", "val")
    check_splits(train, val)
    assert train.classes == CLASSES and len(train.records) == 12 and len(val.records) == 5
    assert train.problems == val.problems == {}
    assert all(1 <= len(r.labels) <= 6 for r in train.records + val.records)
    assert train.records[0].boxes_xyxy.tolist() != val.records[0].boxes_xyxy.tolist()


def test_the_same_arguments_give_the_same_files_and_another_seed_others(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_shapes(tmp_path / name, train=4, val=2, size=48, seed=seed)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys() and all(a[name] != c[name] for name in a if name.endswith(".png"))


def test_more_images_begin_with_the_same_ones(tmp_path):
    make_shapes(tmp_path / "few", train=2, val=1, size=48, seed=1)
    make_shapes(tmp_path / "more", train=5, val=2, size=48, seed=1)
    few, more = contents(tmp_path / "few"), contents(tmp_path / "more")
    assert all(more[name] == data for name, data in few.items() if name.endswith(".png"))


def test_a_complete_set_is_kept(tmp_path):
    make_shapes(tmp_path, train=3, val=2, size=48, seed=1)
    before = stamps(tmp_path)
    make_shapes(tmp_path, train=3, val=2, size=48, seed=1)
    assert stamps(tmp_path) == before


def test_another_set_replaces_it_without_remains(tmp_path):
    make_shapes(tmp_path / "s", train=5, val=2, size=48, seed=1)
    make_shapes(tmp_path / "s", train=3, val=2, size=48, seed=2)
    make_shapes(tmp_path / "fresh", train=3, val=2, size=48, seed=2)
    assert contents(tmp_path / "s") == contents(tmp_path / "fresh")


def test_a_damaged_set_is_made_again(tmp_path):
    make_shapes(tmp_path, train=3, val=2, size=48, seed=1)
    before = contents(tmp_path)
    os.remove(tmp_path / "images" / "shape_val_00000.png")
    make_shapes(tmp_path, train=3, val=2, size=48, seed=1)
    assert contents(tmp_path) == before


def test_a_set_cut_off_while_it_was_written_is_made_again(tmp_path, monkeypatch):
    calls = iter(range(100))

    def fail_at_third(size, rng):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return draw_shapes(size, rng)

    monkeypatch.setattr(shapes, "draw_shapes", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "s", train=3, val=2, size=48, seed=1)
    assert json.loads((tmp_path / "s" / ".shapes.json").read_text())["complete"] is False
    monkeypatch.undo()
    make_shapes(tmp_path / "s", train=3, val=2, size=48, seed=1)
    make_shapes(tmp_path / "fresh", train=3, val=2, size=48, seed=1)
    assert contents(tmp_path / "s") == contents(tmp_path / "fresh")


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "holiday.png").touch()
    with pytest.raises(DataError, match="is no set of shapes"):
        make_shapes(tmp_path, train=3, val=2, size=48, seed=1)
    assert contents(tmp_path) == {"images/holiday.png": b""}


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": 0}, {"size": 16}, {"seed": -1}])
def test_wrong_arguments(tmp_path, wrong):
    with pytest.raises(ConfigError, match="shapes need"):
        make_shapes(tmp_path / "s", **{"train": 1, "val": 1, "size": 48, "seed": 0, **wrong})
    assert not (tmp_path / "s").exists()


def test_objects_vary_in_class_and_size_and_some_overlap():
    drawn = [draw_shapes(128, np.random.default_rng(seed))[1] for seed in range(60)]
    labels = np.concatenate([[label for label, _ in image] for image in drawn])
    assert np.bincount(labels, minlength=4)[1:].min() > 40
    longer = np.array([max(x2 - x1, y2 - y1) for image in drawn for _, (x1, y1, x2, y2) in image])
    assert 12 < longer.min() < 18 and 50 < longer.max() <= 60
    overlapping = [
        image for image in drawn
        if any(min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
               for i, (_, a) in enumerate(image) for _, b in image[:i])
    ]  # fmt: skip
    assert 5 < len(overlapping) < 50


def test_boxes_are_tight():
    image, found = draw_shapes(128, np.random.default_rng(11))
    assert found
    bare = np.asarray(image).astype(int)
    for _, (x1, y1, x2, y2) in found[-1:]:  # nothing lies above the last one
        inside = bare[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1]
        frame = np.median(
            np.concatenate([bare[max(int(y1) - 4, 0), int(x1) : int(x2)], bare[int(y1) : int(y2), max(int(x1) - 4, 0)]]), axis=0
        )
        differs = np.abs(inside - frame).sum(axis=2) > 60
        assert differs.any(axis=1).mean() > 0.8 and differs.any(axis=0).mean() > 0.8


def test_writing_is_quick(tmp_path):
    began = time.process_time()
    make_shapes(tmp_path / "s", train=30, val=10, size=128, seed=0)
    assert time.process_time() - began < 2  # 40 images; 300 take about 3 seconds
