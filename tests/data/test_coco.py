import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jdnas.data.coco import check_splits, load_split
from jdnas.errors import DataError

BOX = (1, (5, 6, 10, 12))


def edit(root: Path, change: Any, split: str = "train") -> None:
    path = root / "annotations" / f"{split}.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def message_of(root: Path, split: Any = "train") -> str:
    with pytest.raises(DataError) as caught:
        load_split(root, split)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def test_reads_images_boxes_and_classes(write_coco):
    root = write_coco(boxes=[[BOX, (2, (0.5, 1, 20, 30))], []])
    data = load_split(root, "train")
    assert (data.name, data.split, data.classes, data.category_ids) == ("set", "train", ("cat", "dog"), (1, 2))
    assert [r.image_id for r in data.records] == [10, 11]
    first, second = data.records
    assert (first.height, first.width) == (40, 60)
    assert first.boxes_xyxy.dtype == np.float32
    np.testing.assert_array_equal(first.boxes_xyxy, [[5, 6, 15, 18], [0.5, 1, 20.5, 31]])
    assert first.labels.tolist() == [1, 2]
    assert first.areas.tolist() == [120, 600]
    assert second.boxes_xyxy.shape == (0, 4)
    assert data.problems == {} and data.problem_summary == ""


def test_category_ids_with_gaps_become_labels_in_order_of_id(write_coco):
    root = write_coco(boxes=[[(90, (1, 1, 5, 5)), (3, (1, 1, 5, 5)), (0, (1, 1, 5, 5))]], categories={90: "c", 0: "a", 3: "b"})
    data = load_split(root, "train")
    assert data.classes == ("a", "b", "c")
    assert data.records[0].labels.tolist() == [3, 2, 1]
    assert [a["category_id"] for a in data.ground_truth()["annotations"]] == [90, 3, 0]


def test_categories_of_one_name_are_told_apart(write_coco):
    data = load_split(write_coco(boxes=[[BOX]], categories={0: "fish", 1: "fish", 2: "ray"}), "train")
    assert data.classes == ("fish (0)", "fish (1)", "ray")


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((1, (5, 5, 0, 10)), "zero_size_boxes"),
        ((1, (5, 5, 10, -1)), "zero_size_boxes"),
        ((1, (60, 5, 10, 10)), "outside_boxes"),
        ((1, (-20, 5, 20, 10)), "outside_boxes"),
        ((1, (5, 41, 3, 3)), "outside_boxes"),
        ((7, (5, 5, 10, 10)), "unknown_category_boxes"),
        (("1", (5, 5, 10, 10)), "unknown_category_boxes"),
        ((1, (5, 5, 10)), "malformed_boxes"),
        ((1, (5, 5, 10, float("nan"))), "malformed_boxes"),
        ({"category_id": 1, "segmentation": []}, "malformed_boxes"),
        ({"category_id": 1, "bbox": [1, 1, 5, 5], "image_id": 99}, "boxes_without_image"),
    ],
)
def test_unusable_boxes_are_dropped_and_counted(write_coco, box, reason):
    data = load_split(write_coco(boxes=[[BOX, box]]), "train")
    assert data.problems == {reason: 1}
    np.testing.assert_array_equal(data.records[0].boxes_xyxy, [[5, 6, 15, 18]])
    assert data.problem_summary == f"1 {reason.replace('_', ' ')}"


def test_boxes_over_the_edge_are_clipped_and_counted_with_their_area(write_coco):
    over = {"category_id": 1, "bbox": [-10, 30, 20, 20], "area": 400}
    within_rounding = {"category_id": 1, "bbox": [50, 0, 10.004, 10], "area": 70}
    data = load_split(write_coco(boxes=[[over, within_rounding]]), "train")
    np.testing.assert_array_equal(data.records[0].boxes_xyxy, [[0, 30, 10, 40], [50, 0, 60, 10]])
    assert data.records[0].areas.tolist() == [100, 70]
    assert data.problems == {"clipped_boxes": 1}


