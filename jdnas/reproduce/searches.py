"""Table 4 and Figures 5 to 7: the main job from several bases with one teacher pool, and what its searches show."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import mean

from jdnas.models.complexity import backbone_parameters, per_part
from jdnas.reproduce import paper
from jdnas.reproduce.drawing import Bars, Line, Panel, draw
from jdnas.reproduce.lab import Lab
from jdnas.reproduce.layout import Result, Table, percent_change, points_spread, size_text, with_paper
from jdnas.reproduce.records import Job, Record, file_name, spread
from jdnas.search.analyses import capacities, gain, gains_by_change
from jdnas.search.history import History
from jdnas.spec import DetectorSpec

TITLE4 = "Table 4: detectors before and after the search"
TITLE5 = "Figure 5: the teacher-student capacity-matching pattern during the search"
TITLE6 = "Figure 6: score gained by each action, and the share of beneficial actions throughout generations"
TITLE7 = "Figure 7: computation of the backbone by stage before and after the search"
GROUPS = {"base": "baseline", "control": "control", "student": "ours"}
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e")
KEPT = ("ap", "ap50", "flops_g", "params_m", "latency_ms", "fps", "size_hw", "spec")


def jobs(lab: Lab) -> list[Job]:
    """Return a job for each base and seed; all tables and figures of this module read the same searches."""
    found = []
    for model in lab.scale.table4.models:
        for seed in lab.scale.seeds:

            def make(model: str = model, seed: int = seed) -> Record:
                return _record(lab, model, seed)

            path = lab.work / "searches" / f"{file_name(lab.scale.base_of(model), seed)}.json"
            found.append(Job(path, f"search from {model}, seed {seed}", make))
    return found


def _record(lab: Lab, model: str, seed: int) -> Record:
    summary = lab.search(model, seed)
    roles = {role: {key: summary[role][key] for key in KEPT} for role in GROUPS}
    history = lab.history(model, seed)
    return {
        "model": model, "seed": seed, **roles, "extra_images": summary["control"]["extra_images"], "search": summary["search"],
        "target": {"name": summary["target"]["name"], "label": summary["target"]["label"]}, "trial": summary["student"]["trial"],
        "capacities": capacities(history, backbone_parameters, backbone_parameters), "gains": gains_by_change(history),
        "score_gains": _score_gains(history), "stages": {role: _stages(roles[role]) for role in ("base", "student")},
    }  # fmt: skip


def _score_gains(history: History) -> Record:
    """Sum the gains of score that candidates brought over their parents, by kind of change."""
    sums: dict[str, float] = defaultdict(float)
    for trial in history.complete:
        if (value := gain(history, trial)) is not None and value > 0:
            sums[trial.candidate.change] += value
    return dict(sums)


def _stages(figures: Record) -> Record:
    """Return Gmultiply-adds of the stages of a backbone."""
    height, width = figures["size_hw"]
    parts = per_part(DetectorSpec.from_dict(figures["spec"]), (height, width))
    return {part.removeprefix("backbone."): count / 1e9 for part, count in parts.items() if part.startswith("backbone.s")}


def _coco(lab: Lab) -> bool:
    return paper.is_coco(lab.context(lab.scale.pool_model).train.classes)


def _runs(records: Sequence[Record], model: str) -> list[Record]:
    return [r for r in records if r["model"] == model]


def _over_seeds(values: list[float]) -> Record:
    return {"mean": mean(values), "values": values}


def _means(runs: Sequence[Record], role: str, key: str) -> float:
    return float(mean(run[role][key] for run in runs))


def table4(lab: Lab, records: list[Record]) -> Result:
    """Lay the searches out as the paper does: baseline and ours for each base; beside them the control."""
    rows, cells, beside = [], [], []
    for model in lab.scale.table4.models:
        if not (runs := _runs(records, model)):
            continue
        for role, group in GROUPS.items():
            figures = {
                key: _over_seeds([run[role][key] for run in runs]) for key in ("ap", "ap50", "flops_g", "fps", "latency_ms", "params_m")
            }
            sizes = sorted({size_text(run[role]["size_hw"]) for run in runs})
            rows.append(
                {"base_model": model, "group": group, "input_sizes": sizes, **figures, "specs": [run[role]["spec"] for run in runs]}
            )
            cells.append((model, group, " or ".join(sizes), *_cells(runs, role)))
            found = paper.TABLE4.get((model, group))
            beside.append("" if found is None else f"{found[0]}, {found[1]} G, {found[2]} FPS, AP {found[3]}")
    columns, texts = with_paper(("Base model", "Group", "Input size", "FLOPS (G)", "FPS", "AP"), cells, beside if _coco(lab) else None)
    return Result(Table(TITLE4, columns, texts, _notes(lab, records)), rows)


def _cells(runs: Sequence[Record], role: str) -> tuple[str, str, str]:
    flops, fps, ap = (_means(runs, role, key) for key in ("flops_g", "fps", "ap"))
    texts = [f"{flops:.4g}", f"{fps:.4g}", points_spread(spread([run[role]["ap"] for run in runs]))]
    if role == "student":
        texts[0] += f" ({percent_change(_means(runs, 'base', 'flops_g'), flops)})"
        texts[1] += f" ({percent_change(_means(runs, 'base', 'fps'), fps)})"
    if role != "base":
        texts[2] += f" ({100 * (ap - _means(runs, 'base', 'ap')):+.1f})"
    return texts[0], texts[1], texts[2]


def _notes(lab: Lab, records: Sequence[Record]) -> tuple[str, ...]:
    labels = sorted({f"{r['target']['label']} for {r['target']['name']}" for r in records})
    seeds = ", ".join(map(str, sorted({r["seed"] for r in records})))
    extra = " or ".join(map(str, sorted({r["extra_images"] for r in records})))
    control = f"the baseline trained on for as many more images as the student's lineage saw ({extra}), without a teacher"
    notes = (f"FPS: {', '.join(labels)}, batch 1. Seeds {seeds}.", f"control: {control}.")
    return (*notes, *(() if _coco(lab) else (paper.NO_COCO,)))


def figure5(lab: Lab, records: list[Record]) -> Result:
    """Left: the teacher of the best student so far over candidates. Right: all teachers of each search."""
    lines, samples, rows, cells = [], [], [], []
    models = [model for model in lab.scale.table4.models if _runs(records, model)]
    for index, model in enumerate(models):
        runs = _runs(records, model)
        for run in runs:
            found = run["capacities"]
            name = model if run is runs[0] else ""
            lines.append(
                Line(
                    name, [r["number"] for r in found], [r["best_teacher"] / 1e6 for r in found], COLOURS[index % len(COLOURS)], steps=True
                )
            )
        teachers = [row["teacher"] / 1e6 for run in runs for row in run["capacities"]]
        last = [run["capacities"][-1] for run in runs]
        student, teacher = (mean(row[key] / 1e6 for row in last) for key in ("best_student", "best_teacher"))
        samples.append(teachers)
        rows.append({"model": model, "capacities": [run["capacities"] for run in runs]})
        cells.append((model, f"{student:.3g}", f"{teacher:.3g}", f"{min(teachers):.3g} to {max(teachers):.3g}"))
    what = "teacher's backbone (M parameters)"
    panels = (
        Panel("teacher of the best student so far", "candidate", what, lines=tuple(lines)),
        Panel("teachers throughout the search", "", what, groups=tuple(models), samples=tuple(samples)),
    )
    columns = ("Base model", "Best student's backbone (M)", "its teacher's backbone (M)", "all teachers (M)")
    return Result(Table(TITLE5, columns, tuple(cells)), rows, draw(TITLE5, panels) if models else "")


def figure6(lab: Lab, records: list[Record]) -> Result:
    """Top of the paper's figure: score gained by each action. Bottom: shares of beneficial actions by generation."""
    models = [model for model in lab.scale.table4.models if _runs(records, model)]
    changes = sorted({change for r in records for change in r["score_gains"]} | {row["change"] for r in records for row in r["gains"]})
    gains = {model: [sum(run["score_gains"].get(change, 0.0) for run in _runs(records, model)) for change in changes] for model in models}
    bars = tuple(Bars(model, [100 * value for value in gains[model]], COLOURS[i % len(COLOURS)]) for i, model in enumerate(models))
    beneficial: dict[tuple[int, str], int] = defaultdict(int)
    for record in records:
        for row in record["gains"]:
            beneficial[row["generation"], row["change"]] += row["beneficial"]
    generations = sorted({generation for (generation, _), count in beneficial.items() if count})
    totals = {g: sum(count for (other, _), count in beneficial.items() if other == g) for g in generations}
    stacked = tuple(
        Bars(change.replace("_", " "), [100 * beneficial[g, change] / totals[g] for g in generations], COLOURS[index % len(COLOURS)])
        for index, change in enumerate(changes)
    )
    names = tuple(change.replace("_", " ") for change in changes)
    panels = [Panel("score gained by each action", "", "sum of gains in H x 100", bars=bars, groups=names)]
    if generations:
        title = "share of beneficial actions"
        panels.append(Panel(title, "generation", "%", bars=stacked, groups=tuple(map(str, generations)), stacked=True))
    cells = [
        (name, *(f"{100 * gains[model][place]:.2f}" for model in models), str(sum(beneficial[g, change] for g in generations)))
        for place, (name, change) in enumerate(zip(names, changes, strict=True))
    ]
    rows = [{"model": model, "score_gains": dict(zip(changes, gains[model], strict=True)),
             "gains": [run["gains"] for run in _runs(records, model)]} for model in models]  # fmt: skip
    columns = ("Action", *(f"{model}, gain in H x 100" for model in models), "beneficial")
    return Result(Table(TITLE6, columns, tuple(cells)), rows, draw(TITLE6, panels) if models else "")


