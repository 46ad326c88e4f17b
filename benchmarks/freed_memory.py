"""A training step on a CPU with freed memory kept by the process, beside one without: seconds, ratio, peak memory.

    OMP_NUM_THREADS=1 python benchmarks/freed_memory.py --case lite0:512:4 --case lite0:256:8 --case r18:512:2

What a process does with freed memory cannot be undone, so each measurement has a process of its own; the two kinds alternate, `--rounds`
times. Same weights, images and optimizer (AdamW); the heads are those of the preset `quick`.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
from provenance import ROOT, publish
from torchvision_case import Case
from train_throughput import CLASSES, Step, make_batch, peak_resident_mib

from jdnas.config import parse_overrides, resolve
from jdnas.models.detector import build
from jdnas.pipeline.context import base_spec_of
from jdnas.pipeline.detector_training import DetectorLoss
from jdnas.training.heap import keep_freed_memory
from jdnas.training.loop import make_optimizer, prepare, train_step

KINDS = ("default", "kept")


def make_step(case: Case) -> Step:
    config = resolve("quick", parse_overrides([f"base={case.base}"]))
    spec = base_spec_of(config, CLASSES, max(case.height, case.width))
    torch.manual_seed(0)
    state = build(spec).state_dict()
    loss = DetectorLoss(spec, state, seed=0, gamma_penalty=0.0)
    parameters = prepare(state)
    optimizer = make_optimizer(parameters, config.base_train)
    batch = make_batch(case, torch.device("cpu")).channels_last()
    return lambda index: train_step(loss, [batch], index, optimizer, parameters, config.base_train)


def measure(case: Case, steps: int) -> tuple[float, float]:
    """Return the median seconds of this process's steps after two others, and its peak memory in MiB."""
    step, seconds = make_step(case), []
    for index in range(2 + steps):
        started = time.perf_counter()
        step(index)
        seconds.append(time.perf_counter() - started)
    return median(seconds[2:]), peak_resident_mib()


def measure_elsewhere(case: Case, kind: str, steps: int) -> tuple[float, float]:
    command = [sys.executable, __file__, "--case", str(case), "--steps", str(steps), "--one", kind]
    seconds, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-2:]
    return float(seconds), float(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", type=Case.parse, required=True, help="BASE:SIZE:BATCH or BASE:HEIGHTxWIDTH:BATCH")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "freed_memory.json")
    parser.add_argument("--one", choices=KINDS, help="measure one kind in this process, print seconds and peak, and end")
    options = parser.parse_args()
    if options.one:
        if options.one == "kept" and not keep_freed_memory():
            parser.error("the allocator of this system has no mallopt")
        print(*measure(options.case[0], options.steps))
        return
    rows = []
    for case in options.case:
        rounds = [{kind: measure_elsewhere(case, kind, options.steps) for kind in KINDS} for _ in range(options.rounds)]
        ratios = [pair["default"][0] / pair["kept"][0] for pair in rounds]
        peaks = [pair["kept"][1] / pair["default"][1] for pair in rounds]
        rows.append({"case": asdict(case), "rounds": rounds, "faster": median(ratios), "peak_ratio": median(peaks)})
        print(
            f"{case}: {median(ratios):.2f}x as fast ({min(ratios):.2f} to {max(ratios):.2f}), {median(peaks):.2f}x the memory", flush=True
        )
        publish(options.output, {"rows": rows})


if __name__ == "__main__":
    main()
