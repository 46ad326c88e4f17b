"""Reading a data set from a folder: in COCO format, or in one of those that `jdnas.data.layouts` brings into it."""

import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

from jdnas.data.annotations import Entry, is_int, record
from jdnas.data.images import image_size_hw
from jdnas.data.layouts import read_layout
from jdnas.data.records import DetectionSet, Record, Split, name_in
from jdnas.errors import DataError, unknown_name

__all__ = ["DetectionSet", "Record", "Split", "check_splits", "image_ids", "load_split"]

_EMBEDDED = "or use the embedded default: --data shapes"


def load_split(root: Path, split: Split, on_image: Callable[[int, int], None] | None = None) -> DetectionSet:
    """Read `annotations/<split>.json` (or `instances_<split>*.json`) of a folder and check every image that it names.

    A folder without them may be one in YOLO or Pascal VOC format (`jdnas.data.layouts`); all that follows holds for it as well.
    Images lie in `images/`, `images/<split>/`, `<split>/` or the folder itself. Category ids are mapped to 1..K in order of id.
    Images that are missing or do not decode, and boxes without area, outside their image or of an unknown category are
    left out, boxes that reach over the edge are clipped, and all of it is counted in `problems`. Crowd regions are kept for
    evaluation. `on_image` is told how many of how many images were checked. A DataError says what cannot be used and what to do.
    """
    root = Path(root)
    if split not in get_args(Split):
        raise DataError(unknown_name("split", split, get_args(Split)))
    coco = root.is_dir() and any((root / "annotations").glob("*.json"))
    other = read_layout(root, split) if root.is_dir() and not coco else None
    if other is not None:
        document, annotations_path = other
    else:
        annotations_path = _find_annotations(root, split)
        document = _read_document(annotations_path)
    categories = _categories(document["categories"], annotations_path)
    problems: Counter[str] = Counter()
    boxes = _boxes_of_images(document["annotations"], image_ids(document["images"], annotations_path), problems)
    flawed: dict[str, list[str]] = {}
    images, skipped = _readable_images(document["images"], root, annotations_path, split, problems, flawed, on_image)
    labels = {category_id: label for label, category_id in enumerate(categories, start=1)}
    records = _records(images, root, boxes, labels, problems, flawed)
    data = DetectionSet(
        name=root.resolve().name, root=root, split=split, classes=tuple(categories.values()), category_ids=tuple(categories),
        records=records, problems={reason: problems[reason] for reason in sorted(problems) if problems[reason]},
        unreadable=skipped, flawed={reason: tuple(names) for reason, names in flawed.items()},
    )  # fmt: skip
    if not any(len(r.labels) and not r.crowd.all() for r in records):
        found = f" ({data.problem_summary})" if data.problems else ""
        raise DataError(f"{annotations_path} has no usable box on its {len(records)} readable images{found}; annotate some, {_EMBEDDED}")
    return data


def _records(
    images: list[tuple[int, Path, tuple[int, int]]], root: Path, boxes: dict[int, list[Entry]], labels: dict[int, int],
    problems: Counter[str], flawed: dict[str, list[str]],
) -> tuple[Record, ...]:  # fmt: skip
    """Return the records; what is wrong with boxes is counted in `problems`, and their images are named in `flawed`, by reason."""
    records = []
    for image_id, path, size_hw in images:
        own: Counter[str] = Counter()
        records.append(record(image_id, path, size_hw, boxes.get(image_id, []), labels, own))
        for reason in +own:
            flawed.setdefault(reason, []).append(name_in(root, path))
        problems.update(own)
    return tuple(records)


def check_splits(train: DetectionSet, val: DetectionSet) -> None:
    """Raise a DataError unless both splits list the same categories; a class without validation boxes is fine."""
    listed = [dict(zip(s.category_ids, s.classes, strict=True)) for s in (train, val)]
    for category_id in sorted(listed[0].keys() | listed[1].keys()):
        first, second = (repr(names[category_id]) if category_id in names else "not listed" for names in listed)
        if first != second:
            raise DataError(
                f"the categories of {train.root} disagree: id {category_id} is {first} in train and {second} in val; "
                "give both annotation files the same 'categories'"
            )


def _find_annotations(root: Path, split: Split) -> Path:
    if str(root) == "shapes" and not root.exists():
        raise DataError(
            "the synthetic set 'shapes' lies in the folder of a run that was trained on it; give that, such as runs/demo/shapes"
        )
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"data folder {str(root)!r} {what}; give one with images/ and annotations/{{train,val}}.json, {_EMBEDDED}")
    folder = root / "annotations"
    exact = folder / f"{split}.json"
    if exact.is_file():
        return exact
    found = sorted(folder.glob(f"instances_{split}*.json"))
    if len(found) > 1:
        raise DataError(f"{folder} has several files for {split!r}: {', '.join(p.name for p in found)}; copy the right one to {exact.name}")
    if not found:
        raise DataError(
            f"no annotations for {split!r}: looked for {split}.json and instances_{split}*.json in {folder}, and for a YOLO data.yaml or "
            f"Pascal VOC files; add one, {_EMBEDDED}"
        )
    return found[0]