def figure7(lab: Lab, records: list[Record]) -> Result:
    """Gmultiply-adds of each stage of the backbone, before and after, each at its own input size as in the paper."""
    panels, rows, cells = [], [], []
    for model in lab.scale.table4.models:
        if not (runs := _runs(records, model)):
            continue
        stages = sorted(runs[0]["stages"]["base"], key=lambda part: (part != "stem", part))
        shares = {role: [mean(run["stages"][role].get(s, 0.0) for run in runs) for s in stages] for role in ("base", "student")}
        rows.append({"model": model, "stages": stages, **shares})
        names = tuple(_stage_name(stage) for stage in stages)
        bars = tuple(Bars(label, shares[role], COLOURS[i]) for i, (role, label) in enumerate((("base", "before"), ("student", "after"))))
        panels.append(Panel(model, "", "multiply-adds (G)", bars=bars, groups=names))
        cells += [
            (model, name, f"{before:.4g}", f"{after:.4g}", percent_change(before, after))
            for name, before, after in zip(names, shares["base"], shares["student"], strict=True)
        ]
    columns = ("Base model", "Part", "before (G)", "after (G)", "change")
    return Result(Table(TITLE7, columns, tuple(cells)), rows, draw(TITLE7, panels) if panels else "")


def _stage_name(part: str) -> str:
    return "stem" if part == "stem" else f"stage {int(part[1:]) + 1}"
