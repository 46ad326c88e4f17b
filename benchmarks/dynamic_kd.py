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

from jdnas.distill.settings import DistillSettings
from jdnas.pipeline.context import Context
from jdnas.pipeline.distillation import Student, read_student
from jdnas.reproduce.dynamic import ARMS, ends, train_arm
from jdnas.reproduce.records import spread
from jdnas.teacher.pool import TeacherPool, load_pool
from jdnas.training.checkpoint import write_json

DISTILL = DistillSettings(feature=0.0005, localization=0.1, normalize_features=True)  # as in the quick preset


def run_arm(context: Context, pool: TeacherPool, student: Student, arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one student in rounds and return its AP after each."""
    train, stem = training(options.epochs, options.lr), options.work / f"{arm}_{seed}"
    record = train_arm(context, pool, student, arm, train, DISTILL, rounds=options.rounds, seed=seed, stem=stem)
    print(arm, seed, record["ap"], flush=True)
    return record


def figure(table: dict[str, Any]) -> str:
    """Return an HTML page with AP over training images: mean over seeds, and a line per seed behind it."""
    import plotly.graph_objects as go

    page = go.Figure(layout={"template": "plotly_white", "title": "Dynamic and conventional distillation, small CPU setting",
                             "xaxis": {"title": "training images"}, "yaxis": {"title": "AP"}})  # fmt: skip
    for arm, colour in zip(ARMS, ("#888888", "#efb118", "#4269d0"), strict=True):
        runs = [run for run in table["runs"] if run["arm"] == arm]
        for run in runs:
            page.add_scatter(x=_images(run), y=[table["student"]["ap"], *run["ap"]], line={"color": colour, "width": 1}, opacity=0.35,
                             showlegend=False, mode="lines")  # fmt: skip
        means = [sum(values) / len(runs) for values in zip(*(run["ap"] for run in runs), strict=True)] if runs else []
        if runs:
            page.add_scatter(x=_images(runs[0]), y=[table["student"]["ap"], *means], name=arm, line={"color": colour, "width": 3})
    text: str = page.to_html(include_plotlyjs="cdn")
    return text


def _images(run: dict[str, Any]) -> list[int]:
    return [run["images_per_round"] * index for index in range(len(run["ap"]) + 1)]


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
            publish(options.out, table)
            options.work.joinpath("figure.html").write_text(figure(table))
    write_json(options.work / "done.json", {"runs": len(runs)})


if __name__ == "__main__":
    main()