def test_crowds_are_flagged_and_stay_in_the_ground_truth(write_coco):
    crowd = {"category_id": 2, "bbox": [0, 0, 30, 30], "iscrowd": 1, "area": 500}
    data = load_split(write_coco(boxes=[[BOX, crowd]]), "train")
    assert data.records[0].crowd.tolist() == [False, True]
    truth = data.ground_truth()
    assert [(a["id"], a["category_id"], a["iscrowd"], a["area"], a["bbox"]) for a in truth["annotations"]] == [
        (1, 1, 0, 120.0, [5, 6, 10, 12]),
        (2, 2, 1, 500.0, [0, 0, 30, 30]),
    ]
    assert truth["images"] == [{"id": 10, "file_name": "train0.png", "height": 40, "width": 60}]
    assert truth["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def test_unreadable_and_missing_images_are_named_skipped_and_counted(write_coco):
    root = write_coco(boxes=[[BOX], [BOX], [BOX], [BOX]])
    images = root / "images"
    (images / "train0.png").unlink()
    whole = (images / "train1.png").read_bytes()
    (images / "train1.png").write_bytes(whole[: len(whole) // 2])
    (images / "train2.png").write_text("no image")
    data = load_split(root, "train")
    assert [r.image_id for r in data.records] == [13]
    assert data.problems == {"missing_images": 1, "unreadable_images": 2}
    assert data.unreadable == ("train0.png", "train1.png", "train2.png")
    assert "train1.png" in data.problem_summary
    assert [image["id"] for image in data.ground_truth()["images"]] == [13]


def test_an_image_that_was_repaired_is_seen_again(write_coco):
    root = write_coco(boxes=[[BOX], [BOX]])
    path = root / "images" / "train0.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert len(load_split(root, "train").records) == 1
    path.write_bytes(whole)
    assert len(load_split(root, "train").records) == 2


def test_the_file_decides_the_size(write_coco):
    root = write_coco(boxes=[[(1, (30, 30, 30, 10))], [BOX]])
    Image.new("RGB", (50, 40)).save(root / "images" / "train0.png")
    data = load_split(root, "train")
    assert (data.records[0].height, data.records[0].width) == (40, 50)
    assert data.problems == {"size_mismatches": 1, "clipped_boxes": 1}
    assert data.ground_truth()["images"][0]["width"] == 50


@pytest.mark.parametrize(
    ("images", "annotations"),
    [
        ("images", "train.json"),
        ("images/train", "train.json"),
        ("train", "instances_train.json"),
        ("train2017", "instances_train2017.json"),
        (".", "instances_train2017.json"),
    ],
)
def test_folder_layouts(write_coco, images, annotations):
    assert len(load_split(write_coco(boxes=[[BOX], []], images=images, annotations=annotations), "train").records) == 2


def test_missing_folder(tmp_path):
    message = message_of(tmp_path / "absent")
    assert "absent' does not exist" in message and "--data shapes" in message
    (tmp_path / "file").touch()
    assert "is not a folder" in message_of(tmp_path / "file")


def test_missing_annotations(write_coco):
    message = message_of(write_coco(boxes=[[BOX]]), "val")
    assert "val.json" in message and "instances_val*.json" in message and "--data shapes" in message


def test_ambiguous_annotations(write_coco):
    write_coco(boxes=[[BOX]], annotations="instances_train2014.json")
    message = message_of(write_coco(boxes=[[BOX]], annotations="instances_train2017.json"))
    assert "instances_train2014.json, instances_train2017.json" in message


@pytest.mark.parametrize("text", ["", "{'images': []}", "\x00", "[1, 2", "\ud800"])
def test_malformed_json(write_coco, text):
    root = write_coco(boxes=[[BOX]])
    (root / "annotations" / "train.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert "train.json is not readable JSON" in message_of(root)


@pytest.mark.parametrize("document", [[], {}, {"images": [], "annotations": {}, "categories": []}, {"images": ["a"]}])
def test_json_of_another_structure(write_coco, document):
    root = write_coco(boxes=[[BOX]])
    (root / "annotations" / "train.json").write_text(json.dumps(document))
    assert "is not COCO JSON" in message_of(root)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d["images"][0].pop("file_name"), "needs an integer 'id' and a 'file_name'"),
        (lambda d: d["images"][0].update(id="a"), "needs an integer 'id' and a 'file_name'"),
        (lambda d: d["images"].append(d["images"][0]), "image id 10 is listed twice"),
        (lambda d: d["categories"].append(d["categories"][0]), "category id 1 is listed twice"),
        (lambda d: d["categories"][0].pop("name"), "needs an integer 'id' and a 'name'"),
        (lambda d: d["categories"].clear(), "lists no categories"),
        (lambda d: d["images"].clear(), "lists no images"),
        (lambda d: d["annotations"].clear(), "no usable box on its 2 readable images"),
        (lambda d: [a.update(iscrowd=1) for a in d["annotations"]], "no usable box"),
        (lambda d: [a.update(bbox=[0, 0, 0, 0]) for a in d["annotations"]], "(2 zero size boxes)"),
    ],
)
def test_structure_errors_name_the_entry(write_coco, change, expected):
    root = write_coco(boxes=[[BOX], [BOX]])
    edit(root, change)
    assert expected in message_of(root)


def test_annotations_without_images(write_coco):
    root = write_coco(boxes=[[BOX], [BOX]])
    for path in (root / "images").iterdir():
        path.unlink()
    message = message_of(root)
    assert "none of the 2 images" in message and "'train0.png'" in message and str(root / "images") in message


def test_only_unreadable_images(write_coco):
    root = write_coco(boxes=[[BOX]])
    (root / "images" / "train0.png").write_bytes(b"")
    assert "none of the 1 images" in message_of(root)


def test_an_empty_validation_set(write_coco):
    assert "val.json lists no images" in message_of(write_coco("val", boxes=[]), "val")


def test_unknown_split(write_coco):
    assert "unknown split 'test'; known: train, val" in message_of(write_coco(boxes=[[BOX]]), "test")


def test_splits_have_to_list_the_same_categories(write_coco):
    train = load_split(write_coco(boxes=[[BOX, (2, (1, 1, 5, 5))]]), "train")
    check_splits(train, load_split(write_coco("val", boxes=[[BOX]]), "val"))
    renamed = load_split(write_coco("val", boxes=[[BOX]], categories={1: "cat", 2: "cow"}), "val")
    with pytest.raises(DataError, match="id 2 is 'dog' in train and 'cow' in val"):
        check_splits(train, renamed)
    fewer = load_split(write_coco("val", boxes=[[BOX]], categories={1: "cat"}), "val")
    with pytest.raises(DataError, match="id 2 is 'dog' in train and not listed in val"):
        check_splits(train, fewer)


def test_the_fingerprint_follows_the_content_and_not_the_place(write_coco):
    first = load_split(write_coco(boxes=[[BOX]], name="a"), "train").fingerprint
    assert first == load_split(write_coco(boxes=[[BOX]], name="b"), "train").fingerprint
    assert first != load_split(write_coco(boxes=[[(1, (5, 6, 10, 13))]], name="c"), "train").fingerprint
    assert first != load_split(write_coco(boxes=[[(2, (5, 6, 10, 12))]], name="d"), "train").fingerprint
    assert first != load_split(write_coco(boxes=[[BOX], []], name="e"), "train").fingerprint


def test_the_synthetic_set_is_asked_for_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="'shapes' lies in the folder of a run that was trained on it"):
        load_split(Path("shapes"), "val")
