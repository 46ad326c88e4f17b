"""What is in a data set, and what of it training would stumble over."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jdnas.data.coco import check_splits, load_split
from jdnas.data.duplicates import Pairs, fingerprints, pairs_between, pairs_within
from jdnas.data.facts import SplitFacts, facts, objects_of
from jdnas.data.records import DetectionSet, Record, Split, name_in
from jdnas.errors import DataError

Severity = Literal["error", "warning", "note"]
OnProgress = Callable[[str, int, int], None]
SPLITS: tuple[Split, ...] = ("train", "val")
TINY_PX = 4.0  # the finest level of the pyramid has one cell per 4 pixels
HUGE_SHARE = 0.95
SAME_IOU = 0.95
RARE_BOXES = 10
IMBALANCE = 100.0

# What reading a split counts and what odd boxes are called: how bad it is, what it is, and what comes of it.
_LEFT_OUT = "training leaves them out"
RULES: dict[str, tuple[Severity, str, str]] = {
    "missing_images": ("error", "listed images that are not there", _LEFT_OUT),
    "unreadable_images": ("error", "images that do not decode to their end", _LEFT_OUT),
    "malformed_boxes": ("error", "boxes that are not four finite numbers", _LEFT_OUT),
    "unknown_category_boxes": ("error", "boxes of a category that is not listed", _LEFT_OUT),
    "boxes_without_image": ("error", "boxes of an image that is not listed", _LEFT_OUT),
    "zero_size_boxes": ("error", "boxes without width or height", _LEFT_OUT),
    "outside_boxes": ("error", "boxes outside their image", _LEFT_OUT),
    "size_mismatches": ("warning", "images of another size than their entry says", "the file counts"),
    "clipped_boxes": ("warning", "boxes that reach over the edge of their image", "training clips them"),
    "tiny_boxes": ("warning", f"boxes less than {TINY_PX:g} pixels wide or high", "a detector hardly sees them"),
    "huge_boxes": ("note", f"boxes that cover {100 * HUGE_SHARE:g} % of their image or more", "look whether they are meant"),
    "duplicate_boxes": ("warning", f"pairs of boxes of one class with IoU {SAME_IOU:g} or more", "one object was marked twice"),
    "contradicting_boxes": ("warning", f"pairs of boxes of two classes with IoU {SAME_IOU:g} or more", "one of them is wrong"),
    "images_without_boxes": ("note", "images without boxes", "training takes them as background"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something worth knowing: an error makes training stop or leave it out, a warning a worse or flattered result.

    `files` are the images behind it, named from the data folder on, or the surest pairs of them; `count` is of all.
    """

    severity: Severity
    code: str
    split: str
    count: int
    message: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DataReport:
    """All that was found out about a data set."""

    name: str
    root: Path
    splits: dict[str, SplitFacts]
    findings: tuple[Finding, ...]
    sets: dict[Split, DetectionSet] = field(repr=False)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that training would stumble over."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "name": self.name, "root": str(self.root), "passed": not self.errors,
            "splits": {split: asdict(facts) for split, facts in self.splits.items()},
            "findings": [asdict(finding) for finding in self.findings],
        }  # fmt: skip


def check_data(root: Path, on_progress: OnProgress | None = None) -> DataReport:
    """Examine the train and val split of a folder; a DataError where there is no such folder.

    `on_progress` is told what is done, and how much of how much of it.
    """
    if not root.is_dir():
        load_split(root, "train")  # says what is wrong
    sets: dict[Split, DetectionSet] = {}
    findings: list[Finding] = []
    for split in SPLITS:
        try:
            sets[split] = load_split(root, split, on_image=_told(on_progress, f"reading {split} images"))
        except DataError as error:
            findings.append(Finding("error", "cannot_be_read", split, 1, str(error)))
    for data in sets.values():
        findings += _of_split(data)
    findings += _of_classes(sets)
    findings += _of_duplicates(sets, on_progress)
    order = {"error": 0, "warning": 1, "note": 2}
    return DataReport(
        root.resolve().name, root, {split: facts(data) for split, data in sets.items()},
        tuple(sorted(findings, key=lambda finding: order[finding.severity])), sets,
    )  # fmt: skip


def _told(on_progress: OnProgress | None, what: str) -> Callable[[int, int], None] | None:
    return None if on_progress is None else lambda done, total: on_progress(what, done, total)


