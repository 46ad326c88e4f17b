"""YOLO and Pascal VOC folders as COCO documents; supervision reads the annotation files, one at a time.

    YOLO         data.yaml with `names`; images/<split>/, labels/<split>/ (Ultralytics), or <split>/images/, <split>/labels/ (Roboflow)
    Pascal VOC   JPEGImages/, Annotations/ and ImageSets/Main/<split>.txt (the challenge's), or <split>/ with images and XML side by side

The validation split may also be called `valid`.
"""

import importlib
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import yaml

from jdnas.data.annotations import Entry
from jdnas.data.images import image_size_hw
from jdnas.data.records import Split
from jdnas.errors import DataError

Document = dict[str, list[Entry]]
_IMAGE_SUFFIXES = frozenset({".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"})
_NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid")}
_MALFORMED: Entry = {"bbox": None}


def read_layout(root: Path, split: Split) -> tuple[Document, Path] | None:
    """Return a split as a COCO document, with image files named from `root` on, and what it was read from; None for other folders.

    Boxes that cannot be read are in it as entries without a box, so that they are counted with all others.
    """
    description = next((path for name in ("data", "dataset") if (path := root / f"{name}.yaml").is_file()), None)
    if description is not None:
        return _yolo(root, split, description), description
    folders = _voc_files(root, split)
    return None if folders is None else (_voc(root, *folders), folders[1])


def _yolo(root: Path, split: Split, description: Path) -> Document:
    names = _yolo_names(description)
    folder = _yolo_folder(root, split, description)
    inside = folder.resolve().relative_to(root.resolve())
    parts = list(folder.parts)
    at = max((i for i, part in enumerate(parts) if part == "images"), default=-1)
    labels = Path(*parts[:at], "labels", *parts[at + 1 :]) if at >= 0 else folder
    images = _images_in(folder)
    annotations = [
        {**entry, "image_id": number}
        for number, image in enumerate(images, 1)
        for entry in _yolo_boxes(labels / f"{image.stem}.txt", image)
    ]
    return {
        "images": [{"id": number, "file_name": str(inside / path.name)} for number, path in enumerate(images, 1)],
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in names.items()],
    }


def _yolo_names(description: Path) -> dict[int, str]:
    try:
        names = yaml.safe_load(description.read_text(encoding="utf-8-sig"))["names"]
        listed = dict(enumerate(names)) if isinstance(names, list) else {int(index): name for index, name in names.items()}
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{description} lists no class names ({' '.join(str(error).split())}); give it `names:` as a list") from error
    return {index: str(name) for index, name in sorted(listed.items())}


def _yolo_folder(root: Path, split: Split, description: Path) -> Path:
    entries: dict[str, Any] = yaml.safe_load(description.read_text(encoding="utf-8-sig"))
    named = [entries.get(name) for name in _NAMES[split]]
    # Exports name folders relative to places that only the exporting machine has, so the usual places are tried as well.
    wanted = [str(Path(str(entries.get("path", ""))) / name) for name in named if isinstance(name, str)]
    wanted += [name.removeprefix("../") for name in named if isinstance(name, str)]
    wanted += [place for name in _NAMES[split] for place in (f"images/{name}", f"{name}/images")]
    for name in wanted:
        folder = root / name
        if folder.is_dir() and folder.resolve().is_relative_to(root.resolve()):
            return folder
    raise DataError(f"no {split} images for {description}: looked in {', '.join(dict.fromkeys(wanted))} under {root}; put them there")


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES)


def _yolo_boxes(labels: Path, image: Path) -> Iterator[Entry]:
    size_hw = image_size_hw(image)
    if size_hw is None or not labels.is_file():  # an image that cannot be read is counted as such; one without labels has no object
        return
    read = _reader("yolo").yolo_annotations_to_detections
    for line in labels.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        if not line.strip():
            continue
        try:
            yield from _entries(read([line], (size_hw[1], size_hw[0]), with_masks=False), first_id=0)
        except (ValueError, OverflowError):
            yield _MALFORMED


