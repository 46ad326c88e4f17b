"""What inheriting weights is worth: one action on a trained base, then a short training from three starts.

    python benchmarks/inheritance.py --weights runs/prune_base/base/base.safetensors --data DATA --work runs/prune_base/inheritance

For each kind of action the changed student is trained alike from the base's weights through the action, from the weights that the base's
own training started from (ImageNet's) through the same action, and from random ones. Every training leaves a JSON file in --work and is
skipped when it is there.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from provenance import ROOT, provenance

from jdnas.config import parse_overrides, resolve
from jdnas.models.checkpoints import state_from_efficientnet_lite
from jdnas.models.detector import build
from jdnas.models.weights import State
from jdnas.pipeline.base import lite_weights, scratch_state
from jdnas.pipeline.context import Context
from jdnas.pipeline.detector_training import evaluate_detector, train_detector
from jdnas.pipeline.prune import open_detector
from jdnas.student.actions import Action
from jdnas.student.explain import explain
from jdnas.student.inherit import Decision, decide, transform
from jdnas.training.checkpoint import read_json, write_json
from jdnas.training.loop import Resume
from jdnas.training.schedule import steps_of

ACTIONS = {
    "prune layer": Action("prune_layer"),
    "prune 20 % of channels": Action("prune_channels", ratio=0.2),
    "add layer": Action("add_layer", stage=3),
    "rearrange": Action("rearrange", stage=5, target=4),
}
STARTS = ("inherited", "pretrained", "scratch")


def start_state(context: Context, trained: State, decision: Decision, start: str, seed: int) -> State:
    """Return the weights that the changed student starts from."""
    if start == "inherited":
        return transform(trained, decision)
    if start == "pretrained":
        return transform(scratch_state(context) | state_from_efficientnet_lite(lite_weights("lite0"), context.base_spec), decision)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(decision.target).state_dict()


def train_one(context: Context, trained: State, name: str, start: str, seed: int, epochs: float, stem: Path) -> dict[str, Any]:
    decision = decide(trained, context.base_spec, ACTIONS[name], context.config.action_rules(context.base_spec), seed=seed)
    state = start_state(context, trained, decision, start, seed)
    settings = context.config.candidate_train
    steps, resume = steps_of(epochs, len(context.train.records), settings.batch), Resume(stem.with_suffix(".partial.safetensors"), 30.0)
    state, report = train_detector(context, decision.target, state, settings, seed=seed, steps=steps, resume=resume)
    metrics = evaluate_detector(context, decision.target, state, context.base_size_hw)
    result = {
        "action": name, "start": start, "seed": seed, "images": report.images, "ap": metrics.ap, "ap50": metrics.ap50,
        "loss_curve": report.curve, "what": explain(context.base_spec, decision.target),
    }  # fmt: skip
    write_json(stem.with_suffix(".json"), result)
    resume.path.unlink(missing_ok=True)
    return result


def plot(results: list[dict[str, Any]], base_ap: float, title: str, path: Path) -> None:
    """Draw one group of bars per action, a dot per seed."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "jdnas"}
    from matplotlib import pyplot

    names = [name for name in ACTIONS if any(r["action"] == name for r in results)]
    figure, axes = pyplot.subplots(figsize=(7.5, 3.4), layout="constrained")
    for place, (start, colour) in enumerate(zip(STARTS, ("#1f6f8b", "#e0a458", "#9a9a9a"), strict=True)):
        for group, name in enumerate(names):
            values = [r["ap"] for r in results if (r["action"], r["start"]) == (name, start)]
            if values:
                x = group + (place - 1) * 0.27
                axes.bar(x, mean(values), 0.25, color=colour, label=start if group == 0 else None)
                axes.plot([x] * len(values), values, ".", color="black", markersize=4)
    axes.axhline(base_ap, color="black", linewidth=0.8, linestyle="--", label="base before the action")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("AP after the training")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def write(arguments: argparse.Namespace, context: Context, results: list[dict[str, Any]]) -> None:
    base_ap = read_json(arguments.weights.with_suffix(".json"))["meta"]["metrics"]["ap"]
    rows = [
        {"action": name, "start": start, "ap": mean(r["ap"] for r in runs), "ap50": mean(r["ap50"] for r in runs), "seeds": len(runs)}
        for name in ACTIONS
        for start in STARTS
        if (runs := [r for r in results if (r["action"], r["start"]) == (name, start)])
    ]
    setting = {
        "data": context.train.name, "train_images": len(context.train.records), "val_images": len(context.val.records),
        "size_hw": context.base_size_hw, "epochs": arguments.epochs, "base_ap": base_ap, "small_cpu_setting": context.device.type == "cpu",
        "train": context.config.candidate_train.model_dump(mode="json", exclude={"epochs"}),
    }  # fmt: skip
    write_json(arguments.out, {"provenance": provenance(), "setting": setting, "rows": rows, "runs": results})
    height, width = context.base_size_hw
    title = f"{context.train.name} at {width}x{height}, {arguments.epochs:g} epoch(s) of {len(context.train.records)} images"
    plot(results, base_ap, title, arguments.plot)
    for row in rows:
        print(f"{row['action']:24s} {row['start']:11s} AP {row['ap']:.4f} AP50 {row['ap50']:.4f} ({row['seeds']} seeds)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="a trained lite0")
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--actions", nargs="+", choices=list(ACTIONS), default=list(ACTIONS))
    parser.add_argument("--size", help="canvas as WIDTHxHEIGHT; default: the largest of the settings")
    parser.add_argument("--work", type=Path, default=Path("runs/prune_base/inheritance"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "inheritance.json")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "pruning" / "inheritance.svg")
    parser.add_argument("--max-runs", type=int, default=1000, help="stop after so many trainings; call again to go on")
    arguments = parser.parse_args()
    overrides = parse_overrides(arguments.overrides) | {"data": arguments.data, "weights": str(arguments.weights)}
    context, trained = open_detector(resolve(arguments.preset, overrides), arguments.weights, arguments.size)
    results, left = [], arguments.max_runs
    for seed in arguments.seeds:
        for name in arguments.actions:
            for start in STARTS:
                stem = arguments.work / f"{name.replace(' ', '_').replace('%', 'percent')}_{start}_{seed}"
                if stem.with_suffix(".json").exists():
                    results.append(json.loads(stem.with_suffix(".json").read_text()))
                elif left > 0:
                    left -= 1
                    results.append(train_one(context, trained, name, start, seed, arguments.epochs, stem))
                    print(f"{name} {start} {seed}: AP {results[-1]['ap']:.4f}", flush=True)
    write(arguments, context, results)


if __name__ == "__main__":
    main()
