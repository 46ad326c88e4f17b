"""Whether a search that scores by latency finds faster students than one that scores by multiply-adds.

    python benchmarks/latency_vs_flops.py --work runs/latency_vs_flops --seeds 0 1 2 [--preset quick] [--set search.trials=12]

For each seed a base and a teacher pool are trained once; two searches go on from copies of them, alike but for their cost. Their
students are exported and compared in turns on the target (ratio with a 95 % interval), beside their APs. Among all candidates of a seed
the pairs are counted that multiply-adds and predicted latency put in opposite order, and the widest of them are measured. Every step
leaves its result in --work and is skipped when it is there.
"""

import argparse
import json
import shutil
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from provenance import ROOT, provenance
from rich.console import Console

from jdnas.config import RunConfig, parse_overrides, resolve
from jdnas.models.complexity import multiply_adds
from jdnas.pipeline.optimize import optimize
from jdnas.pipeline.run_folder import RunFolder, begin_run
from jdnas.search.study import SearchStudy
from jdnas.search.workshop import SizeHW, size_hw_from_key
from jdnas.spec import DetectorSpec
from jdnas.training.checkpoint import read_json, write_json
from latency.benchmark import benchmark
from latency.device_lock import held_device
from latency.prepared import measure_engine
from latency.sources import LatencySource, open_source
from latency.targets import Target, load_target

COSTS = ("latency", "multiply_adds")
MEASURED_PAIRS = 3
TURNS = 5
Case = tuple[DetectorSpec, SizeHW]


def search(config: RunConfig, folder: Path, twin: Path | None) -> dict[str, Any]:
    """Run one search, from the base and pool of its `twin` where there is one, and return its summary."""
    if not (folder / "summary.json").is_file():
        if twin is not None and not folder.exists():
            begin_run(RunFolder(folder), config)
            for part in ("base", "pool", "shapes"):
                if (twin / part).is_dir():
                    shutil.copytree(twin / part, folder / part, ignore=shutil.ignore_patterns("control.*", "*.onnx", "*.parity.json"))
        optimize(config, folder, resume=True, console=Console(), command="benchmarks/latency_vs_flops.py")
    return read_json(folder / "summary.json")


def candidates(folder: Path) -> list[Case]:
    with SearchStudy.load(RunFolder(folder).study_url) as study:
        return [(trial.student, size_hw_from_key(trial.size)) for trial in study.history.complete if trial.size]


def misled(cases: list[Case], source: LatencySource) -> list[tuple[Case, Case, float]]:
    """Return the pairs whose first has fewer multiply-adds and takes longer, with how much longer, widest first."""
    found = []
    for a, b in combinations(cases, 2):
        first, second = (a, b) if multiply_adds(*a) < multiply_adds(*b) else (b, a)
        ratio = source.latency_ms(*first) / source.latency_ms(*second)
        if multiply_adds(*first) < multiply_adds(*second) and ratio > 1:
            found.append((first, second, ratio))
    return sorted(found, key=lambda pair: -pair[2])


def in_turns(pair: tuple[Case, Case], target: Target) -> list[float]:
    """Return the milliseconds of two engines, each the median of some measurements that took turns."""
    turns = [[measure_engine(case, target).median_ms for case in pair] for _ in range(TURNS)]
    return [median(own) for own in zip(*turns, strict=True)]


def one_seed(config: RunConfig, work: Path, seconds: float) -> dict[str, Any]:
    folders = {cost: work / cost for cost in COSTS}
    settings = {cost: config.model_copy(update={"cost": cost}) for cost in COSTS}
    summaries = {"latency": search(settings["latency"], folders["latency"], None)}
    summaries["multiply_adds"] = search(settings["multiply_adds"], folders["multiply_adds"], folders["latency"])
    path = work / "measured.json"
    if not path.is_file():
        engines = [folders[cost] / "student" / "student.onnx" for cost in ("multiply_adds", "latency")]
        report = benchmark(engines, config.target, seconds=seconds, compare=True).to_dict()
        target = load_target(config.target)
        cases = list(dict.fromkeys(case for folder in folders.values() for case in candidates(folder)))
        pairs = misled(cases, open_source(target))
        with held_device(target):
            shown = [
                {"fewer": a[0].to_dict(), "more": b[0].to_dict(), "sizes_hw": [a[1], b[1]],
                 "gmac": [multiply_adds(*case) / 1e9 for case in (a, b)],
                 "predicted_ratio": ratio, "measured_ms": in_turns((a, b), target)}
                for a, b, ratio in pairs[:MEASURED_PAIRS]
            ]  # fmt: skip
        compared = report["comparison"] | {"first": COSTS[1], "second": COSTS[0]}
        write_json(path, {"comparison": compared, "disturbances": report["disturbances"], "candidates": len(cases),
                          "pairs": len(cases) * (len(cases) - 1) // 2, "misled": len(pairs), "widest": shown})  # fmt: skip
    figures = {cost: {key: summary["student"][key] for key in ("ap", "latency_ms", "flops_g", "score", "trial")}
               for cost, summary in summaries.items()}  # fmt: skip
    return {"seed": config.seed, "base": {key: summaries["latency"]["base"][key] for key in ("ap", "latency_ms", "flops_g")},
            "students": figures, **read_json(path)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--base", default="r18")
    parser.add_argument("--target", default="cpu-ort")
    parser.add_argument("--data", default="shapes")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each student in the comparison")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "latency_vs_flops.json")
    options = parser.parse_args()
    given = {"base": options.base, "target": options.target, "data": options.data}
    rows = []
    for seed in options.seeds:
        config = resolve(options.preset, parse_overrides(options.overrides) | given | {"seed": seed})
        rows.append(one_seed(config, options.work / f"seed{seed}", options.seconds))
        write_json(options.out, {"provenance": provenance(), "settings": given | {"preset": options.preset}, "seeds": rows})
        latest = rows[-1]
        ratio = latest["comparison"]
        print(f"seed {seed}: latency student / FLOPs student {ratio['ratio']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}], AP "
              f"{latest['students']['latency']['ap']:.3f} against {latest['students']['multiply_adds']['ap']:.3f}; multiply-adds put "
              f"{latest['misled']} of {latest['pairs']} pairs of candidates in the wrong order")  # fmt: skip
    print(json.dumps({"wrote": str(options.out)}))


if __name__ == "__main__":
    main()
