"""How long one action with its inheritance takes, and how much memory: R101-FPN, every kind of action.

    python benchmarks/morphism_speed.py

Time is that of deciding and transforming together, caches of specs emptied before each run. Memory is the size of the old student and what
the process's resident set grows by at its peak (Linux): as a copy beside the old one, and consuming it, as the search does.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from provenance import ROOT, provenance

from jdnas.models.detector import build
from jdnas.models.weights import State, axes_of, meta_detector, shapes_of
from jdnas.presets import preset
from jdnas.spec import DetectorSpec
from jdnas.student.actions import Action, ActionRules
from jdnas.student.inherit import decide, transform
from jdnas.training.checkpoint import write_json

ACTIONS = {
    "prune_layer": Action("prune_layer"),
    "prune_channels": Action("prune_channels", ratio=0.1),
    "add_layer": Action("add_layer", stage=2),
    "rearrange": Action("rearrange", stage=2, target=3),
    "prune_neck": Action("prune_neck", ratio=0.25),
    "prune_box_head": Action("prune_box_head", ratio=0.25),
}
RULES = ActionRules(heads=True)
MIB = 2**20


def student(base: str) -> tuple[DetectorSpec, State]:
    """Return a base whose gammas differ, as those of a trained one do."""
    torch.manual_seed(0)
    spec = preset(base, 80)
    state = build(spec).state_dict()
    for name, tensor in state.items():
        if name.endswith("norm.weight"):
            tensor.uniform_(0.1, 1.0)
    return spec, state


def size(state: State) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def forget() -> None:
    """Empty the caches, as if the search had never met these specs."""
    for cached in (meta_detector, axes_of, shapes_of):
        cached.cache_clear()


def seconds_of(spec: DetectorSpec, state: State, action: Action) -> float:
    forget()
    started = time.perf_counter()
    transform(state, decide(state, spec, action, RULES))
    return time.perf_counter() - started


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def measure_memory(base: str, name: str, consume: bool) -> dict[str, float]:
    """Apply one action in this process and return its memory in MiB."""
    spec, state = student(base)
    old, held = size(state), _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    decision = decide(state, spec, ACTIONS[name], RULES)
    evolved = transform(state, decision, consume=consume)
    grown = _status("VmHWM") - held
    new = size(evolved)
    # A larger student takes its own size, so that a multiple is meant of the larger of the two.
    return {"old_mib": old / MIB, "new_mib": new / MIB, "grown_mib": grown / MIB, "peak_over_model": (old + grown) / max(old, new)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="r101")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "morphism_speed.json")
    parser.add_argument("--memory-of", choices=sorted(ACTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--consume", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(json.dumps(measure_memory(arguments.base, arguments.memory_of, arguments.consume)))
        return
    spec, state = student(arguments.base)
    times: dict[str, list[float]] = {name: [] for name in ACTIONS}
    for _ in range(arguments.repeats):  # interleaved, so that all kinds see the same neighbours
        for name, action in ACTIONS.items():
            times[name].append(seconds_of(spec, state, action))
    rows: dict[str, Any] = {}
    for name, seconds in times.items():
        rows[name] = {"median_s": median(seconds), "min_s": min(seconds), "max_s": max(seconds)}
        for way in ("copying", "consuming"):
            command = [sys.executable, __file__, "--base", arguments.base, "--memory-of", name, *(["--consume"] * (way == "consuming"))]
            answer = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
            rows[name][way] = json.loads(answer.stdout)
        peaks = ", ".join(f"{way} {rows[name][way]['peak_over_model']:.2f}" for way in ("copying", "consuming"))
        print(f"{name:15s} median {rows[name]['median_s']:.3f} s (max {max(seconds):.3f}); peak over the model: {peaks}", flush=True)
    write_json(arguments.out, {"provenance": provenance(), "base": arguments.base, "load_average": os.getloadavg()[0], "actions": rows})


if __name__ == "__main__":
    main()