def _reader(name: str) -> Any:
    with warnings.catch_warnings():
        # Without OpenCV supervision says so at every start; what is read here needs none.
        warnings.filterwarnings("ignore", message=r"OpenCV .* is not installed", category=UserWarning)
        return importlib.import_module(f"supervision.dataset.formats.{name}")


def _entries(detections: Any, *, first_id: int) -> Iterator[Entry]:
    for (x1, y1, x2, y2), index in zip(detections.xyxy.tolist(), detections.class_id.tolist(), strict=True):
        yield {"category_id": index + first_id, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}


def _voc_files(root: Path, split: Split) -> tuple[list[Path], Path, dict[str, Path], list[Path]] | None:
    """Return the images of a split, the folder or list that names them, the XML file of each stem, and the XML files of all splits."""
    if (root / "Annotations").is_dir():
        listed = next((path for name in _NAMES[split] if (path := root / "ImageSets" / "Main" / f"{name}.txt").is_file()), None)
        if listed is None:
            raise DataError(f"no {split} images: {root / 'ImageSets' / 'Main'} has no {split}.txt; write the images' names into it")
        folder = next((root / name for name in ("JPEGImages", "images") if (root / name).is_dir()), root)
        found = {path.stem: path for path in _images_in(folder)}
        stems = dict.fromkeys(line.split()[0] for line in listed.read_text().splitlines() if line.strip())
        every = sorted((root / "Annotations").glob("*.xml"))
        return [found.get(stem, folder / f"{stem}.jpg") for stem in stems], listed, {path.stem: path for path in every}, every
    folders = {name: root / name for names in _NAMES.values() for name in names if (root / name).is_dir()}
    own = next((folders[name] for name in _NAMES[split] if name in folders), None)
    every = sorted(path for folder in folders.values() for path in folder.glob("*.xml"))
    if own is None or not every:
        return None
    return _images_in(own), own, {path.stem: path for path in every if path.parent == own}, every


def _voc(root: Path, images: list[Path], source: Path, annotations: dict[str, Path], every: list[Path]) -> Document:
    trees = {path: _objects(path) for path in every}
    classes = sorted({name for objects in trees.values() for _, name in objects or [] if name})
    if not classes:
        raise DataError(f"no XML file beside {source} names an object; export the annotations again as Pascal VOC")
    entries = []
    for number, image in enumerate(images, 1):
        path = annotations.get(image.stem)
        if path is not None:
            entries += [{**entry, "image_id": number} for entry in _voc_boxes(trees[path], image, classes)]
    return {
        "images": [{"id": number, "file_name": str(path.relative_to(root))} for number, path in enumerate(images, 1)],
        "annotations": entries,
        "categories": [{"id": index, "name": name} for index, name in enumerate(classes, 1)],
    }


def _objects(path: Path) -> list[tuple[Any, str]] | None:
    """Return the objects of an annotation file and their names; None where it is no XML."""
    from defusedxml.ElementTree import parse

    try:
        root = parse(path).getroot()
    except Exception:  # broken XML, and XML that attacks its reader
        return None
    return [(node, (node.findtext("name") or "").strip()) for node in root.findall("object")]


def _voc_boxes(objects: list[tuple[Any, str]] | None, image: Path, classes: list[str]) -> Iterable[Entry]:
    size_hw = image_size_hw(image)
    if size_hw is None:
        return
    if objects is None:
        yield _MALFORMED
        return
    read = _reader("pascal_voc").detections_from_xml_obj
    for node, name in objects:
        single = Element("annotation")
        for polygon in node.findall("polygon"):
            node.remove(polygon)
        single.append(node)
        try:
            if not name:
                raise ValueError("an object without a name")
            yield from _entries(read(single, classes, (size_hw[1], size_hw[0]))[0], first_id=1)
        except (ValueError, OverflowError):
            yield _MALFORMED