def _read_document(path: Path) -> dict[str, list[Entry]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable JSON ({' '.join(str(error).split())}); export it again as COCO JSON") from error
    for key in ("images", "annotations", "categories"):
        entries = document.get(key) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{path} is not COCO JSON: it needs a list of objects named {key!r}; export it again as COCO JSON")
    return document  # type: ignore[no-any-return]


def _categories(entries: list[Entry], path: Path) -> dict[int, str]:
    """Return names by id, in order of id; names that occur twice get their id added."""
    names: dict[int, str] = {}
    for entry in entries:
        category_id, name = entry.get("id"), entry.get("name")
        if not is_int(category_id) or not isinstance(name, str) or not name:
            raise DataError(f"{path}: category {_short(entry)} needs an integer 'id' and a 'name'; correct it")
        if category_id in names:
            raise DataError(f"{path}: category id {category_id} is listed twice; give every category its own id")
        names[category_id] = name
    if not names:
        raise DataError(f"{path} lists no categories; add them under 'categories'")
    counts = Counter(names.values())
    return {i: names[i] if counts[names[i]] == 1 else f"{names[i]} ({i})" for i in sorted(names)}


def image_ids(entries: list[Entry], path: Path) -> set[int]:
    """Return the ids of the images of the file at `path`; a DataError where one is missing, is no integer or occurs twice."""
    ids: set[int] = set()
    for entry in entries:
        if not is_int(entry.get("id")) or not isinstance(entry.get("file_name"), str):
            raise DataError(f"{path}: image {_short(entry)} needs an integer 'id' and a 'file_name'; correct it")
        if entry["id"] in ids:
            raise DataError(f"{path}: image id {entry['id']} is listed twice; give every image its own id")
        ids.add(entry["id"])
    return ids


def _readable_images(
    entries: list[Entry],
    root: Path,
    annotations_path: Path,
    split: Split,
    problems: Counter[str],
    flawed: dict[str, list[str]],
    on_image: Callable[[int, int], None] | None = None,
) -> tuple[list[tuple[int, Path, tuple[int, int]]], tuple[str, ...]]:
    """Return (image id, file, size_hw) of every image that decodes, and the names of the others."""
    tag = annotations_path.stem.removeprefix("instances_")  # train2017, whose images COCO keeps in train2017/
    names = dict.fromkeys(("images", f"images/{split}", f"images/{tag}", split, tag, "."))
    folders = [folder for folder in (root / name for name in names) if folder.is_dir()]
    paths = [next((p for folder in folders if (p := folder / entry["file_name"]).is_file()), None) for entry in entries]
    present = [path for path in paths if path is not None]
    if not present:
        what = f"none of the {len(entries)} images of {annotations_path} exist" if entries else f"{annotations_path} lists no images"
        first = f", for instance {entries[0]['file_name']!r}; looked in {', '.join(names)} under {root}" if entries else ""
        raise DataError(f"{what}{first}; put images into {root / 'images'}, {_EMBEDDED}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes: dict[Path, tuple[int, int] | None] = {}
        for path, found in zip(present, pool.map(image_size_hw, present), strict=True):
            sizes[path] = found
            if on_image is not None:
                on_image(len(sizes), len(present))
    kept, skipped = [], []
    for entry, path in zip(entries, paths, strict=True):
        size_hw = sizes[path] if path else None
        if path is None or size_hw is None:
            reason = "missing_images" if path is None else "unreadable_images"
            problems[reason] += 1
            flawed.setdefault(reason, []).append(entry["file_name"] if path is None else name_in(root, path))
            skipped.append(entry["file_name"])
            continue
        problems["size_mismatches"] += (entry.get("height", size_hw[0]), entry.get("width", size_hw[1])) != size_hw
        kept.append((entry["id"], path, size_hw))
    if not kept:
        raise DataError(f"none of the {len(entries)} images of {annotations_path} can be read, for instance {skipped[0]!r}; repair them")
    return kept, tuple(skipped)


def _boxes_of_images(entries: list[Entry], image_ids: set[int], problems: Counter[str]) -> dict[int, list[Entry]]:
    boxes: dict[int, list[Entry]] = {}
    for entry in entries:
        image_id = entry.get("image_id")
        if not is_int(image_id) or image_id not in image_ids:
            problems["boxes_without_image"] += 1
        else:
            boxes.setdefault(image_id, []).append(entry)
    return boxes


def _short(entry: Entry) -> str:
    text = json.dumps(entry)
    return text if len(text) <= 60 else f"{text[:57]}..."
