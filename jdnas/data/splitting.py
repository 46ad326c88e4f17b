"""One folder of images and one COCO file, made into a data set with a training and a validation split."""

import json
import os
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jdnas.atomic import write_atomically
from jdnas.data.annotations import Entry
from jdnas.data.coco import image_ids
from jdnas.errors import DataError

Document = dict[str, list[Entry]]
PARTS = ("images", "annotations", "categories")


def split_data(images: Path, annotations: Path, out: Path, *, share: float, seed: int) -> dict[str, int]:
    """Write `out/images` and `out/annotations/{train,val}.json`; return the images of each split.

    About `share` of the images of each class go to validation, rare classes first, at least one of each class that has two. Image files
    are linked where the file system can, else copied. The same arguments give the same split. A DataError says what is wrong, before
    anything is written.
    """
    if not 0 < share < 1:
        raise DataError(f"--val must be between 0 and 1, got {share:g}")
    document, place = _read(annotations), out / "annotations"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty; choose another --out")
    if not images.is_dir():
        raise DataError(f"{images} is no folder; give the one that the file names in {annotations} are relative to")
    files: dict[int, str] = {entry["id"]: entry["file_name"] for entry in document["images"]}
    outside = [name for name in files.values() if not (out / "images" / name).resolve().is_relative_to((out / "images").resolve())]
    if outside:
        raise DataError(f"{annotations} names files outside of its folder of images; the first: {outside[0]}")
    missing = [name for name in files.values() if not (images / name).is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(files)} images of {annotations} are not in {images}; the first: {missing[0]}")
    held = validation_images(classes_of_images(document), share=share, seed=seed)
    if len(held) == len(files):
        raise DataError(f"--val {share:g} holds out all {len(files)} images of {annotations}, none is left to train on; give less")
    for name in files.values():
        _link(images / name, out / "images" / name)
    for split, chosen in (("train", files.keys() - held), ("val", held)):
        part: dict[str, Any] = {**document, "images": [entry for entry in document["images"] if entry["id"] in chosen],
                                "annotations": [entry for entry in document["annotations"] if entry.get("image_id") in chosen]}  # fmt: skip
        write_atomically(place / f"{split}.json", json.dumps(part).encode())
    return {"train": len(files) - len(held), "val": len(held)}


def classes_of_images(document: Document) -> dict[Any, set[Any]]:
    """Return the category ids that are on each image, by image id."""
    found: dict[Any, set[Any]] = {entry["id"]: set() for entry in document["images"]}
    for entry in document["annotations"]:
        if entry.get("image_id") in found:
            found[entry["image_id"]].add(entry.get("category_id"))
    return found


def validation_images(classes: Mapping[Any, set[Any]], *, share: float, seed: int) -> set[Any]:
    """Choose about `share` of the images for validation, and of the images of every class, from the rarest class on."""
    order = sorted(classes, key=str)
    random.Random(seed).shuffle(order)
    of_class: dict[Any, list[Any]] = defaultdict(list)
    for image in order:
        for category in classes[image] or {None}:  # images without boxes are a class of their own
            of_class[category].append(image)
    held: set[Any] = set()
    seen: set[Any] = set()
    alone = {members[0] for members in of_class.values() if len(members) == 1}
    for category in sorted(of_class, key=lambda category: (len(of_class[category]), str(category))):
        members = of_class[category]
        wanted = max(round(share * len(members)), 1 if len(members) > 1 else 0) - sum(image in held for image in members)
        held.update([image for image in members if image not in seen][: max(0, wanted)])
        if len(members) > 1 and held.isdisjoint(members):  # all were left to training for rarer classes; the only image of one stays there
            held.update([image for image in members if image not in alone][:1])
        seen.update(members)
    return held or set(order[:1])


def _read(path: Path) -> Document:
    """Read a COCO file for what a split needs."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"no such annotation file: {path}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); export the annotations in COCO format") from error
    if not isinstance(document, dict) or not all(_lists_objects(document.get(part)) for part in PARTS):
        raise DataError(f"{path} is no COCO file: it needs the lists {', '.join(PARTS)}")
    if len(document["images"]) < 2:
        raise DataError(f"{path} lists {len(document['images'])} images; two splits need at least 2")
    image_ids(document["images"], path)
    name, count = Counter(os.path.normpath(entry["file_name"]) for entry in document["images"]).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path} lists {name!r} as {count} images; list every file once, and give all of its boxes that image_id")
    return document


def _lists_objects(part: Any) -> bool:
    return isinstance(part, list) and all(isinstance(entry, dict) for entry in part)


def _link(source: Path, target: Path) -> None:
    """Put a file at `target`: as a hard link, or as a copy where that cannot be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
