"""Milliseconds of inference, ours beside torchvision's Faster R-CNN: same weights and images, calls of all sides interleaved.

    OMP_NUM_THREADS=2 python benchmarks/inference.py --case r18:512:1 --case r50:800x1344:1
    OMP_NUM_THREADS=2 python benchmarks/inference.py --case r18:512:1 --compile             # with a C++ compiler at hand
    python benchmarks/inference.py --device cuda --compile --case r50:800x1344:1            # fp16

A call takes a normalized batch on the device to its final boxes there, suppression included; torchvision's own resizing is left out,
which is in its favour. The sides take turns in one process, so that a busy machine slows all; ratios are of the medians and above 1
where ours is faster. On a CPU everything is fp32, and `--compile` compiles backbone, neck and the box head of ours. On a GPU
torchvision runs eagerly in fp32 and under fp16 autocast, ours in fp16, eagerly and, with `--compile`, as one CUDA graph of its
fixed-shape form. The detections of all sides on the first image are compared and their largest difference is kept.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torchvision
from provenance import ROOT, publish
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.image_list import ImageList
from torchvision_case import BACKBONES, Case

from jdnas.models.checkpoints import state_from_torchvision
from jdnas.models.detector import EXPORT, Detector, build
from jdnas.presets import preset

CLASSES = 80
Call = Callable[[], tuple[Tensor, Tensor]]  # boxes and scores of the first image


def peer_model(case: Case) -> FasterRCNN:
    """Return torchvision's detector with random weights whose scores tell places and classes apart."""
    torch.manual_seed(0)
    body = getattr(torchvision.models, BACKBONES[case.base])(weights=None, norm_layer=nn.BatchNorm2d)
    model = FasterRCNN(_resnet_fpn_extractor(body, 5), num_classes=CLASSES + 1)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.4, 0.9)
        model.rpn.head.cls_logits.weight.mul_(20)
        # With 81 classes, weaker scores would all stay below the threshold and leave suppression nothing to do.
        model.roi_heads.box_predictor.cls_score.weight.mul_(40)
        model.roi_heads.box_predictor.bbox_pred.weight.mul_(4)
    return model.eval()


def peer_call(model: FasterRCNN, images: Tensor, *, half: bool = False) -> Call:
    sizes = [(images.shape[2], images.shape[3])] * len(images)

    def call() -> tuple[Tensor, Tensor]:
        with torch.autocast(images.device.type, torch.float16, enabled=half):
            features = model.backbone(images)
            proposals, _ = model.rpn(ImageList(images, sizes), features)
            first = model.roi_heads(features, proposals, sizes)[0][0]
        return first["boxes"], first["scores"]

    return call


def our_call(detector: Callable[..., Any], images: Tensor) -> Call:
    sizes = torch.tensor([[images.shape[2], images.shape[3]]] * len(images), device=images.device)

    def call() -> tuple[Tensor, Tensor]:
        found = detector(images, sizes)
        return found.boxes_xyxy[0], found.scores[0]

    return call


def _compiled_parts(detector: Detector) -> Detector:
    detector.backbone, detector.fpn, detector.box_head = (
        torch.compile(part) for part in (detector.backbone, detector.fpn, detector.box_head)
    )
    return detector


def sides_of(case: Case, device: torch.device, *, compiled: bool) -> dict[str, Call]:
    """Return what is timed, by name; the first is the peer that ratios are against."""
    model, spec = peer_model(case), preset(case.base, CLASSES)
    state = state_from_torchvision(model.state_dict(), spec)
    model = model.to(device)

    def ours(dtype: torch.dtype, **forms: Any) -> Detector:
        detector = build(spec, **forms).eval()
        detector.load_state_dict(state)
        return detector.to(device, dtype, memory_format=torch.channels_last).requires_grad_(False)

    images = torch.randn(case.batch, 3, case.height, case.width, generator=torch.Generator().manual_seed(0)).to(device)
    last = images.to(memory_format=torch.channels_last)
    if device.type == "cpu":
        sides = {"torchvision": peer_call(model, images), "jdnas": our_call(ours(torch.float32), last)}
        if compiled:
            sides["jdnas compiled"] = our_call(_compiled_parts(ours(torch.float32)), last)
        return sides
    sides = {"torchvision": peer_call(model, images), "torchvision autocast fp16": peer_call(model, images, half=True)}
    sides["jdnas fp16"] = our_call(ours(torch.float16), last.half())
    if compiled:
        whole = torch.compile(ours(torch.float16, forms=EXPORT), mode="reduce-overhead", fullgraph=True)
        sides["jdnas fp16 compiled"] = our_call(whole, last.half())
    return sides


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def timed(case: Case, device: torch.device, *, compiled: bool, calls: int, warmup: int) -> dict[str, Any]:
    sides = sides_of(case, device, compiled=compiled)
    peer = next(iter(sides))
    milliseconds: dict[str, list[float]] = {name: [] for name in sides}
    boxes, scores = sides[peer]()
    if not len(scores):
        raise SystemExit(f"{case}: torchvision detects nothing with these weights, so there is nothing to compare")
    rows: dict[str, Any] = {}
    for name, call in sides.items():
        our_boxes, our_scores = call()
        count = min(len(scores), len(our_scores))
        rows[name] = {
            "detections": int((our_scores > 0).sum()),
            "largest_score_difference": float((our_scores[:count].float() - scores[:count]).abs().max()),
            "largest_box_difference_px": float((our_boxes[:count].float() - boxes[:count]).abs().max()),
        }
    for index in range(warmup + calls):
        for name in (list(sides), list(sides)[::-1])[index % 2]:
            _wait(device)
            started = time.perf_counter()
            sides[name]()
            _wait(device)
            if index >= warmup:
                milliseconds[name].append(1000 * (time.perf_counter() - started))
    for name, taken in milliseconds.items():
        rows[name] |= {"median_ms": median(taken), "ms": taken, "ratio": median(milliseconds[peer]) / median(taken)}
    return {"detections": len(scores), "sides": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", type=Case.parse, required=True, help="BASE:SIZE:BATCH or BASE:HEIGHTxWIDTH:BATCH")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="time compiled forms of ours as well")
    parser.add_argument("--calls", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "inference.json")
    options = parser.parse_args()
    device, rows = torch.device(options.device), []
    for case in options.case:
        result = timed(case, device, compiled=options.compile, calls=options.calls, warmup=options.warmup)
        rows.append({"case": asdict(case), **result})
        for name, side in result["sides"].items():
            print(f"{case} {name}: {side['median_ms']:.1f} ms, {side['ratio']:.2f}x torchvision", flush=True)
        publish(options.output, {"rows": rows})


if __name__ == "__main__":
    main()
