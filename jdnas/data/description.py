"""A data set's records as one file, so that other machines need not read and check its images again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jdnas.atomic import write_atomically
from jdnas.data.records import DetectionSet, Record
from jdnas.errors import DataError

_KEY = "jdnas_data"
_PER_IMAGE = ("image_id", "height", "width")
_PER_BOX = ("boxes_xyxy", "labels", "crowd", "areas")


def save_description(path: Path, data: DetectionSet, files: Sequence[str]) -> None:
    """Write all of a split but its pixels; `files` are the paths that its images are to be looked for at, in order."""
    header = {
        "name": data.name, "split": data.split, "classes": data.classes, "category_ids": data.category_ids, "files": list(files),
        "problems": data.problems, "unreadable": data.unreadable,
    }  # fmt: skip
    tensors: dict[str, NDArray[Any]] = {key: np.array([getattr(r, key) for r in data.records], np.int64) for key in _PER_IMAGE}
    tensors["boxes"] = np.array([len(r.labels) for r in data.records], np.int64)
    tensors |= {key: np.concatenate([getattr(r, key) for r in data.records]) for key in _PER_BOX}
    write_atomically(path, save(tensors, metadata={_KEY: json.dumps(header)}))


def load_description(path: Path, root: Path) -> DetectionSet:
    """Read what `save_description` wrote; relative image paths are below `root`. A DataError says that the file cannot be used."""
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is no description of a data set ({error}); start the search again, which writes it") from error
    ends = np.cumsum(tensors["boxes"])[:-1]
    parts = [np.split(tensors[key], ends) for key in _PER_BOX]
    numbers = [tensors[key].tolist() for key in _PER_IMAGE]
    records = tuple(
        Record(image_id, root / name, height, width, *boxes)
        for name, image_id, height, width, *boxes in zip(header["files"], *numbers, *parts, strict=True)
    )
    return DetectionSet(
        name=header["name"], root=root, split=header["split"], classes=tuple(header["classes"]),
        category_ids=tuple(header["category_ids"]), records=records, problems=header["problems"], unreadable=tuple(header["unreadable"]),
    )  # fmt: skip
