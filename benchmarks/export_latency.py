"""Our exported engine beside torchvision's own ONNX export of the same weights: same image, same session settings, calls interleaved.

    python benchmarks/export_latency.py --case r50:800x1344:1

A call takes a normalized canvas to final boxes in ONNX Runtime on the CPU; torchvision's resizing is left out, which is in its favour.
Its detector is exported as its documentation does, by tracing, since its shapes depend on the image. `end_to_end` times the files;
`after_rpn` times what follows the RPN convolutions (proposals, suppression, RoIAlign, box head, final detections), cut out of both graphs
and fed with what the first image gives there. Ratios are of the medians and above 1 where ours is faster; with random weights that let
scores tell places and classes apart, all 1000 proposals are there, as in a trained detector. Detections of both are compared on
images of noise. `small parts` gathers 4 MiB at a time in RoIAlign, `--form atlas` uses the RoiAlign operator.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import psutil
import torch
from inference import CLASSES, peer_model
from onnx_cut import Cut, cut_behind_rpn, kinds
from provenance import ROOT, publish
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision_case import Case

from export.forms import forms_for
from export.graph import export_onnx
from export.ort_session import OrtSession
from export.parity import Tolerances, compare
from jdnas.models.checkpoints import state_from_torchvision
from jdnas.models.forms import EXPORT
from jdnas.presets import preset

OPSET = 18
FORMS = {
    "jdnas": forms_for("ort-cpu"), "atlas": replace(EXPORT, roi="atlas"), "small parts": replace(EXPORT, roi_values_at_once=1 << 20),
}  # fmt: skip
Call = Callable[[], object]


class _Canvas(nn.Module):
    """Torchvision's detector on a normalized canvas that its image fills."""

    def __init__(self, model: FasterRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sizes = [(images.shape[2], images.shape[3])]
        features = self.model.backbone(images)
        proposals, _ = self.model.rpn(ImageList(images, sizes), features)
        found = self.model.roi_heads(features, proposals, sizes)[0][0]
        return found["boxes"], found["scores"], found["labels"]


def export_peer(model: FasterRCNN, case: Case, path: Path) -> Path:
    """Trace torchvision's detector into an ONNX file."""
    names = ["boxes", "scores", "labels"]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        example = torch.randn(1, 3, case.height, case.width)
        free = {name: {0: "detections"} for name in names}
        torch.onnx.export(
            _Canvas(model), (example,), str(path), dynamo=False, opset_version=OPSET, input_names=["images"], output_names=names,
            dynamic_axes=free,
        )  # fmt: skip
    return path


def feeds_of(image: Tensor, session_inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return an image and, where the graph takes it, its size."""
    feeds = {"images": image.numpy(), "sizes_hw": np.array([image.shape[2:]], np.int64)}
    return {name: feeds[name] for name in session_inputs}


def detections_of(session: OrtSession) -> Callable[[Tensor, Tensor], Any]:
    """Return a predictor whose rows are padded to the 100 of both detectors."""

    def predict(images: Tensor, _sizes: Tensor) -> Any:
        found = session.run(feeds_of(images, session.inputs))
        boxes, scores, labels = (torch.from_numpy(found[name]).reshape(-1, *shape) for name, shape in
                                 (("boxes", (4,)), ("scores", ()), ("labels", ())))  # fmt: skip
        count = int(found["count"][0]) if "count" in found else len(scores)
        missing = 100 - len(scores)
        pad = nn.functional.pad
        return SimpleNamespace(
            boxes_xyxy=pad(boxes, (0, 0, 0, missing))[None], scores=pad(scores, (0, missing))[None],
            labels=pad(labels, (0, missing))[None], count=torch.tensor([count]),
        )  # fmt: skip

    return predict


def interleaved(calls: Mapping[str, Call], *, count: int, warmup: int) -> dict[str, Any]:
    """Time calls in turns, in alternating order; the first name is the peer that ratios are against."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(warmup + count):
        for name in (list(calls), list(calls)[::-1])[index % 2]:
            started = time.perf_counter()
            calls[name]()
            if index >= warmup:
                taken[name].append(1e3 * (time.perf_counter() - started))
    peer = taken[next(iter(calls))]
    return {
        name: {
            "median_ms": median(own), "least_ms": min(own), "ms": [round(ms, 2) for ms in own], "ratio": median(peer) / median(own),
            "ratio_of_least": min(peer) / min(own), "paired_ratio": median(a / b for a, b in zip(peer, own, strict=True)),
        } for name, own in taken.items()
    }  # fmt: skip


def run_case(case: Case, forms: list[str], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Export both, compare their detections, and time them whole and behind their RPN convolutions."""
    model, spec = peer_model(case), preset(case.base, CLASSES)
    state = state_from_torchvision(model.state_dict(), spec)
    paths = {"torchvision": export_peer(model, case, folder / "torchvision.onnx")}
    classes = [str(label) for label in range(1, CLASSES + 1)]
    for form in forms:
        chosen = FORMS[form]
        paths[form] = export_onnx(
            state, spec, size_hw=(case.height, case.width), path=folder / f"{form}.onnx", classes=classes, forms=chosen
        )
    del model
    noise = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 3, case.height, case.width, generator=noise) for _ in range(options.images)]
    sessions = {name: OrtSession(path, threads=options.threads) for name, path in paths.items()}
    batches = [SimpleNamespace(images=image, sizes_hw=torch.tensor([image.shape[2:]])) for image in images]
    agree = {
        name: compare(detections_of(sessions["torchvision"]), detections_of(sessions[name]), batches, tolerances=Tolerances()).to_dict()
        for name in forms
    }
    whole: dict[str, Call] = {name: partial(one.run, feeds_of(images[0], one.inputs)) for name, one in sessions.items()}
    result: dict[str, Any] = {"detections": agree, "end_to_end": interleaved(whole, count=options.calls, warmup=options.warmup)}
    cuts: dict[str, Cut] = {}
    for name, path in paths.items():
        cuts[name] = cut_behind_rpn(onnx.load(path), feeds_of(images[0], sessions[name].inputs), anchors=spec.head.anchors)
    del sessions, whole
    parts = {name: OrtSession(cut.rest.SerializeToString(), threads=options.threads) for name, cut in cuts.items()}
    rests: dict[str, Call] = {name: partial(part.run, cuts[name].feeds) for name, part in parts.items()}
    result["after_rpn"] = interleaved(rests, count=options.calls, warmup=options.warmup)
    return result | {"operators": {name: dict(list(kinds(cut.rest).items())[:12]) for name, cut in cuts.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=Case.parse, default=Case.parse("r50:800x1344:1"), help="BASE:HEIGHTxWIDTH:1")
    parser.add_argument("--form", action="append", choices=("atlas",), default=[], help="time another form of RoIAlign as well")
    parser.add_argument("--threads", type=int, default=1, help="threads within operators, of both")
    parser.add_argument("--calls", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--images", type=int, default=2, help="images whose detections are compared")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "export_latency.json")
    options = parser.parse_args()
    before = [round(value, 2) for value in psutil.getloadavg()]
    with tempfile.TemporaryDirectory() as folder:
        result = run_case(options.case, list(dict.fromkeys(["jdnas", "small parts", *options.form])), Path(folder), options)
    for part in ("end_to_end", "after_rpn"):
        for name, side in result[part].items():
            print(f"{part} {name}: {side['median_ms']:.1f} ms, {side['ratio']:.2f}x torchvision (least {side['ratio_of_least']:.2f}x)")
    for name, one in result["detections"].items():
        print(f"{name}: {one['message']}")
    facts = {"onnxruntime": onnxruntime.__version__, "threads_of_both": options.threads, "load_average_before": before}
    publish(options.output, {"case": asdict(options.case), **result}, **facts)


if __name__ == "__main__":
    main()
