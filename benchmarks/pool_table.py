"""Table 1 of our own: subnets of an elastic teacher pool against the same nets trained alone for as many images.

    python benchmarks/pool_table.py --work runs/pool_table

Pool and lone nets grow from one trained base (as pools do in `jdnas optimize`; the paper's nets start from ImageNet) and see the same
number of images from there on; a pool per seed. `--recipes` compares ways to train the pool. Every training leaves one JSON file in
--work and is skipped when it is there.

The base is trained here on synthetic shapes, or is a trained detector on data of one's own:

    python benchmarks/pool_table.py --work runs/pool_bccd --weights runs/prune_bccd/base/base.safetensors --set data=bccd \
        --set data_settings.long_sides=[128] --lr 0.0005 --out benchmarks/results/pool_table_bccd.json
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from provenance import ROOT
from small_setting import LABEL, kept, publish, runs_in, small_context, training

from jdnas.distill.settings import DistillSettings
from jdnas.models.complexity import multiply_adds
from jdnas.models.weights import State
from jdnas.pipeline.context import Context
from jdnas.reproduce.distilling import fresh_state
from jdnas.reproduce.records import spread, trained
from jdnas.reproduce.teachers import lone_record, pool_once, subnet_aps
from jdnas.teacher.names import subnet_from_text
from jdnas.teacher.settings import PhaseSettings, PoolSettings
from jdnas.teacher.space import SubnetSpace, make_space
from jdnas.training.checkpoint import load_detector

WIDTHS = (1.0, 1.25, 1.5)
SUBNETS = ("smallest", "middle", "largest")
DISTILL = DistillSettings(feature=0.0005, localization=0.1, normalize_features=True)  # as in the quick preset
Shares = tuple[tuple[float, dict[str, Any]], ...]
RECIPES: dict[str, Shares] = {  # share of the images and settings of each phase
    "two phases": ((0.5, {"depth_share": 0.0, "widths": (1.5,)}), (0.5, {"widths": WIDTHS, "lr_factor": 0.5})),
    "sandwich from the start": ((1.0, {"widths": WIDTHS}),),
    "two phases, constant then falling": (
        (0.5, {"depth_share": 0.0, "widths": (1.5,), "final_lr_factor": 1.0}),
        (0.5, {"widths": WIDTHS, "warmup": 0.0}),
    ),
}


def pool_settings(recipe: str, epochs: float, lr: float) -> PoolSettings:
    """Return the settings of a pool that sees `epochs` of images in all."""
    phases = tuple(PhaseSettings(epochs=epochs * share, **settings) for share, settings in RECIPES[recipe])
    return PoolSettings(widths=WIDTHS, extra_depth=1, phases=phases, train=training(epochs, lr), bn_images=256)


def ensure_base(context: Context, work: Path, epochs: float) -> tuple[State, dict[str, Any]]:
    """Return the detector that everything grows from: the one that was given, or one that is trained once."""
    if context.config.weights is not None:
        _, state, meta = load_detector(Path(context.config.weights).with_suffix(""))
        return state, {"images": meta.get("images"), "ap": meta["metrics"]["ap"], "ap50": meta["metrics"]["ap50"]}
    spec = context.base_spec
    state, meta = trained(context, work / "base", spec, lambda: fresh_state(spec, 0), training(epochs), seed=77)
    return state, {key: meta[key] for key in ("images", "ap", "ap50")}


def train_one_pool(context: Context, base: State, work: Path, recipe: str, seed: int, epochs: float, lr: float) -> dict[str, Any]:
    """Train a pool and evaluate its three subnets, before and after recalibration."""
    folder = work / f"pool_{name_of(recipe)}_{seed}"
    pool, known = pool_once(context, base, pool_settings(recipe, epochs, lr), DISTILL, folder, seed=seed)
    found = {name: subnet_aps(context, pool, name, ()) for name in SUBNETS}
    return {"kind": "pool", "recipe": recipe, "seed": seed, "subnets": found, **known}


def train_alone(
    context: Context, base: State, work: Path, space: SubnetSpace, name: str, seed: int, epochs: float, lr: float
) -> dict[str, Any]:  # fmt: skip
    """Train one net alone."""
    return lone_record(context, base, space, name, training(epochs, lr), work / f"alone_{name}_{seed}_net", seed=seed)


def name_of(recipe: str) -> str:
    """Return a recipe's name as part of a file name."""
    return "".join(c if c.isalnum() else "_" for c in recipe)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and trainings; resumed when it is there")
    parser.add_argument("--base-epochs", type=float, default=12)
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="*", default=["sandwich from the start"], choices=list(RECIPES))
    parser.add_argument("--weights", type=Path, help="a trained detector that everything grows from, instead of one that is trained here")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="settings, such as data=DIR")
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--no-alone", action="store_true", help="train pools only")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "pool_table.json")
    parser.add_argument("--table-only", action="store_true", help="train nothing; write the table of what is there")
    options = parser.parse_args()
    weights = [] if options.weights is None else [f"weights={options.weights}"]
    context = small_context(options.work, *options.overrides, *weights)
    base, about_base = ensure_base(context, options.work, options.base_epochs)
    space = make_space(context.base_spec, pool_settings("two phases", options.epochs, options.lr))
    write_table(context, options.work, space, about_base, options.out)
    for seed in () if options.table_only else options.seeds:
        for recipe in options.recipes:
            path = options.work / f"pool_{name_of(recipe)}_{seed}.json"
            kept(path, partial(train_one_pool, context, base, options.work, recipe, seed, options.epochs, options.lr))
            write_table(context, options.work, space, about_base, options.out)
        for name in () if options.no_alone else SUBNETS:
            path = options.work / f"alone_{name}_{seed}.json"
            kept(path, partial(train_alone, context, base, options.work, space, name, seed, options.epochs, options.lr))
            write_table(context, options.work, space, about_base, options.out)


def write_table(context: Context, work: Path, space: SubnetSpace, base: dict[str, Any], out: Path) -> None:
    """Write the table of all runs that are there."""
    alone, pools = runs_in(work, "alone_*_"), runs_in(work, "pool_*_")
    rows = []
    for name in SUBNETS:
        spec = subnet_from_text(space, name)
        row: dict[str, Any] = {"subnet": name, "spec": spec.to_dict(), "gmac": multiply_adds(spec, context.base_size_hw) / 1e9, "pools": {}}
        if mine := [run for run in alone if run["subnet"] == name]:
            row["alone"] = {"images": mine[0]["images"], "seeds": [r["seed"] for r in mine], "ap": spread([r["ap"] for r in mine])}
        for recipe in dict.fromkeys(run["recipe"] for run in pools):
            found = [run for run in pools if run["recipe"] == recipe]
            row["pools"][recipe] = {
                "images": found[0]["images"], "seeds": [r["seed"] for r in found], "ap": spread([r["subnets"][name]["ap"] for r in found]),
                "ap_before_recalibration": spread([r["subnets"][name]["ap_before"] for r in found]),
            }  # fmt: skip
        rows.append(row)
    publish(out, {"base": base, "subnets_in_space": space.size(), "rows": rows}, context, label=label_of(context))


def label_of(context: Context) -> str:
    """Say what the table was made with."""
    if context.config.weights is None:
        return LABEL
    (height, width), family = context.base_size_hw, context.base_spec.family
    return f"small CPU setting: {context.train.name}, {width}x{height}, {family} from a trained base; not comparable with the paper's"


if __name__ == "__main__":
    main()
