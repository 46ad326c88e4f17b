"""Images per second of one training step, ours beside torchvision's Faster R-CNN: same weights, images, boxes, batch and optimizer.

    OMP_NUM_THREADS=2 python benchmarks/train_throughput.py --case r18:512:2 --case r18:256:4 --case r50:256:2
    python benchmarks/train_throughput.py --device cuda --case r50:800x1344:16 --case r18:512:16     # bf16

The steps of the two alternate in one process, so that a busy machine slows both; the ratio is of the medians. Peak memory is that of a
fresh process for each. torchvision's own resizing and batching is left out, which is in its favour. Both train all weights, batch
normalization included, with SGD and momentum; ours also clips gradients, as its training loop does.
"""

import argparse
import subprocess
import sys
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

from jdnas.data.types import Batch
from jdnas.models.checkpoints import state_from_torchvision
from jdnas.pipeline.detector_training import DetectorLoss
from jdnas.presets import preset
from jdnas.training.loop import make_optimizer, prepare, train_step
from jdnas.training.settings import TrainSettings

CLASSES, BOXES = 20, 8
Step = Callable[[int], object]


def make_batch(case: Case, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(0)
    limit = torch.tensor([case.width, case.height])
    corner = torch.rand(case.batch, BOXES, 2, generator=generator) * limit * 0.7
    side = (0.04 + 0.26 * torch.rand(case.batch, BOXES, 2, generator=generator)) * limit
    return Batch(
        images=torch.randn(case.batch, 3, case.height, case.width, generator=generator),
        sizes_hw=torch.tensor([[case.height, case.width]] * case.batch),
        scales=torch.ones(case.batch),
        boxes_xyxy=torch.cat((corner, corner + side), -1),
        labels=torch.randint(1, CLASSES + 1, (case.batch, BOXES), generator=generator),
        valid=torch.ones(case.batch, BOXES, dtype=torch.bool),
        image_ids=torch.arange(case.batch),
    ).to(device)


def peer_model(case: Case, device: torch.device) -> FasterRCNN:
    torch.manual_seed(0)
    body = getattr(torchvision.models, BACKBONES[case.base])(weights=None, norm_layer=nn.BatchNorm2d)
    return FasterRCNN(_resnet_fpn_extractor(body, 5), num_classes=CLASSES + 1).to(device).train()


def peer_step(case: Case, batch: Batch, settings: TrainSettings) -> Step:
    """Return a step as in torchvision's detection references, on images that are batched already."""
    model = peer_model(case, batch.images.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay)
    targets = [{"boxes": boxes, "labels": labels} for boxes, labels in zip(batch.boxes_xyxy, batch.labels, strict=True)]
    sizes = [(case.height, case.width)] * case.batch

    def step(index: int) -> Tensor:
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=batch.images.is_cuda):
            features = model.backbone(batch.images)
            proposals, losses = model.rpn(ImageList(batch.images, sizes), features, targets)
            losses |= model.roi_heads(features, proposals, sizes, targets)[1]
            loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def our_step(case: Case, batch: Batch, settings: TrainSettings) -> Step:
    """Return a step of our training loop, from the peer's weights."""
    spec = preset(case.base, CLASSES)
    state = {
        name: tensor.clone() for name, tensor in state_from_torchvision(peer_model(case, batch.images.device).state_dict(), spec).items()
    }
    loss = DetectorLoss(spec, state, seed=0, gamma_penalty=0.0)
    parameters = prepare(state)
    optimizer = make_optimizer(parameters, settings)
    batch = batch.channels_last()
    return lambda index: train_step(loss, [batch], index, optimizer, parameters, settings)


SIDES: dict[str, Callable[[Case, Batch, TrainSettings], Step]] = {"jdnas": our_step, "torchvision": peer_step}


def throughput(case: Case, device: torch.device, settings: TrainSettings, steps: int, warmup: int) -> dict[str, Any]:
    batch = make_batch(case, device)
    sides = {name: make(case, batch, settings) for name, make in SIDES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(warmup + steps):
        for name in (list(sides), list(sides)[::-1])[index % 2]:
            _wait(device)
            started = time.perf_counter()
            sides[name](index)
            _wait(device)
            if index >= warmup:
                seconds[name].append(time.perf_counter() - started)
    result: dict[str, Any] = {name: {"images_per_s": case.batch / median(taken), "step_s": taken} for name, taken in seconds.items()}
    return result | {"ratio": result["jdnas"]["images_per_s"] / result["torchvision"]["images_per_s"]}


def peak_mib(case: Case, device: torch.device, settings: TrainSettings, side: str) -> float:
    """Return the peak memory of this process after three steps: resident on a CPU, allocated on a GPU."""
    step = SIDES[side](case, make_batch(case, device), settings)
    for index in range(3):
        step(index)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_resident_mib()


def peak_resident_mib() -> float:
    """Return the peak memory of this process; on Linux ru_maxrss would start at the size of the process that it was forked from."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _peak_elsewhere(case: Case, device: torch.device, side: str) -> float:
    command = [sys.executable, __file__, "--device", device.type, "--case", str(case), "--peak-of", side]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", type=Case.parse, required=True, help="BASE:SIZE:BATCH or BASE:HEIGHTxWIDTH:BATCH")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "train_throughput.json")
    parser.add_argument("--peak-of", choices=tuple(SIDES), help="print the peak memory of one side in MiB and end")
    options = parser.parse_args()
    device, settings = torch.device(options.device), TrainSettings(lr=1e-4)  # so small that random weights do not diverge
    if options.peak_of:
        print(peak_mib(options.case[0], device, settings, options.peak_of))
        return
    rows = []
    for case in options.case:
        row = {"case": asdict(case), "precision": "bf16" if device.type == "cuda" else "fp32"}
        row |= throughput(case, device, settings, options.steps, options.warmup)
        for side in SIDES:
            row[side]["peak_mib"] = _peak_elsewhere(case, device, side)
        row["peak_ratio"] = row["jdnas"]["peak_mib"] / row["torchvision"]["peak_mib"]
        rows.append(row)
        ours, theirs = row["jdnas"], row["torchvision"]
        print(f"{case}: {ours['images_per_s']:.2f} against {theirs['images_per_s']:.2f} images/s, {row['ratio']:.2f}x; "
              f"peak {ours['peak_mib']:.0f} against {theirs['peak_mib']:.0f} MiB, {row['peak_ratio']:.2f}x", flush=True)  # fmt: skip
        publish(options.output, {"rows": rows})


if __name__ == "__main__":
    main()
