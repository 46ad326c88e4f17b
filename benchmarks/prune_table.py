"""Table 2 of our own: AP after pruning 0 to 30 % of the channels and fine-tuning, beside Torch-Pruning at the same multiply-adds.

    python benchmarks/prune_table.py --weights runs/prune_table/base/base.safetensors --data DATA --work runs/prune_table/table

Every training leaves one JSON file in --work and is skipped when it is there; the table is written anew after each of them.
Pruning does not depend on the seed, which decides the order, augmentation and sampling of fine-tuning: all rows start from one base.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from provenance import ROOT, provenance
from torch_pruning_peer import prune_to

from jdnas.config import parse_overrides, resolve
from jdnas.models.complexity import multiply_adds
from jdnas.models.weights import State
from jdnas.pipeline.context import Context
from jdnas.pipeline.prune import open_detector
from jdnas.reproduce.pruning import averages, by_gamma, figures, prune_and_tune
from jdnas.spec import DetectorSpec
from jdnas.training.checkpoint import read_json, write_json

RATIOS = (0.1, 0.2, 0.3)


def by_torch_pruning(context: Context, state: State, ratio: float) -> tuple[State, DetectorSpec]:
    """Prune with Torch-Pruning; its share of channels is the one that gives the multiply-adds of ours."""
    goal = multiply_adds(by_gamma(context, state, ratio)[1], context.base_size_hw)
    step = context.config.action_rules(context.base_spec).width_step
    return prune_to(context.base_spec, state, goal, context.base_size_hw, round_to=step)


PRUNERS = {"jdnas": by_gamma, "torch-pruning": by_torch_pruning}


def train_one(context: Context, state: State, method: str, ratio: float, seed: int, epochs: float, stem: Path) -> dict[str, Any]:
    """Prune, evaluate, fine-tune, evaluate."""
    result = prune_and_tune(context, state, PRUNERS[method], method, ratio, seed, epochs, stem)
    write_json(stem.with_suffix(".json"), result)
    return result


def markdown(table: list[dict[str, Any]]) -> str:
    lines = ["| channels pruned | by | GMAC (backbone) | M params | AP before tuning | AP | AP50 |", "|---|---|---|---|---|---|---|"]
    for r in table:
        spread = f" ± {r['ap_stdev']:.4f}" if r["ap_stdev"] is not None else ""
        lines.append(
            f"| {100 * r['ratio']:.0f} % | {r['method'] if r['ratio'] else '-'} | {r['flops_g']:.3f} ({r['backbone_flops_g']:.3f}) | "
            f"{r['params_m']:.2f} | {r['ap_before']:.4f} | {r['ap']:.4f}{spread} | {r['ap50']:.4f} |"
        )
    return "\n".join(lines)


def write(out: Path, arguments: argparse.Namespace, context: Context, base: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Write the record of all runs so far."""
    config, table = context.config, averages(results)
    ours, theirs = (
        {(r["ratio"], r["seed"]): r["ap"] for r in results if r["method"] == m and r["ratio"]} for m in ("jdnas", "torch-pruning")
    )
    both = sorted(ours.keys() & theirs.keys())
    record = {
        "provenance": provenance(),
        "setting": {
            "data": context.train.name, "train_images": len(context.train.records), "val_images": len(context.val.records),
            "size_hw": context.base_size_hw, "finetune_epochs": arguments.epochs,
            "finetune": config.candidate_train.model_dump(mode="json", exclude={"epochs"}),
            "width_step": config.width_step, "small_cpu_setting": context.device.type == "cpu",
        },
        "base": base,
        "rows": table,
        "pairs": len(both),
        "mean_ap_gain_over_torch_pruning": mean(ours[key] - theirs[key] for key in both) if both else None,
        "ours_wins": sum(ours[key] > theirs[key] for key in both),
        "runs": results,
    }  # fmt: skip
    write_json(out, record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", help="canvas as WIDTHxHEIGHT; default: the largest of the settings")
    parser.add_argument("--work", type=Path, default=Path("runs/prune_table/table"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "prune_table.json")
    parser.add_argument("--max-runs", type=int, default=1000, help="stop after so many trainings; call again to go on")
    arguments = parser.parse_args()
    config = resolve(arguments.preset, parse_overrides(arguments.overrides) | {"data": arguments.data, "weights": str(arguments.weights)})
    context, state = open_detector(config, arguments.weights, arguments.size)
    base = figures(context, context.base_spec) | read_json(arguments.weights.with_suffix(".json"))["meta"]
    base.pop("curve", None)
    left, results = arguments.max_runs, []
    for seed in arguments.seeds:
        for method, ratio in [("jdnas", 0.0), *((m, r) for r in RATIOS for m in ("jdnas", "torch-pruning"))]:
            stem = arguments.work / f"{method}_{100 * ratio:.0f}_{seed}"
            if stem.with_suffix(".json").exists():
                results.append(json.loads(stem.with_suffix(".json").read_text()))
            elif left > 0:
                left -= 1
                results.append(train_one(context, state, method, ratio, seed, arguments.epochs, stem))
                last = results[-1]
                print(f"{method} {ratio} seed {seed}: AP {last['ap_before']:.4f} -> {last['ap']:.4f}, {last['seconds']} s", flush=True)
                write(arguments.out, arguments, context, base, results)
    write(arguments.out, arguments, context, base, results)
    print(markdown(averages(results)))


if __name__ == "__main__":
    main()
