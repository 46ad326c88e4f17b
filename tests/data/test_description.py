from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from jdnas.data.coco import load_split
from jdnas.data.description import load_description, save_description
from jdnas.data.records import DetectionSet, Record
from jdnas.errors import DataError


@pytest.fixture
def data(write_coco) -> DetectionSet:
    crowd = {"category_id": 2, "bbox": [1.25, 2, 30, 20.3], "iscrowd": 1, "area": 17.5}
    root = write_coco(boxes=[[(1, (3, 4, 10, 11.7)), crowd], [], [(2, (0.1, 0.2, 5.3, 6.4))]])
    (root / "images" / "train1.png").rename(root / "images" / "gone.png")
    return load_split(root, "train")


def assert_same(found: Record, wanted: Record) -> None:
    for one in fields(Record):
        was, now = getattr(wanted, one.name), getattr(found, one.name)
        if isinstance(was, np.ndarray):
            assert was.dtype == now.dtype and was.shape == now.shape and np.array_equal(was, now), one.name
        else:
            assert was == now and type(was) is type(now), one.name


def test_comes_back_to_the_bit(data: DetectionSet, tmp_path: Path) -> None:
    assert data.problems
    save_description(tmp_path / "new" / "train.safetensors", data, [str(record.path) for record in data.records])
    found = load_description(tmp_path / "new" / "train.safetensors", tmp_path / "elsewhere")
    assert found.fingerprint == data.fingerprint and len(found.records) == 2
    for one, other in zip(found.records, data.records, strict=True):
        assert_same(one, other)
    for name in ("name", "split", "classes", "category_ids", "problems", "unreadable"):
        assert getattr(found, name) == getattr(data, name)


def test_other_paths_are_below_the_root(data: DetectionSet, tmp_path: Path) -> None:
    save_description(tmp_path / "train.safetensors", data, ["train/0.png", "train/1.png"])
    found = load_description(tmp_path / "train.safetensors", tmp_path / "images")
    assert [record.path for record in found.records] == [tmp_path / "images" / "train" / f"{i}.png" for i in (0, 1)]


def test_images_without_boxes(tmp_path: Path) -> None:
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0)
    records = tuple(Record(i, tmp_path / f"{i}.png", 4, 5, *nothing) for i in range(2))
    data = DetectionSet("made", tmp_path, "val", ("thing",), (7,), records)
    save_description(tmp_path / "val.safetensors", data, ["0.png", "1.png"])
    for one, other in zip(load_description(tmp_path / "val.safetensors", tmp_path).records, records, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("content", [None, b"", b"no safetensors", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_what_is_no_description_is_said(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "train.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="train.safetensors is no description of a data set"):
        load_description(path, tmp_path)
