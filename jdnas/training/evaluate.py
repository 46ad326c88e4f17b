"""COCO average precision of a detector, or of anything that detects like one."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jdnas.data.batches import Colour, Size, eval_batches
from jdnas.data.records import DetectionSet
from jdnas.errors import ConfigError, unknown_name

Engine = Literal["faster", "pycocotools"]
ArrayLike = Tensor | NDArray[Any]
STAT_NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")


class DetectionsLike(Protocol):
    """Detections of a batch as tensors or arrays: boxes `[B, D, 4]` xyxy in canvas pixels, scores and labels `[B, D]`, count `[B]`."""

    @property
    def boxes_xyxy(self) -> ArrayLike: ...  # noqa: D102

    @property
    def scores(self) -> ArrayLike: ...  # noqa: D102

    @property
    def labels(self) -> ArrayLike: ...  # noqa: D102

    @property
    def count(self) -> ArrayLike: ...  # noqa: D102  (hides tuple.count, as the detector's named tuple does)


Predict = Callable[[Tensor, Tensor], DetectionsLike]


@dataclass(frozen=True, slots=True)
class Metrics:
    """COCO metrics in 0..1: averaged over IoU 0.50:0.95 unless the name says 50 or 75, with at most 100 detections an image.

    An area metric is -1 where the set has no box of that size (below 32², 32² to 96², above 96² square pixels of the original image).
    per_class: AP of the classes that have ground truth. images, detections: how many were evaluated.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    per_class: dict[str, float]
    images: int
    detections: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def evaluate(
    predict: Predict, data: DetectionSet, *, size_hw: Size, batch: int, mean: Colour, std: Colour,
    on_batch: Callable[[int], None] | None = None, engine: Engine = "faster", device: str | torch.device = "cpu", workers: int = 0,
) -> Metrics:  # fmt: skip
    """Detect on every image of a set and score the detections; the arguments are those of `collect_detections` and `score`."""
    results = collect_detections(
        predict, data, size_hw=size_hw, batch=batch, mean=mean, std=std, on_batch=on_batch, device=device, workers=workers
    )
    return score(data, results, engine=engine)


def collect_detections(
    predict: Predict, data: DetectionSet, *, size_hw: Size, batch: int, mean: Colour, std: Colour,
    on_batch: Callable[[int], None] | None = None, device: str | torch.device = "cpu", workers: int = 0,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return COCO results with original category ids and pixel coordinates.

    `predict` maps images `[B, 3, H, W]` and sizes_hw `[B, 2]`, both on `device`, to detections; a detector has to be in eval mode.
    It always gets `batch` images, as static graphs need: the last one is repeated and its further detections are ignored.
    `on_batch` is told how many images are done.
    """
    results: list[dict[str, Any]] = []
    done = 0
    with torch.inference_mode():
        for group in eval_batches(data, size_hw=size_hw, batch=batch, mean=mean, std=std, workers=workers):
            rows = torch.arange(batch).clamp(max=len(group.image_ids) - 1)
            found = predict(group.images[rows].to(device), group.sizes_hw[rows].to(device))
            arrays = [_array(part) for part in (found.boxes_xyxy, found.scores, found.labels, found.count)]
            for row, image_id in enumerate(group.image_ids.tolist()):
                record = data.records[done + row]
                boxes, scores, labels = (part[row, : int(arrays[3][row])] for part in arrays[:3])
                xyxy = boxes.astype(np.float64) / float(group.scales[row])
                results += _results(data, image_id, np.clip(xyxy, 0, [record.width, record.height] * 2), scores, labels)
            done += len(group.image_ids)
            if on_batch:
                on_batch(done)
    return results


def score(data: DetectionSet, results: list[dict[str, Any]], *, engine: Engine = "faster") -> Metrics:
    """Score COCO results against a set's ground truth."""
    stats, precision = coco_stats(data.ground_truth(), results, engine=engine)
    ap, ap50, ap75, small, medium, large = (float(value) for value in stats[:6])
    per_class = {}
    for name, values in zip(data.classes, np.moveaxis(precision[:, :, :, 0, -1], 2, 0), strict=True):
        if (values > -1).any():  # COCO's mark for a class without ground truth
            per_class[name] = float(values[values > -1].mean())
    return Metrics(ap, ap50, ap75, small, medium, large, per_class, images=len(data.records), detections=len(results))


def coco_stats(
    ground_truth: dict[str, Any], results: list[dict[str, Any]], *, engine: Engine = "faster"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return COCO's twelve numbers in the order of `STAT_NAMES`, and precision `[IoU, recall, class, area, detections]`.

    `faster` is faster-coco-eval; `pycocotools` is the reference, with the same numbers.
    """
    if engine == "faster":
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as Evaluation
    elif engine == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluation
    else:
        raise ConfigError(unknown_name("evaluation engine", engine, ("faster", "pycocotools")))
    # faster-coco-eval logs rather than prints; redirecting stdout only where it must be keeps progress bars alive
    with contextlib.redirect_stdout(io.StringIO()) if engine == "pycocotools" else contextlib.nullcontext():
        truth, found = COCO(), COCO()
        truth.dataset = ground_truth
        found.dataset = {**ground_truth, "annotations": [_annotation(i, result) for i, result in enumerate(results, start=1)]}
        truth.createIndex()
        found.createIndex()
        evaluation = Evaluation(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.asarray(evaluation.stats, np.float64)[:12], np.asarray(evaluation.eval["precision"], np.float64)


def _annotation(index: int, result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "id": index, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}


def _results(data: DetectionSet, image_id: int, boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any]) -> list[dict[str, Any]]:
    """Return one image's results; boxes that are empty or not finite are left out."""
    if len(labels) and not 1 <= labels.min() <= labels.max() <= len(data.classes):
        wrong = labels.max() if labels.min() >= 1 else labels.min()
        raise ConfigError(
            f"the detector gave label {wrong}, but {data.name!r} has labels 1..{len(data.classes)}; use one trained on its classes"
        )
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(boxes).all(axis=1) & np.isfinite(scores) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return [
        {
            "image_id": image_id,
            "category_id": data.category_ids[int(label) - 1],
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "score": float(score_),
        }
        for (x1, y1, x2, y2), score_, label in zip(boxes[usable], scores[usable], labels[usable], strict=True)
    ]


def _array(values: ArrayLike) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = (values.float() if values.is_floating_point() else values).cpu().numpy()
    return np.asarray(values)
