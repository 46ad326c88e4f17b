"""Cost of a distilled training step over a plain one, with a teacher of the student's size: interleaved in one process.

    python benchmarks/distill_step.py --base r18 --size 256x256 --batch 4

Both steps are the whole of it: losses, backward pass, optimizer. The goal is a ratio of at most 1.6.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from provenance import ROOT, publish

from jdnas.data.types import Batch
from jdnas.distill.adapters import make_adapters
from jdnas.distill.settings import DistillSettings
from jdnas.distill.teacher import Teacher
from jdnas.models.bound import materialize
from jdnas.models.detector import build
from jdnas.pipeline.detector_training import DetectorLoss
from jdnas.presets import preset
from jdnas.sizes import size_hw_from_text
from jdnas.spec import DetectorSpec, Head
from jdnas.training.loop import make_optimizer, trainable
from jdnas.training.settings import TrainSettings


def make_batch(size_hw: tuple[int, int], batch: int, objects: int, classes: int, device: torch.device) -> Batch:
    """Draw noise images with random boxes."""
    generator = torch.Generator().manual_seed(0)
    sides = torch.tensor([size_hw[1], size_hw[0]], dtype=torch.float32)
    corner = torch.rand(batch, objects, 2, generator=generator) * sides * 0.7
    extent = (0.1 + 0.2 * torch.rand(batch, objects, 2, generator=generator)) * sides
    labels = torch.randint(1, classes + 1, (batch, objects), generator=generator)
    made = Batch(
        images=torch.randn(batch, 3, *size_hw, generator=generator), sizes_hw=torch.tensor([size_hw] * batch), scales=torch.ones(batch),
        boxes_xyxy=torch.cat((corner, corner + extent), -1), labels=labels, valid=torch.ones(batch, objects, dtype=torch.bool),
        image_ids=torch.arange(batch),
    )  # fmt: skip
    return made.to(device).channels_last()


def make_step(spec: DetectorSpec, distill: DistillSettings | None, batch: Batch) -> Callable[[], None]:
    """Return a function that does one training step, with or without a teacher."""
    device = batch.images.device
    state = {name: tensor.to(device) for name, tensor in build(spec).state_dict().items()}
    teacher = None
    if distill is not None:
        teacher = Teacher.fixed(materialize(spec, build(spec).state_dict(), device), spec)
        state |= {name: adapter.to(device) for name, adapter in make_adapters(spec.neck, spec.neck, distill).items()}
    parameters = [tensor.requires_grad_() for tensor in trainable(state)]
    optimizer = make_optimizer(parameters, TrainSettings(lr=1e-4))
    loss_of = DetectorLoss(spec, state, seed=0, gamma_penalty=1e-5, teacher=teacher, distill=distill)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            for terms in loss_of(batch, 0):
                torch.stack([term.float() for term in terms.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()

    return step


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Return the seconds of one step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(spec: DetectorSpec, size_hw: tuple[int, int], batch: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Time plain and distilled steps in turns; ratios are of neighbours, so that a busy machine slows both."""
    made = make_batch(size_hw, batch, 8, spec.num_classes, device)
    ours = DistillSettings(feature=0.01, normalize_features=True)
    methods = {"plain": None, "ours": ours, "logit": ours.for_method("logit"), "fgfi": ours.for_method("fgfi")}
    steps = {name: make_step(spec, distill, made) for name, distill in methods.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(rounds + 2):
        for name, step in steps.items():
            taken = timed(step, device)
            if index >= 2:
                seconds[name].append(taken)
    ratios = {name: [a / b for a, b in zip(values, seconds["plain"], strict=True)] for name, values in seconds.items() if name != "plain"}
    return {"ms": {name: round(1000 * median(values), 1) for name, values in seconds.items()},
            "ratio_to_plain": {name: round(median(values), 3) for name, values in ratios.items()}, "rounds": rounds}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="r18")
    parser.add_argument("--size", default="256x256", help="WIDTHxHEIGHT")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--roi-samples", type=int, default=Head().roi_samples)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "distill_step.json")
    options = parser.parse_args()
    spec = preset(options.base, 20)
    spec = replace(spec, head=replace(spec.head, roi_samples=options.roi_samples))
    result = measure(spec, size_hw_from_text(options.size), options.batch, options.rounds, torch.device(options.device))
    table = {"base": options.base, "size": options.size, "batch": options.batch, "roi_samples": options.roi_samples, **result}
    print(json.dumps(table, indent=1))
    publish(options.out, table)


if __name__ == "__main__":
    main()
