import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdnas.data.check import check_data, odd_boxes
from jdnas.data.coco import load_split
from jdnas.data.facts import facts
from jdnas.errors import DataError
from jdnas.pipeline.data_check import _drawn
from tests.data.test_layouts import write_voc, write_yolo

FINE = [(1, (5, 6, 10, 12)), (2, (30, 10, 20, 25))]


def counts(report) -> dict[str, int]:
    return {f"{finding.split} {finding.code}": finding.count for finding in report.findings}


def many(write_coco, train: list, val: list, **options) -> Path:
    """Write both splits; images of val are others than those of train."""
    root = write_coco("train", boxes=train, **options)
    write_coco("val", boxes=val, **options)
    for path in (root / "images").glob("val*.png"):
        pixels = np.random.default_rng(int(path.stem[3:]) + 500).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return root


def test_a_sound_set(write_coco) -> None:
    root = many(write_coco, [FINE * 1] * 12, [FINE] * 11)
    report = check_data(root)
    assert report.findings == () and report.errors == ()
    assert report.splits["train"].classes == {"cat": {"boxes": 12, "images": 12}, "dog": {"boxes": 12, "images": 12}}
    assert json.loads(json.dumps(report.to_dict()))["passed"] is True


def test_every_flaw_is_counted_and_named(write_coco) -> None:
    flawed = [
        (1, (0, 0, 0, 9)), (1, (500, 500, 10, 10)), (1, (50, 10, 30, 20)), (7, (1, 1, 9, 9)), {"category_id": 1, "bbox": [1, 2]},
        (2, (5, 5, 3, 20)), (2, (0, 0, 60, 39)),
    ]  # fmt: skip
    twice = [(1, (10, 10, 20, 20)), (1, (10, 10, 20, 20)), (2, (10, 10, 20, 20))]
    root = many(write_coco, [FINE] * 12 + [flawed, twice, []], [FINE] * 12)
    (root / "images" / "train0.png").write_bytes(b"no image")
    (root / "images" / "train1.png").unlink()
    report = check_data(root)
    assert counts(report) == {
        "train missing_images": 1, "train unreadable_images": 1, "train malformed_boxes": 1, "train unknown_category_boxes": 1,
        "train zero_size_boxes": 1, "train outside_boxes": 1, "train clipped_boxes": 1, "train tiny_boxes": 1, "train huge_boxes": 1,
        "train duplicate_boxes": 1, "train contradicting_boxes": 2, "train images_without_boxes": 1,
    }  # fmt: skip
    files = {finding.code: finding.files for finding in report.findings}
    assert files["unreadable_images"] == ("images/train0.png",) and files["missing_images"] == ("train1.png",)
    assert files["zero_size_boxes"] == ("images/train12.png",)
    assert files["duplicate_boxes"] == ("images/train13.png",) and files["images_without_boxes"] == ("images/train14.png",)
    assert {finding.code for finding in report.errors} == {
        "missing_images", "unreadable_images", "malformed_boxes", "unknown_category_boxes", "zero_size_boxes", "outside_boxes"
    }  # fmt: skip


def test_classes(write_coco) -> None:
    names = {1: "cat", 2: "dog", 3: "owl"}
    root = many(write_coco, [[(1, (5, 6, 10, 12))] * 1] * 300 + [[(2, (5, 6, 10, 12))]] * 2, [FINE] * 12, categories=names)
    report = check_data(root)
    found = counts(report)
    assert found == {
        "train classes_without_boxes": 1, "train rare_classes": 1, "train imbalance": 1, "val classes_without_boxes": 1,
    }  # fmt: skip
    severities = {(finding.split, finding.code): finding.severity for finding in report.findings}
    assert severities["train", "classes_without_boxes"] == "error" and severities["val", "classes_without_boxes"] == "warning"


def test_splits_that_disagree_and_cannot_be_read(write_coco) -> None:
    root = many(write_coco, [FINE] * 12, [FINE] * 12)
    path = root / "annotations" / "val.json"
    document = json.loads(path.read_text())
    document["categories"][1]["name"] = "wolf"
    path.write_text(json.dumps(document))
    report = check_data(root)
    assert counts(report) == {"both classes_differ": 1} and "'dog' in train and 'wolf' in val" in report.errors[0].message
    path.write_text("{")
    report = check_data(root)
    assert counts(report) == {"val cannot_be_read": 1} and list(report.splits) == ["train"]
    with pytest.raises(DataError, match="does not exist"):
        check_data(root / "nowhere")


def test_images_in_both_splits(write_coco) -> None:
    root = many(write_coco, [FINE] * 12, [FINE] * 12)
    images = root / "images"
    shutil.copy(images / "train3.png", images / "val5.png")
    seen: list[str] = []
    report = check_data(root, lambda what, done, total: seen.append(what))
    assert counts(report) == {"both same_image_in_both_splits": 1} and report.errors == ()
    assert report.findings[0].files == ("images/train3.png = images/val5.png",)
    assert list(dict.fromkeys(seen)) == ["reading train images", "reading val images", "comparing train images", "comparing val images"]


def test_images_of_one_name_in_two_folders_are_told_apart(write_coco) -> None:
    root = many(write_coco, [FINE] * 2 + [[*FINE, (1, (500, 500, 10, 10))]], [FINE] * 2)
    path = root / "annotations" / "train.json"
    document = json.loads(path.read_text())
    for index, entry in enumerate(document["images"]):
        (root / "images" / f"cam{index}").mkdir()
        (root / "images" / entry["file_name"]).rename(root / "images" / f"cam{index}" / "0001.png")
        entry["file_name"] = f"cam{index}/0001.png"
    path.write_text(json.dumps(document))
    report = check_data(root)
    assert {f.code: f.files for f in report.errors} == {"outside_boxes": ("images/cam2/0001.png",)}
    captions = [caption for _, caption in _drawn(report, 6, 0) if "outside boxes" in caption]
    assert captions == ["train: images/cam2/0001.png: outside boxes"]


def test_histograms_by_hand(write_coco) -> None:
    data = load_split(
        write_coco(boxes=[[(1, (0, 0, 10, 40))], [(1, (0, 0, 60, 40)), {"category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1}]]), "train"
    )
    found = facts(data)
    assert (found.images, found.boxes, found.crowd) == (2, 2, 1)

    def bins(name: str) -> dict[tuple[float, float], int]:
        one = found.histograms[name]
        return {pair: count for pair, count in zip(zip(one.edges, one.edges[1:], strict=False), one.counts, strict=True) if count}

    assert bins("image long side (px)") == {(0, 128): 2} and bins("image width / height") == {(1.4, 1.6): 2}
    assert bins("box side (px)") == {(16, 24): 1, (48, 64): 1}  # 20 and 49.0
    assert bins("box width / height") == {(0.2, 0.33): 1, (1.5, 2.0): 1}
    assert bins("box share of the image (%)") == {(10, 25): 1, (95, 100): 1}
    assert odd_boxes(data.records[1])["huge_boxes"] == 1


@pytest.mark.parametrize(("write", "style"), [(write_yolo, "ultralytics"), (write_voc, "devkit"), (write_voc, "roboflow")])
def test_other_layouts(write, style: str, tmp_path: Path) -> None:
    report = check_data(write(tmp_path / "set", style))
    assert {split: (one.images, one.boxes) for split, one in report.splits.items()} == {"train": (3, 3), "val": (3, 3)}
    found = counts(report)
    assert found["both same_image_in_both_splits"] == 3 and found["train images_without_boxes"] == 1 and report.errors == ()