def odd_boxes(record: Record) -> Counter[str]:
    """Count the boxes of an image that can be trained on and are odd all the same, by the names in `RULES`."""
    boxes, labels = objects_of(record)
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = sides.prod(1)
    same = np.triu(_ious(boxes) >= SAME_IOU, 1)
    alike = labels[:, None] == labels[None]
    return Counter(
        tiny_boxes=int((sides.min(1, initial=np.inf) < TINY_PX).sum()),
        huge_boxes=int((areas >= HUGE_SHARE * record.height * record.width).sum()),
        duplicate_boxes=int((same & alike).sum()), contradicting_boxes=int((same & ~alike).sum()), images_without_boxes=int(not len(boxes)),
    )  # fmt: skip


def _ious(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return np.asarray(shared / (areas[:, None] + areas[None] - shared), np.float32)


def _of_split(data: DetectionSet) -> list[Finding]:
    counts, files = Counter(data.problems), {code: list(names) for code, names in data.flawed.items()}
    for record in data.records:
        for code, count in odd_boxes(record).items():
            if count:
                counts[code] += count
                files.setdefault(code, []).append(name_in(data.root, record.path))
    return [
        Finding(severity, code, data.split, counts[code], f"{what}: {counts[code]}; {so}", tuple(files.get(code, ())))
        for code, (severity, what, so) in RULES.items()
        if counts[code]
    ]


def _of_classes(sets: dict[Split, DetectionSet]) -> list[Finding]:
    """Look at classes: the same ones in both splits, each with boxes, none far rarer than another."""
    findings = []
    if len(sets) == len(SPLITS):
        try:
            check_splits(sets["train"], sets["val"])
        except DataError as error:
            findings.append(Finding("error", "classes_differ", "both", 1, str(error)))
    for split, data in sets.items():
        found = {name: row["boxes"] for name, row in facts(data).classes.items()}
        absent = [name for name, count in found.items() if not count]
        if absent:
            severity: Severity = "error" if split == "train" else "warning"
            what = "cannot be learned" if split == "train" else "get no AP"
            findings.append(
                Finding(severity, "classes_without_boxes", split, len(absent), f"classes without boxes {what}: {', '.join(absent)}")
            )
        rare = [f"{name} ({count})" for name, count in found.items() if 0 < count < RARE_BOXES]
        if rare:
            text = f"classes with fewer than {RARE_BOXES} boxes: {', '.join(rare)}"
            findings.append(Finding("warning", "rare_classes", split, len(rare), text))
        present = [count for count in found.values() if count]
        if split == "train" and present and max(present) >= IMBALANCE * min(present):
            text = (f"the most frequent class has {max(present) / min(present):.0f} times the boxes of the rarest; "
                    "show rare ones more often with --set data_settings.repeat_threshold=0.01")  # fmt: skip
            findings.append(Finding("note", "imbalance", split, 1, text))
    return findings


def _of_duplicates(sets: dict[Split, DetectionSet], on_progress: OnProgress | None) -> list[Finding]:
    seen = {
        split: fingerprints([record.path for record in data.records], _told(on_progress, f"comparing {split} images"))
        for split, data in sets.items()
    }
    findings = []
    if len(seen) == len(SPLITS):
        same, alike = pairs_between(seen["train"], seen["val"])
        root = sets["train"].root
        findings += _leaks(same, root, "same_image_in_both_splits", "that are the same file in train and val")
        findings += _leaks(alike, root, "like_image_in_both_splits", "that look alike in train and val")
    for split, files in seen.items():
        within = pairs_within(files)
        if within.count:
            text = f"pairs of images that are the same or look alike within {split}: {within.count}"
            findings.append(Finding("note", "like_images_within_split", split, within.count, text, _names(within, sets[split].root)))
    return findings


def _leaks(pairs: Pairs, root: Path, code: str, words: str) -> list[Finding]:
    if not pairs.count:
        return []
    text = f"pairs of images {words}: {pairs.count}; they flatter validation figures"
    return [Finding("warning", code, "both", pairs.count, text, _names(pairs, root))]


def _names(pairs: Pairs, root: Path) -> tuple[str, ...]:
    return tuple(f"{name_in(root, pair.first)} = {name_in(root, pair.second)}" for pair in pairs.named)
