"""Table 2: AP after pruning some of the channels and fine-tuning."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, stdev

from jdnas.models.complexity import backbone_multiply_adds, multiply_adds, parameters
from jdnas.models.weights import State
from jdnas.pipeline.context import Context
from jdnas.pipeline.detector_training import evaluate_detector, train_detector
from jdnas.pipeline.norms import with_fresh_statistics
from jdnas.reproduce import paper
from jdnas.reproduce.lab import Lab
from jdnas.reproduce.layout import Result, Table, points_spread, with_paper
from jdnas.reproduce.records import Job, Record, partial_path, spread
from jdnas.spec import DetectorSpec
from jdnas.student.actions import Action
from jdnas.student.inherit import decide, transform
from jdnas.training.checkpoint import has_detector, load_detector, save_detector
from jdnas.training.loop import Resume
from jdnas.training.schedule import steps_of

TITLE = "Table 2: pruning results for given shares of the channels"
OURS = "jdnas"
Pruner = Callable[[Context, State, float], tuple[State, DetectorSpec]]


def by_gamma(context: Context, state: State, ratio: float) -> tuple[State, DetectorSpec]:
    """Take `ratio` of the channels out of the context's base by the magnitude of their gammas."""
    spec = context.base_spec
    decision = decide(state, spec, Action("prune_channels", ratio=ratio), context.config.action_rules(spec))
    return transform(state, decision), decision.target


def pruned(context: Context, state: State, pruner: Pruner, ratio: float, stem: Path) -> tuple[State, DetectorSpec, Record]:
    """Prune and evaluate before any training, with inherited norm statistics and with fresh ones; `stem` keeps it, for all seeds."""
    if not has_detector(stem):
        smaller, target = pruner(context, state, ratio) if ratio else (state, context.base_spec)
        raw = evaluate_detector(context, target, smaller, context.base_size_hw)
        smaller = with_fresh_statistics(context, target, smaller) if ratio else smaller
        metrics = evaluate_detector(context, target, smaller, context.base_size_hw)
        save_detector(stem, target, smaller, {"ap_inherited_statistics": raw.ap, "ap_before": metrics.ap, "ap50_before": metrics.ap50})
    spec, smaller, meta = load_detector(stem)
    return smaller, spec, meta


def figures(context: Context, spec: DetectorSpec) -> Record:
    """Return multiply-adds and parameters of a spec at the context's base resolution."""
    size = context.base_size_hw
    return {
        "flops_g": multiply_adds(spec, size) / 1e9, "backbone_flops_g": backbone_multiply_adds(spec, size) / 1e9,
        "params_m": parameters(spec) / 1e6,
    }  # fmt: skip


def prune_and_tune(
    context: Context, state: State, pruner: Pruner, method: str, ratio: float, seed: int, epochs: float, stem: Path
) -> Record:  # fmt: skip
    """Prune, evaluate, fine-tune by `candidate_train`, evaluate; `stem` names what is kept meanwhile."""
    smaller, spec, before = pruned(context, state, pruner, ratio, stem.with_name(f"{method}_{100 * ratio:.0f}_pruned"))
    train = context.config.candidate_train
    resume = Resume(partial_path(stem), context.config.checkpoint_seconds)
    steps, started = steps_of(epochs, len(context.train.records), train.batch), time.monotonic()
    tuned, report = train_detector(context, spec, smaller, train, seed=seed, steps=steps, resume=resume)
    after = evaluate_detector(context, spec, tuned, context.base_size_hw)
    resume.path.unlink(missing_ok=True)
    return {
        "method": method, "ratio": ratio, "seed": seed, "images": report.images, "seconds": round(time.monotonic() - started, 1),
        "skipped": report.skipped, "ap": after.ap, "ap50": after.ap50, **before, **figures(context, spec), "spec": spec.to_dict(),
    }  # fmt: skip


def averages(records: list[Record]) -> list[Record]:
    """Average over the seeds of each method and ratio."""
    table = []
    for method, ratio in dict.fromkeys((r["method"], r["ratio"]) for r in sorted(records, key=lambda r: (r["ratio"], r["method"]))):
        runs = [r for r in records if (r["method"], r["ratio"]) == (method, ratio)]
        deviations = {f"{key}_stdev": stdev([r[key] for r in runs]) if len(runs) > 1 else None for key in ("ap", "ap50")}
        table.append(
            {"method": method, "ratio": ratio, "seeds": sorted(r["seed"] for r in runs), **deviations}
            | {key: mean(r[key] for r in runs) for key in ("flops_g", "backbone_flops_g", "params_m", "ap_before", "ap", "ap50")}
        )  # fmt: skip
    return table


def jobs(lab: Lab) -> list[Job]:
    """Return a job for each model, share and seed."""
    found, table = [], lab.scale.table2
    for model in table.models:
        for ratio in (0.0, *table.ratios):
            for seed in lab.scale.seeds:
                stem = lab.work / "table2" / lab.scale.base_of(model) / f"{OURS}_{100 * ratio:.0f}_{seed}"

                def make(model: str = model, ratio: float = ratio, seed: int = seed, stem: Path = stem) -> Record:
                    context, (state, _) = lab.context(model), lab.base(model)
                    record = prune_and_tune(context, state, by_gamma, OURS, ratio, seed, table.finetune_epochs, stem)
                    return {"model": model, **record}

                found.append(Job(stem.with_suffix(".json"), f"{model}, {100 * ratio:.0f} % pruned, seed {seed}", make))
    return found


def result(lab: Lab, records: list[Record]) -> Result:
    """Lay the records out as the paper does: a model and a share a row."""
    coco, rows, cells, beside = False, [], [], []
    for model in lab.scale.table2.models:
        coco = coco or paper.is_coco(lab.context(model).train.classes)
        for row in averages([r for r in records if r["model"] == model]):
            aps = spread([r["ap"] for r in records if (r["model"], r["ratio"]) == (model, row["ratio"])])
            rows.append({"model": model, **row, "ap_spread": aps})
            share = f"{100 * row['ratio']:.0f}%{' (baseline)' if not row['ratio'] else ''}"
            cells.append((model, share, f"{row['backbone_flops_g']:.3g}", points_spread(aps)))
            beside.append(_of_paper(paper.TABLE2, model, row["ratio"]))
    columns, texts = with_paper(("Model", "Pruning percentage", "Backbone FLOPS (G)", "AP"), cells, beside if coco else None)
    seeds = ", ".join(map(str, sorted({r["seed"] for r in records})))
    note = f"Fine-tuned for {lab.scale.table2.finetune_epochs:g} epochs after pruning; the seeds ({seeds}) are those of the fine-tuning."
    return Result(Table(TITLE, columns, texts, (note,) if coco else (note, paper.NO_COCO)), rows)


def _of_paper(table: Mapping[tuple[str, float], tuple[float, float]], model: str, ratio: float) -> str:
    found = table.get((model, ratio))
    return "" if found is None else f"{found[0]} G, AP {found[1]}"
