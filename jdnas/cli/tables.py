"""Tables that commands print."""

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.table import Table

from jdnas.config import RunConfig
from jdnas.models.complexity import multiply_adds, parameters, parameters_per_part, per_part
from jdnas.spec import DetectorSpec

if TYPE_CHECKING:
    from jdnas.pipeline.pool_quality import SubnetQuality
    from latency.validation import Validation

_CLASSES = 80
PAPER_SIZE_HW = (800, 1333)


def summary_table(summary: dict[str, Any]) -> Table:
    """Return base, control and student side by side."""
    table = Table(title="Result", title_justify="left")
    table.add_column("")
    for column in ("AP", "AP50", "latency ms", "FPS", "GMAC", "M params", "input (w x h)"):
        table.add_column(column, justify="right")
    if summary["target"]["label"] != "measured":
        table.caption = f"latency and FPS: {summary['target']['label']}, measured on nothing here"
        table.caption_justify = "left"
    for role in ("base", "control", "student"):
        row = summary[role]
        height, width = row["size_hw"]
        table.add_row(
            role, f"{row['ap']:.3f}", f"{row['ap50']:.3f}", f"{row['latency_ms']:.2f}", f"{row['fps']:.1f}", f"{row['flops_g']:.2f}",
            f"{row['params_m']:.2f}", f"{width}x{height}",
        )  # fmt: skip
    return table


def status_table(run: Path, top: int) -> Table:
    """Return the best pairs of a run's study; a CheckpointError says that there is none."""
    from jdnas.config import resolve_kept
    from jdnas.pipeline.run_folder import RunFolder
    from jdnas.pipeline.speed import cost_name
    from jdnas.search.study import SearchStudy

    folder = RunFolder(run)
    with SearchStudy.load(folder.study_url) as study:
        history, settings = study.history, study.settings
    cost = cost_name(resolve_kept(folder.config_file, {})) if folder.config_file.is_file() else "cost"
    rate = len(history) / history.seconds * 3600 if history.seconds else 0.0
    done = max(0, len(history) - 1)
    left = (settings.trials - done) / rate if rate else 0.0
    title = f"{done} of {settings.trials} candidates, {rate:.0f} an hour, at most {left:.1f} h left"
    table = Table(title=title, title_justify="left")
    for column in ("candidate", "parent", "change", "AP", "size (h x w)", cost.replace("_", " "), "score H"):
        table.add_column(column, justify="right")
    for trial in history.top_k(top):
        table.add_row(
            str(trial.number),
            str(trial.parent),
            trial.candidate.change,
            f"{trial.ap:.3f}",
            str(trial.size),
            f"{trial.cost:.4g}",
            f"{trial.score:.4f}",
        )
    return table


def space_table(config: RunConfig, samples: int, seed: int) -> Table:
    """Return the size of the subnet space and some subnets."""
    from jdnas.pipeline.context import base_spec_of
    from jdnas.teacher.space import make_space

    space = make_space(base_spec_of(config, 80, config.model.anchor_reference), config.pool)
    resolutions = len(config.data_settings.long_sides)
    ranges = ", ".join(f"{low} to {high}" for low, high in zip(space.min_depths, space.max_depths, strict=True))
    elastic = "the stem, every stage and the neck" if space.has_elastic_stem else "every stage and the neck"
    title = (
        f"{space.size():,} subnets x {resolutions} resolutions = {space.size(resolutions):,}: depths {ranges}; "
        f'width factors {", ".join(map(str, space.factors))} for {elastic}. The paper\'s "roughly 765,000" is 264 depths '
        "(2 to 3, 2 to 4, 2 to 23, 2 to 3) x 3^6 widths (stem, four stages, neck) x 4 resolutions = 769,824: --preset paper"
    )
    table = Table(title=title, title_justify="left")
    for column in ("subnet", "depths", "stage widths", "neck", "GMAC at 1333x800", "M params"):
        table.add_column(column, justify="right")
    rng = random.Random(seed)
    drawn = [("largest", space.largest), ("smallest", space.smallest), *((f"random {i}", space.sample(rng)) for i in range(samples))]
    for name, spec in drawn:
        widths = " ".join(str(stage.width) for stage in spec.stages)
        cost = f"{multiply_adds(spec, PAPER_SIZE_HW) / 1e9:.1f}"
        table.add_row(name, " ".join(map(str, spec.depths)), widths, str(spec.neck), cost, f"{parameters(spec) / 1e6:.1f}")
    return table


