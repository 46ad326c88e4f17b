r"""Figure 4 of our own: dynamic distillation (a teacher drawn from the pool for each round) against conventional (the largest net).

    python benchmarks/dynamic_kd.py --pool runs/pool_table/pool_sandwich_from_the_start_0/pool --student runs/pool_table/base \
        --work runs/dynamic_kd

As in the paper's section 4.1.2, the student trains in rounds with a learning rate schedule each; `none` is the same without a teacher.
Every round is kept in --work, and a later call goes on from there.
"""

import argparse
from pathlib import Path
from typing import Any

from provenance import ROOT
from small_setting import publish, small_context, training

from jdnas.atomic import write_atomically
from jdnas.distill.settings import DistillSettings
from jdnas.pipeline.context import Context
from jdnas.pipeline.distillation import Student, read_student
from jdnas.reproduce.dynamic import ARMS, ends, figure, train_arm
from jdnas.reproduce.records import spread
from jdnas.teacher.pool import TeacherPool, load_pool

TITLE = "Dynamic and conventional distillation, small CPU setting"
DISTILL = DistillSettings(feature=0.0005, localization=0.1, normalize_features=True)  # as in the quick preset


def run_arm(context: Context, pool: TeacherPool, student: Student, arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one student in rounds and return its AP after each."""
    train, stem = training(options.epochs, options.lr), options.work / f"{arm}_{seed}"
    record = train_arm(context, pool, student, arm, train, DISTILL, rounds=options.rounds, seed=seed, stem=stem)
    print(arm, seed, record["ap"], flush=True)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True, help="stem of the pool (without .safetensors)")
    parser.add_argument("--student", type=Path, required=True, help="stem of the student's weights")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--epochs", type=float, default=1.0, help="epochs of a round")
    parser.add_argument("--lr", type=float, default=0.0005)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "dynamic_kd.json")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "distillation" / "dynamic.svg")
    options = parser.parse_args()
    context = small_context(options.work)
    pool, (student, _) = load_pool(options.pool, context.train.classes), read_student(options.student)
    about = ends(context, pool, student)
    runs: list[dict[str, Any]] = []
    for seed in options.seeds:
        for arm in ARMS:
            runs.append(run_arm(context, pool, student, arm, seed, options))
            last = {name: spread([run["ap"][-1] for run in runs if run["arm"] == name]) for name in {run["arm"] for run in runs}}
            table = {**about, "rounds": options.rounds, "epochs": options.epochs, "lr": options.lr, "last_ap": last, "runs": runs}
            publish(options.out, table, context)
            write_atomically(options.plot, figure(TITLE, runs).encode())


if __name__ == "__main__":
    main()
