"""Whether an artifact makes the same detections as PyTorch."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from export.settings import Tolerances

Floats = np.ndarray[Any, np.dtype[Any]]
_LEAST_IOU = 0.5


class DetectionsLike(Protocol):
    """Padded detections of a batch; entries at and after `count` are not looked at."""

    @property
    def boxes_xyxy(self) -> Tensor:
        """Boxes `[B, D, 4]` in canvas pixels."""

    @property
    def scores(self) -> Tensor:
        """Scores `[B, D]` in falling order."""

    @property
    def labels(self) -> Tensor:
        """Labels `[B, D]`, 1..K."""

    @property
    def count(self) -> Tensor:
        """Number of detections `[B]`."""


class ImageBatch(Protocol):
    """Images `[B, 3, H, W]` and their true sizes `[B, 2]`."""

    @property
    def images(self) -> Tensor:
        """Normalized images."""

    @property
    def sizes_hw(self) -> Tensor:
        """Scaled true sizes."""


Predict = Callable[[Tensor, Tensor], DetectionsLike]


@dataclass(frozen=True, slots=True)
class ParityResult:
    """The comparison of two detectors on the same images.

    `matched` is the share of detections of either side that have a partner; `borderline` counts those without one whose score lies
    within the tolerance of the threshold (or of the last place, where a side is full), `unmatched` all others without a partner.
    `mean_box_px` and `mean_score` are the mean differences of partners; `moved` is `disagreement` over all images. `ap` is the runner's,
    `delta_ap` how far it is from the reference's.
    """

    images: int
    detections: int
    matched: float
    borderline: int
    unmatched: int
    max_box_px: float
    max_score: float
    mean_box_px: float
    mean_score: float
    moved: float
    ap: float | None
    delta_ap: float | None
    passed: bool
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {name: getattr(self, name) for name in self.__slots__}


def compare(
    reference: Predict, runner: Predict, batches: Iterable[ImageBatch], *, tolerances: Tolerances | None = None,
    reference_ap: float | None = None, runner_ap: float | None = None,
) -> ParityResult:  # fmt: skip
    """Run both detectors on `batches` and compare their detections image by image; APs are compared when both are given.

    Where neither detects anything on any image and no AP is compared, nothing was proven, which fails.
    Detections of one label are matched greedily by IoU, in falling order of the reference's scores.
    """
    limits = tolerances or Tolerances()
    tally = _Tally(limits)
    for batch in batches:
        ours, theirs = reference(batch.images, batch.sizes_hw), runner(batch.images, batch.sizes_hw)
        for index in range(len(batch.images)):
            tally.add(_image(ours, index), _image(theirs, index))
    delta = None if reference_ap is None or runner_ap is None else runner_ap - reference_ap
    return tally.result(runner_ap, delta)


@dataclass(frozen=True, slots=True)
class _Image:
    boxes: Floats
    scores: Floats
    labels: Floats
    full: bool


def _image(detections: DetectionsLike, index: int) -> _Image:
    count = int(detections.count[index])
    fields = (detections.boxes_xyxy, detections.scores, detections.labels)
    boxes, scores, labels = (field[index, :count].detach().cpu().numpy() for field in fields)
    return _Image(boxes, scores, labels, full=count == detections.scores.shape[1])


class _Tally:
    def __init__(self, limits: Tolerances) -> None:
        self.limits = limits
        self.images = self.detections = self.partners = self.borderline = self.unmatched = 0
        self.max_box = self.max_score = self.sum_box = self.sum_score = self.differs = self.mass = 0.0

    def add(self, ours: _Image, theirs: _Image) -> None:
        pairs = _match(ours, theirs)
        self.images += 1
        self.detections += len(ours.scores) + len(theirs.scores)
        self.partners += 2 * len(pairs)
        for a, b in pairs:
            box, score = float(np.abs(ours.boxes[a] - theirs.boxes[b]).max()), float(abs(ours.scores[a] - theirs.scores[b]))
            self.max_box, self.max_score = max(self.max_box, box), max(self.max_score, score)
            self.sum_box, self.sum_score = self.sum_box + box, self.sum_score + score
        differs, mass = _score_mass(ours, theirs, pairs)
        self.differs, self.mass = self.differs + differs, self.mass + mass
        for side, other, taken in ((ours, theirs, {a for a, _ in pairs}), (theirs, ours, {b for _, b in pairs})):
            # Who has no partner was dropped by the other side: below its threshold, or beyond its last place.
            last_place = float(other.scores.min()) if other.full and len(other.scores) else 0.0
            edge = max(self.limits.score_threshold, last_place) + (self.limits.score or 0.0)
            scores = [float(score) for index, score in enumerate(side.scores) if index not in taken]
            self.borderline += sum(score <= edge for score in scores)
            self.unmatched += sum(score > edge for score in scores)

    def result(self, ap: float | None, delta_ap: float | None) -> ParityResult:
        limits = self.limits
        moved = self.differs / self.mass if self.mass else 0.0
        checks = [
            (self.max_box, limits.box_px, "box difference", " px"), (self.max_score, limits.score, "score difference", ""),
            (moved, limits.moved, "share of scores that moved", ""),
        ]  # fmt: skip
        if delta_ap is not None:
            checks.append((abs(delta_ap), limits.ap, "AP difference", ""))
        # not <=: a comparison with NaN fails.
        problems = [
            f"{what} {got:.2g}{unit} exceeds {limit:g}{unit}" for got, limit, what, unit in checks if limit is not None and not got <= limit
        ]
        if limits.unmatched is not None and self.unmatched > limits.unmatched * self.detections:
            problems.append(f"{self.unmatched} of {self.detections} detections have no partner")
        if not self.images:
            problems.append("there was no image to compare")
        elif not self.detections and delta_ap is None:
            problems.append(f"neither side detected anything on {self.images} images, so that nothing was compared; "
                            "compare on images with objects: --data FOLDER")  # fmt: skip
        good = f"{self.detections} detections on {self.images} images agree: {self.max_box:.2g} px, {self.max_score:.2g} in score"
        if delta_ap is not None:
            good += f", {delta_ap:+.4f} AP"
        matched, pairs = self.partners / self.detections if self.detections else 1.0, max(1, self.partners // 2)
        return ParityResult(
            self.images, self.detections, matched, self.borderline, self.unmatched, self.max_box, self.max_score,
            self.sum_box / pairs, self.sum_score / pairs, moved, ap, delta_ap,
            not problems, "; ".join(problems) or good,
        )  # fmt: skip


def disagreement(ours: DetectionsLike, theirs: DetectionsLike) -> float:
    """Return the share of scores that one side has and the other has not, over all images of a batch.

    Partners differ by the difference of their scores, and by the part of the lower one that their boxes do not share; who has no partner
    differs by all of its score. Confident detections count most; 0 is equality, 1 nothing in common.
    """
    total = mass = 0.0
    for index in range(len(ours.count)):
        first, second = _image(ours, index), _image(theirs, index)
        part, own = _score_mass(first, second, _match(first, second))
        total, mass = total + part, mass + own
    return total / mass if mass else 0.0


def _score_mass(ours: _Image, theirs: _Image, pairs: list[tuple[int, int]]) -> tuple[float, float]:
    # What differs, and all that there is, of both sides.
    mass = float(ours.scores.sum() + theirs.scores.sum())
    shared = 0.0
    if pairs:
        first, second = (np.array(side) for side in zip(*pairs, strict=True))
        overlaps = np.diagonal(_iou(ours.boxes[first], theirs.boxes[second]))
        shared = float((2 * np.minimum(ours.scores[first], theirs.scores[second]) * overlaps).sum())
    return mass - shared, mass


def _match(ours: _Image, theirs: _Image) -> list[tuple[int, int]]:
    overlaps = _iou(ours.boxes, theirs.boxes) * (ours.labels[:, None] == theirs.labels[None, :])
    # Equal boxes of one label may occur twice: among those the closer score decides.
    overlaps = overlaps - 1e-3 * np.abs(ours.scores[:, None] - theirs.scores[None, :])
    pairs = []
    for a in np.argsort(-ours.scores, kind="stable"):
        if overlaps.shape[1] and overlaps[a].max() >= _LEAST_IOU:
            b = int(overlaps[a].argmax())
            overlaps[:, b] = -1.0
            pairs.append((int(a), b))
    return pairs


def _iou(first: Floats, second: Floats) -> Floats:
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    return np.asarray(shared / np.maximum(areas[0][:, None] + areas[1][None, :] - shared, 1e-12))
