"""Table 2 of our own: AP after pruning 0 to 30 % of the channels and fine-tuning, beside Torch-Pruning at the same multiply-adds.

    python benchmarks/prune_table.py --weights runs/prune_table/base/base.safetensors --data DATA --work runs/prune_table/table

Every training leaves one JSON file in --work and is skipped when it is there; the table is written anew after each of them.
Pruning does not depend on the seed, which decides the order, augmentation and sampling of fine-tuning: all rows start from one base.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from provenance import ROOT, provenance
from torch_pruning_peer import prune_to

from jdnas.config import parse_overrides, resolve
from jdnas.models.complexity import backbone_multiply_adds, multiply_adds, parameters
from jdnas.models.weights import State
from jdnas.pipeline.context import Context
from jdnas.pipeline.detector_training import evaluate_detector, train_detector
from jdnas.pipeline.norms import with_fresh_statistics
from jdnas.pipeline.prune import open_detector
from jdnas.spec import DetectorSpec
from jdnas.student.actions import Action
from jdnas.student.inherit import decide, transform
from jdnas.training.checkpoint import has_detector, load_detector, read_json, save_detector, write_json
from jdnas.training.loop import Resume
from jdnas.training.schedule import steps_of

RATIOS = (0.1, 0.2, 0.3)


def pruned(context: Context, state: State, method: str, ratio: float, stem: Path) -> tuple[State, DetectorSpec, dict[str, Any]]:
    """Prune with one of the methods and evaluate before any training; what comes out is kept at `stem` for all seeds.

    Torch-Pruning's share of channels is the one that gives the multiply-adds of ours. Both get fresh norm statistics alike.
    """
    if has_detector(stem):
        spec, smaller, meta = load_detector(stem)
        return smaller, spec, meta
    spec, rules, size_hw = context.base_spec, context.config.action_rules(context.base_spec), context.base_size_hw
    smaller, target = state, spec
    if ratio:
        decision = decide(state, spec, Action("prune_channels", ratio=ratio), rules)
        smaller, target = transform(state, decision), decision.target
        if method == "torch-pruning":
            smaller, target = prune_to(spec, state, multiply_adds(target, size_hw), size_hw, round_to=rules.width_step)
    raw = evaluate_detector(context, target, smaller, size_hw)
    smaller = with_fresh_statistics(context, target, smaller) if ratio else smaller
    metrics = evaluate_detector(context, target, smaller, size_hw)
    meta = {"ap_inherited_statistics": raw.ap, "ap_before": metrics.ap, "ap50_before": metrics.ap50}
    save_detector(stem, target, smaller, meta)
    return smaller, target, meta


def figures(context: Context, spec: DetectorSpec) -> dict[str, Any]:
    size = context.base_size_hw
    return {
        "flops_g": multiply_adds(spec, size) / 1e9, "backbone_flops_g": backbone_multiply_adds(spec, size) / 1e9,
        "params_m": parameters(spec) / 1e6,
    }  # fmt: skip


def train_one(context: Context, state: State, method: str, ratio: float, seed: int, epochs: float, stem: Path) -> dict[str, Any]:
    """Prune, evaluate, fine-tune, evaluate."""
    smaller, spec, before = pruned(context, state, method, ratio, stem.with_name(f"{method}_{100 * ratio:.0f}_pruned"))
    train = context.config.candidate_train
    resume = Resume(stem.with_suffix(".partial.safetensors"), 30.0)
    steps, started = steps_of(epochs, len(context.train.records), train.batch), time.monotonic()
    tuned, report = train_detector(context, spec, smaller, train, seed=seed, steps=steps, resume=resume)
    after = evaluate_detector(context, spec, tuned, context.base_size_hw)
    result = {
        "method": method, "ratio": ratio, "seed": seed, "images": report.images, "seconds": round(time.monotonic() - started, 1),
        "skipped": report.skipped, "ap": after.ap, "ap50": after.ap50,
        **before, **figures(context, spec), "spec": spec.to_dict(),
    }  # fmt: skip
    write_json(stem.with_suffix(".json"), result)
    resume.path.unlink(missing_ok=True)
    return result


def rows(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average over the seeds that every row of a ratio has."""
    table = []
    for method, ratio in dict.fromkeys((r["method"], r["ratio"]) for r in sorted(results, key=lambda r: (r["ratio"], r["method"]))):
        runs = [r for r in results if (r["method"], r["ratio"]) == (method, ratio)]
        spread = {key: stdev([r[key] for r in runs]) if len(runs) > 1 else None for key in ("ap", "ap50")}
        seeds = sorted(r["seed"] for r in runs)
        table.append(
            {"method": method, "ratio": ratio, "seeds": seeds, "ap_stdev": spread["ap"], "ap50_stdev": spread["ap50"]}
            | {key: mean(r[key] for r in runs) for key in ("flops_g", "backbone_flops_g", "params_m", "ap_before", "ap", "ap50")}
        )  # fmt: skip
    return table


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
    config, table = context.config, rows(results)
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
    print(markdown(rows(results)))


if __name__ == "__main__":
    main()
