"""Tables 5 and 7: the joint search beside pipelines of its parts and random search, on equal training images from one base and pool."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from jdnas.models.complexity import backbone_multiply_adds
from jdnas.pipeline.baselines import PRUNES
from jdnas.pipeline.compare import Contest, compare
from jdnas.pipeline.run_folder import RunFolder
from jdnas.reproduce import paper
from jdnas.reproduce.lab import Lab
from jdnas.reproduce.layout import Result, Table, percent_change, points, points_spread, with_paper
from jdnas.reproduce.records import Job, Record, spread
from jdnas.search.study import SearchStudy
from jdnas.search.workshop import size_hw_from_key
from jdnas.spec import DetectorSpec
from jdnas.training.checkpoint import read_json

TITLE5 = "Table 5: the joint search against the naive pipelining of its parts"
TITLE7 = "Table 7: the joint search against random search"


def jobs(lab: Lab) -> list[Job]:
    """Return one job for both tables; what it has done of it is kept where it was stopped."""
    methods = tuple(dict.fromkeys((*lab.scale.compare.table5, *lab.scale.compare.table7)))
    what = f"{', '.join(methods)} from {lab.scale.compare.model}"
    return [Job(lab.work / "compare.record.json", what, lambda: _compare(lab, methods))]


def _compare(lab: Lab, methods: tuple[str, ...]) -> Record:
    model = lab.scale.compare.model
    folder = lab.ready(model, lab.seed)
    config, contest = lab.run_config(model, lab.seed), Contest(methods, lab.scale.seeds)
    table = compare(config, folder.root, contest, resume=True, console=lab.console, quiet=lab.quiet)
    context = lab.context(model)
    base = {"ap": table["base"]["ap"], "backbone_flops_g": backbone_multiply_adds(context.base_spec, context.base_size_hw) / 1e9}
    between = {"prune-kd": [base] * len(lab.scale.seeds)}
    if "nas-prune-kd" in methods:
        between["nas-prune-kd"] = [_searched(folder, seed) for seed in lab.scale.seeds]
    runs = [run | {"backbone_flops_g": _backbone_g(run["spec"], run["size"])} for run in table["runs"]]
    return {
        "model": model, "base": base, "runs": runs, "between": between, "before_seconds": _seconds_before(folder),
        **{key: table[key] for key in ("images", "judged_on", "chosen_on", "cost_name")},
    }  # fmt: skip


def _backbone_g(spec: Record, size: str) -> float:
    return backbone_multiply_adds(DetectorSpec.from_dict(spec), size_hw_from_key(size)) / 1e9


def _searched(folder: RunFolder, seed: int) -> Record:
    """Return what the first half of NAS -> prune -> KD came to, on the images that choices are made by."""
    with SearchStudy.load(RunFolder(folder.root / "compare" / f"nas-prune-kd_{seed}").study_url) as study:
        best = study.history.best()
    return {"ap": best.ap, "backbone_flops_g": _backbone_g(best.student.to_dict(), best.size or "")}


def _seconds_before(folder: RunFolder) -> float:
    """Return the seconds of the trainings of base and pool, which all methods begin with."""
    base, pool = (read_json(Path(f"{stem}.json"))["meta"] for stem in (folder.base, folder.pool))
    return float(base.get("seconds", 0.0)) + float(sum(phase["seconds"] for phase in pool.get("phases", ())))


def _name(method: str, model: str) -> str:
    names = {"joint": f"Joint ({model})", "prune-kd": f"{model}-prune-KD", "nas-prune-kd": "NAS-prune-KD"}
    return names.get(method, method)


def _of(record: Record, method: str) -> list[Record]:
    return [run for run in record["runs"] if run["method"] == method]


def table5(lab: Lab, records: list[Record]) -> Result:
    """Lay out what pipelines had before pruning and distillation, and what all came to."""
    record, cells, beside, rows = records[0], [], [], []
    for method in lab.scale.compare.table5:
        runs = _of(record, method)
        final, ap = mean(run["backbone_flops_g"] for run in runs), spread([run["ap"] for run in runs])
        row: Record = {"method": method, "final_backbone_flops_g": final, "final_ap": ap}
        before = record["between"].get(method) if method in PRUNES else None
        if before is None:
            cells.append((_name(method, record["model"]), "-", "-", f"{final:.4g}", points_spread(ap)))
        else:
            cost, first = mean(one["backbone_flops_g"] for one in before), mean(one["ap"] for one in before)
            row |= {"intermediate_backbone_flops_g": cost, "intermediate_ap": first}
            shown = f"{final:.4g} ({percent_change(cost, final)})", f"{points_spread(ap)} ({100 * (ap['mean'] - first):+.1f})"
            cells.append((_name(method, record["model"]), f"{cost:.4g}", points(first), *shown))
        rows.append(row)
        found = paper.TABLE5.get(method)
        beside.append("" if found is None else _paper5(found))
    coco = paper.is_coco(lab.context(lab.scale.compare.model).train.classes)
    columns = ("Method", "Intermediate backbone FLOPS (G)", "Intermediate AP", "Final backbone FLOPS (G)", "Final AP")
    shown_columns, texts = with_paper(columns, cells, beside if coco else None)
    return Result(Table(TITLE5, shown_columns, texts, _notes(lab, record, coco)), rows)


def _paper5(figures: Sequence[float | None]) -> str:
    return " / ".join("-" if value is None else str(value) for value in figures)


def table7(lab: Lab, records: list[Record]) -> Result:
    """Lay out what was found, how many architectures were tried for it, and in how many hours."""
    record, cells, beside, rows = records[0], [], [], []
    for method in lab.scale.compare.table7:
        runs = _of(record, method)
        flops, ap = mean(run["flops_g"] for run in runs), spread([run["ap"] for run in runs])
        tried, hours = mean(run["candidates"] for run in runs), (mean(run["seconds"] for run in runs) + record["before_seconds"]) / 3600
        rows.append({"method": method, "flops_g": flops, "ap": ap, "architectures": tried, "hours": hours})
        cells.append((_name(method, record["model"]), f"{flops:.4g}", points_spread(ap), f"{tried:.4g}", f"{hours:.3g}"))
        found = paper.TABLE7.get(method)
        beside.append("" if found is None else _paper7(found))
    coco = paper.is_coco(lab.context(lab.scale.compare.model).train.classes)
    for name, *figures in paper.TABLE7_OTHERS if coco else ():
        cells.append((name, "-", "-", "-", "-"))
        beside.append(_paper7(figures))
    columns = ("Search method", "FLOPS (G)", "AP", "#Searched architectures", "Search cost (hours of this device)")
    shown_columns, texts = with_paper(columns, cells, beside if coco else None)
    note = "The cost holds the trainings of base and pool. The paper counts GPU days, and estimates random search."
    return Result(Table(TITLE7, shown_columns, texts, (note, *_notes(lab, record, coco))), rows)


def _paper7(figures: Sequence[str]) -> str:
    flops, ap, tried, days = figures
    return f"{flops} G, AP {ap}, {tried}, {days} GPU days"


def _notes(lab: Lab, record: Record, coco: bool) -> tuple[str, ...]:
    seeds = ", ".join(map(str, lab.scale.seeds))
    equal = f"Every method has {record['images']:,} training images after base and pool, which all share; seeds {seeds}."
    judged = f"Final APs are on {record['judged_on']}; intermediate ones of a search on the {record['chosen_on']} that it chose by."
    stayed = any(run["number"] == 0 for run in record["runs"])
    notes = (equal, judged, *(("Where nothing scored above the base, the base stands in the row.",) if stayed else ()))
    return notes if coco else (*notes, paper.NO_COCO)