def targets_table(files: list[Path]) -> Table:
    """Return all targets: what each is, what is known of its latencies, and whether engines can be timed on this machine."""
    from latency.here import standing
    from latency.sources import knowledge
    from latency.targets import known, load_target

    table = Table(title="Targets", title_justify="left", box=SIMPLE)
    for column in ("target", "device", "runs on", "known", "this machine"):
        table.add_column(column, overflow="fold")
    for target in [*map(load_target, known()), *map(load_target, files)]:
        here = standing(target)
        runs = f"{target.runtime} {target.precision}" + (f", batch {target.batch}" if target.batch > 1 else "")
        table.add_row(target.name, target.device, runs, knowledge(target), "yes" if here.measurable else here.why)
    return table


def quality_table(rows: "list[SubnetQuality]") -> Table:
    """Return the evaluated subnets of a pool, phase by phase, by multiply-adds; `*` marks those that the phase did not train."""
    table = Table(title="Subnets of the pool; * not trained by that phase", title_justify="left")
    for column in ("phase", "subnet", "", "GMAC", "AP before recalibration", "AP after"):
        table.add_column(column, justify="right")
    for row in sorted(rows, key=lambda r: (r.phase, r.gmac)):
        name = row.subnet if row.released else f"{row.subnet} *"
        table.add_row(str(row.phase + 1), name, row.role, f"{row.gmac:.3f}", f"{row.ap_before:.3f}", f"{row.ap_after:.3f}")
    return table


def validation_table(result: "Validation") -> Table:
    """Return how far predictions are from measured engines, with the noise of measuring beside it."""
    figures = result.figures()
    table = Table(title=f"{result.target}: {figures['engines']} engines that nothing was fitted to", title_justify="left", box=SIMPLE)
    table.add_column("")
    table.add_column("", justify="right")
    percent = {"mape": "mean error (MAPE)", "median_error": "median error", "largest_error": "largest error", "bias": "bias",
               "within_5": "share within 5 %", "within_10": "share within 10 %",
               "noise": "noise floor: two measurements of one engine differ by"}  # fmt: skip
    for key, words in percent.items():
        table.add_row(words, f"{100 * figures[key]:.1f} %")
    table.add_row("Kendall tau", f"{figures['kendall_tau']:.3f}")
    return table


def prediction_table(model: str, size: str, target_name: str, rows: int) -> Table:
    """Return a predicted latency, what it rests on, and the heaviest blocks or parts behind it."""
    from jdnas.cli.specs import spec_of
    from jdnas.sizes import size_hw_from_text
    from latency.sources import PriorSource, TableSource, open_source
    from latency.targets import load_target

    source = open_source(load_target(target_name))
    spec, size_hw = spec_of(model, _CLASSES), size_hw_from_text(size)
    title = f"{model} at {size} on {target_name}: {source.latency_ms(spec, size_hw):.3f} ms, {source.label}; {source.error_words()}"
    table = Table(title=title, title_justify="left", box=SIMPLE)
    if isinstance(source, PriorSource):
        table.add_column("part")
        table.add_column("ms", justify="right")
        for part, latency_ms in source.parts_ms(spec, size_hw).items():
            table.add_row(part, f"{latency_ms:.3f}")
    elif isinstance(source, TableSource):
        for column in ("block", "times", "ms each", "source", "rows of the table"):
            table.add_column(column, overflow="fold")
        for line in source.predictor.explain(spec, size_hw)[:rows]:
            used = "; ".join(" ".join(map(str, row.sizes)) for row in line.rows)
            table.add_row(f"{line.block.family} {' '.join(map(str, line.block.sizes))}", str(line.count), f"{line.latency_ms:.4f}",
                          line.source, used)  # fmt: skip
    return table


def complexity_table(name: str, spec: DetectorSpec, size_hw: tuple[int, int]) -> Table:
    """Return multiply-adds per part and the parameters of a spec."""
    total = multiply_adds(spec, size_hw)
    title = f"{name} at {size_hw[1]}x{size_hw[0]}: {total / 1e9:.2f} GMAC, {parameters(spec) / 1e6:.2f} M parameters"
    table = Table(title=title, title_justify="left")
    table.add_column("part")
    table.add_column("GMAC", justify="right")
    table.add_column("share", justify="right")
    table.add_column("M parameters", justify="right")
    weights = parameters_per_part(spec)
    for part, count in per_part(spec, size_hw).items():
        table.add_row(part, f"{count / 1e9:.2f}", f"{100 * count / total:.1f}%", f"{weights[part] / 1e6:.3f}")
    return table
