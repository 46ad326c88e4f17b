"""A data set out of one folder and one COCO file."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jdnas.data.coco import check_splits, load_split
from jdnas.data.splitting import split_data, validation_images
from jdnas.errors import DataError


def photos(root: Path, classes: list[set[int]]) -> tuple[Path, Path]:
    (root / "photos" / "deep").mkdir(parents=True)
    images = [{"id": 10 + i, "file_name": f"deep/{i}.png", "width": 40, "height": 30} for i in range(len(classes))]
    for entry in images:
        Image.new("RGB", (40, 30), (9, 90, 200)).save(root / "photos" / str(entry["file_name"]))
    boxes = [
        {"id": 1000 * i + c, "image_id": 10 + i, "category_id": c, "bbox": [1, 1, 9, 9]} for i, of in enumerate(classes) for c in sorted(of)
    ]
    document = {
        "info": {"year": 2026},
        "images": images,
        "annotations": boxes,
        "categories": [{"id": c, "name": f"c{c}"} for c in (1, 2, 3)],
    }
    (root / "labels.json").write_text(json.dumps(document))
    return root / "photos", root / "labels.json"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sets(st.integers(1, 4)), min_size=2, max_size=60), st.floats(0.05, 0.6), st.integers(0, 5))
def test_every_class_gets_its_share(classes: list[set[int]], share: float, seed: int) -> None:
    by_image = dict(enumerate(classes))
    held = validation_images(by_image, share=share, seed=seed)
    assert held == validation_images(by_image, share=share, seed=seed) and len(held) > 0
    for category in {c for of in classes for c in of}:
        members = [image for image, of in by_image.items() if category in of]
        alone = {image for image in members if any(sum(c in of for of in classes) == 1 for c in by_image[image])}
        if len(members) > 1 and set(members) - alone:
            assert held & set(members)
    assert len(held) <= sum(max(1, round(share * sum(c in of for of in classes))) for c in (1, 2, 3, 4)) + len(classes) * share + 1


def test_the_rarest_class_is_served_first() -> None:
    classes: dict[int, set[int]] = {i: {1} for i in range(20)} | {20: {1, 2}, 21: {1, 2}}
    held = validation_images(classes, share=0.2, seed=3)
    assert len(held & {20, 21}) == 1
    assert len(held) == round(0.2 * 22)  # one of them counts for class 1 too


def test_a_data_set_is_written_that_training_reads(tmp_path: Path) -> None:
    images, labels = photos(tmp_path, [{1}, {1, 2}, {2}, {1}, set(), {3}, {3, 1}, {1}, {2}, {1}])
    out = tmp_path / "set"
    counts = split_data(images, labels, out, share=0.3, seed=0)
    train, val = load_split(out, "train"), load_split(out, "val")
    check_splits(train, val)
    assert counts == {"train": len(train.records), "val": len(val.records)} and sum(counts.values()) == 10
    assert {record.path.name for record in train.records}.isdisjoint(record.path.name for record in val.records)
    assert {int(label) for record in val.records for label in record.labels} == {1, 2, 3}
    documents = [json.loads((out / "annotations" / f"{split}.json").read_text()) for split in ("train", "val")]
    assert sum(len(d["annotations"]) for d in documents) == 11 and documents[0]["info"] == {"year": 2026}
    again = tmp_path / "again"
    split_data(images, labels, again, share=0.3, seed=0)
    assert (again / "annotations" / "val.json").read_bytes() == (out / "annotations" / "val.json").read_bytes()


def _without(document: dict[str, Any], part: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != part}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: _without(d, "categories"), "is no COCO file: it needs the lists images, annotations, categories"),
        (lambda d: d | {"images": d["images"][:1]}, "lists 1 images; two splits need at least 2"),
        (lambda d: d | {"images": [{"id": 1}, {"id": 2}]}, "image {.*} needs an integer 'id' and a 'file_name'"),
        (lambda d: d | {"images": [i | {"id": str(i["id"])} for i in d["images"]]}, "needs an integer 'id'"),
        (lambda d: d | {"images": [i | {"id": 7} for i in d["images"]]}, "image id 7 is listed twice"),
        (lambda d: d | {"images": [*d["images"], {"id": 99, "file_name": "./deep/1.png"}]}, "lists 'deep/1.png' as 2 images"),
        (lambda d: d | {"annotations": [3]}, "is no COCO file"),
        (lambda d: d | {"images": [*d["images"], {"id": 99, "file_name": "gone.png"}]}, "1 of 4 images of .* the first: gone.png"),
        (lambda d: d | {"images": [*d["images"], {"id": 99, "file_name": "../labels.json"}]}, "names files outside of its folder"),
    ],
)
def test_refusals_write_nothing(tmp_path: Path, change: Any, message: str) -> None:
    images, labels = photos(tmp_path, [{1}, {2}, {1}])
    labels.write_text(json.dumps(change(json.loads(labels.read_text()))))
    with pytest.raises(DataError, match=message):
        split_data(images, labels, tmp_path / "set", share=0.2, seed=0)
    assert not (tmp_path / "set").exists()


def test_more_refusals(tmp_path: Path) -> None:
    images, labels = photos(tmp_path, [{1}, {2}])
    for share in (0.0, 1.0):
        with pytest.raises(DataError, match="--val must be between 0 and 1"):
            split_data(images, labels, tmp_path / "set", share=share, seed=0)
    with pytest.raises(DataError, match=r"--val 0.9 holds out all 2 images of .*; give less"):
        split_data(*photos(tmp_path / "same", [{1, 2}, {1, 2}]), tmp_path / "set", share=0.9, seed=0)
    assert not (tmp_path / "set").exists()
    with pytest.raises(DataError, match="exists and is not empty"):
        split_data(images, labels, images, share=0.5, seed=0)
    with pytest.raises(DataError, match="no such annotation file"):
        split_data(images, tmp_path / "none.json", tmp_path / "set", share=0.5, seed=0)
    with pytest.raises(DataError, match="is no folder"):
        split_data(tmp_path / "none", labels, tmp_path / "set", share=0.5, seed=0)
    labels.write_text("{")
    with pytest.raises(DataError, match="is not valid JSON"):
        split_data(images, labels, tmp_path / "set", share=0.5, seed=0)
