"""YOLO and Pascal VOC folders beside the COCO folder with the same boxes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdnas.data.coco import check_splits, load_split
from jdnas.errors import DataError

BOXES = [[(0, (5, 6, 10, 12)), (1, (30, 10, 20, 25))], [], [(1, (0, 0, 60, 40))]]  # class index, xywh on 60 x 40
NAMES = ["cat", "dog"]


def save_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)


def yolo_line(index: int, xywh: tuple[float, ...]) -> str:
    x, y, w, h = xywh
    return f"{index} {(x + w / 2) / 60:.6f} {(y + h / 2) / 40:.6f} {w / 60:.6f} {h / 40:.6f}"


def voc_object(name: str, xywh: tuple[float, ...]) -> str:
    x, y, w, h = xywh  # the format counts pixels from 1 and includes the last
    box = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


def write_yolo(root: Path, style: str) -> Path:
    for split in ("train", "valid"):
        images, labels = (f"images/{split}", f"labels/{split}") if style == "ultralytics" else (f"{split}/images", f"{split}/labels")
        for number, boxes in enumerate(BOXES):
            save_image(root / images / f"{number}.png", number)
            if boxes:
                (root / labels).mkdir(parents=True, exist_ok=True)
                (root / labels / f"{number}.txt").write_text("\n".join(yolo_line(*box) for box in boxes) + "\n")
    names = "names: [cat, dog]" if style == "ultralytics" else "names: {1: dog, 0: cat}"
    (root / "data.yaml").write_text(f"{names}\nnc: 2\ntrain: ../train/images\nval: ../valid/images\n")
    return root


def write_voc(root: Path, style: str) -> Path:
    for split, name in (("train", "train"), ("val", "valid")):
        for number, boxes in enumerate(BOXES):
            stem = f"{split}{number}"
            image, xml = (
                (f"JPEGImages/{stem}.png", f"Annotations/{stem}.xml") if style == "devkit" else (f"{name}/{stem}.png", f"{name}/{stem}.xml")
            )
            save_image(root / image, number)
            (root / xml).parent.mkdir(parents=True, exist_ok=True)
            (root / xml).write_text(f"<annotation>{''.join(voc_object(NAMES[index], box) for index, box in boxes)}</annotation>")
        if style == "devkit":
            (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
            (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{split}{number} 1\n" for number in range(3)))
    return root


@pytest.mark.parametrize(
    ("write", "style"), [(write_yolo, "ultralytics"), (write_yolo, "roboflow"), (write_voc, "devkit"), (write_voc, "roboflow")]
)
def test_folders_give_the_boxes_of_the_same_coco_folder(write, style, tmp_path, write_coco):
    root = write(tmp_path / "other", style)
    coco = load_split(write_coco(boxes=[[(index + 1, box) for index, box in boxes] for boxes in BOXES]), "train")
    splits = [load_split(root, split) for split in ("train", "val")]
    check_splits(*splits)
    for data in splits:
        assert data.classes == ("cat", "dog") and data.problems == {}
        assert len(data.records) == 3
        for found, expected in zip(data.records, coco.records, strict=True):
            assert (found.height, found.width) == (40, 60)
            np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-3)
            np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.parametrize("given", ["set", "link"])
def test_a_yolo_description_may_name_its_folder_by_an_absolute_path(tmp_path, monkeypatch, given):
    root = write_yolo(tmp_path / "set", "ultralytics")
    (root / "data.yaml").write_text(f"names: [cat, dog]\npath: {root.resolve()}\ntrain: images/train\nval: images/valid\n")
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    data = load_split(Path(given), "train")
    assert [record.path for record in data.records] == [Path(given, "images", "train", f"{number}.png") for number in range(3)]
    assert [len(record.labels) for record in data.records] == [2, 0, 1]


def test_damaged_yolo_files_are_counted(tmp_path):
    root = write_yolo(tmp_path / "set", "ultralytics")
    lines = [
        yolo_line(0, (5, 6, 10, 12)),
        "1 0.5 zero 0.1 0.1",
        "0 0.5",
        yolo_line(7, (5, 6, 10, 12)),
        "0 3.5 0.5 0.1 0.1",
        "1 0.5 0.5 0 0.1",
        "",
    ]
    (root / "labels" / "train" / "0.txt").write_text("\n".join(lines))
    (root / "images" / "train" / "2.png").write_bytes(b"no image")
    data = load_split(root, "train")
    assert data.problems == {
        "malformed_boxes": 2, "unknown_category_boxes": 1, "outside_boxes": 1, "zero_size_boxes": 1, "unreadable_images": 1
    }  # fmt: skip
    assert data.unreadable == ("images/train/2.png",)
    assert [len(record.labels) for record in data.records] == [1, 0]


def test_damaged_voc_files_are_counted(tmp_path):
    root = write_voc(tmp_path / "set", "devkit")
    (root / "Annotations" / "train2.xml").write_text("<annotation><object>")
    bomb = '<!DOCTYPE a [<!ENTITY b "c">]><annotation><object><name>&b;</name></object></annotation>'
    (root / "Annotations" / "train1.xml").write_text(bomb)
    nameless, boxless = "<object><bndbox/></object>", "<object><name>dog</name></object>"
    (root / "Annotations" / "train0.xml").write_text(f"<annotation>{nameless}{boxless}{voc_object('dog', (5, 6, 10, 12))}</annotation>")
    (root / "ImageSets" / "Main" / "train.txt").write_text("train0\ntrain1\ntrain2\nabsent\n")
    data = load_split(root, "train")
    assert data.problems == {"malformed_boxes": 4, "missing_images": 1}
    assert data.classes == ("cat", "dog") and [len(record.labels) for record in data.records] == [1, 0, 0]


@pytest.mark.parametrize("text", ["nc: 2\n", "names: 3\n", "{", "names: {a: cat}\n"])
def test_yolo_descriptions_without_names(tmp_path, text):
    root = write_yolo(tmp_path / "set", "ultralytics")
    (root / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=r"data\.yaml lists no class names"):
        load_split(root, "train")


def test_splits_that_are_not_there(tmp_path):
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: /elsewhere\n")
    with pytest.raises(DataError, match=r"no train images for .*looked in .*images/train, train/images"):
        load_split(tmp_path, "train")
    (tmp_path / "voc" / "Annotations").mkdir(parents=True)
    with pytest.raises(DataError, match=r"has no val\.txt"):
        load_split(tmp_path / "voc", "val")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"no annotations for 'train'.*YOLO data\.yaml or Pascal VOC"):
        load_split(tmp_path / "nothing", "train")
