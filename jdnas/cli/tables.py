"""Tables that commands print."""

import math
import random
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.table import Table

from jdnas.models.complexity import multiply_adds, parameters
from jdnas.pipeline.estimate import time_text

if TYPE_CHECKING:
    from jdnas.api.students import Choice
    from jdnas.pipeline.estimate import Estimate
    from jdnas.pipeline.pool_quality import SubnetQuality
    from jdnas.teacher.space import SubnetSpace
    from latency.validation import Validation

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


def precision_table(rows: list[dict[str, Any]]) -> Table:
    """Return what each precision gave: AP, its distance from PyTorch, latency on the target, size, and whether it passed."""
    table = Table(title="Precisions of the student", title_justify="left")
    table.add_column("")
    for column in ("AP", "dAP", "latency ms", "MB", "passed", "taken"):
        table.add_column(column, justify="right")
    for row in rows:
        ap, delta, median = (
            "-" if row[key] is None else f"{row[key]:{form}}" for key, form in (("ap", ".4f"), ("delta_ap", "+.4f"), ("median_ms", ".2f"))
        )
        table.add_row(
            row["precision"], ap, delta, median, f"{row['size_mb']:.1f}", "yes" if row["passed"] else "no", "yes" if row["chosen"] else ""
        )
    return table


def plan_table(found: "Estimate") -> Table:
    """Return the steps of a run with what each would take."""
    table = Table(title=found.line(), title_justify="left", box=SIMPLE)
    table.add_column("step")
    for column in ("training images", "images evaluated", "time", "memory"):
        table.add_column(column, justify="right")
    for step in found.steps:
        memory = "not estimated" if step.memory_gib is None else f"{step.memory_gib:.2f} GiB"
        table.add_row(step.name, f"{step.train_images:,}", f"{step.look_images:,}", time_text(step.seconds), memory)
    if found.images_gib:
        table.caption, table.caption_justify = f"decoded images: {found.images_gib:.2f} GiB of memory or disk on top", "left"
    return table


def comparison_table(table: dict[str, Any]) -> tuple[Table, str]:
    """Return methods side by side (`jdnas.pipeline.compare`), and what the figures rest on."""
    from jdnas.pipeline.compare_table import lines, markdown

    headings, rows = lines(table)
    shown = Table(title=f"Equal training images: {table['images']:,}", title_justify="left", box=SIMPLE)
    for index, heading in enumerate(headings):
        shown.add_column(heading, justify="right" if index else "left")
    for row in rows:
        shown.add_row(*row)
    return shown, markdown(table).rpartition("\n\n")[2]


def status_table(found: dict[str, Any]) -> Table:
    """Return the best pairs of a run's search (`jdnas.pipeline.status.search_status`)."""
    left = found["hours_left"] or 0.0
    became = ", ".join(f"{count} {state}" for state, count in found["states"].items() if count) or "none yet"
    title = f"{found['done']} of {found['trials']} candidates ({became}), {found['per_hour']:.0f} an hour, at most {left:.1f} h left"
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = (
        f"{found['images']:,} training images used, {sum(found['images_saved'].values()):,} saved by refusing and stopping; "
        f"{found['without_gain']} candidates since the last gain"
    )
    score = "score H" if found["goal"] is None else "score"
    for column in ("candidate", "parent", "change", "AP", "size (h x w)", found["cost_name"].replace("_", " "), score):
        table.add_column(column, justify="right")
    for row in found["best"]:
        table.add_row(
            str(row["number"]), str(row["parent"]), row["change"], f"{row['ap']:.3f}", row["size"], f"{row['cost']:.4g}",
            f"{row['score']:.4f}",
        )  # fmt: skip
    return table


def actions_table(title: str, choices: "list[Choice]") -> Table:
    """Return the legal actions of a student and the chance of each."""
    table = Table(title=title, title_justify="left")
    for column in ("kind", "what"):
        table.add_column(column)
    table.add_column("chance", justify="right")
    for choice in choices:
        table.add_row(choice.action.kind, choice.what, f"{100 * choice.chance:.1f} %")
    return table


def space_table(space: "SubnetSpace", resolutions: int, samples: int, seed: int) -> Table:
    """Return the size of the subnet space and some subnets."""
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


def targets_table(rows: list[dict[str, Any]]) -> Table:
    """Return all targets: what each is, what is known of its latencies, and whether engines can be timed on this machine."""
    table = Table(title="Targets", title_justify="left", box=SIMPLE)
    for column in ("target", "device", "runs on", "known", "this machine"):
        table.add_column(column, overflow="fold")
    for row in rows:
        runs = f"{row['runtime']} {row['precision']}" + (f", batch {row['batch']}" if row["batch"] > 1 else "")
        table.add_row(row["name"], row["device"], runs, row["known"], "yes" if row["this_machine"] else row["why_not"])
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
               "noise": "noise floor: two measurements of one engine differ by",
               "slow": "measurements in slow spells of the machine, not counted"}  # fmt: skip
    for key, words in percent.items():
        table.add_row(words, "unknown" if math.isnan(figures[key]) else f"{100 * figures[key]:.1f} %")
    taus = {"kendall_tau": "Kendall tau", "flops_tau": "Kendall tau of multiply-adds, for comparison",
            "noise_tau": "noise floor: Kendall tau of two measurements of each engine"}  # fmt: skip
    for key, words in taus.items():
        table.add_row(words, "unknown" if math.isnan(figures[key]) else f"{figures[key]:.3f}")
    if figures["left_out"]:
        table.add_row("engines met in slow spells alone, left out", f"{figures['left_out']}")
    return table


def prediction_table(found: dict[str, Any], rows: int) -> Table:
    """Return a predicted latency, what it rests on, and the heaviest blocks or parts behind it (`jdnas.api.predict_latency`)."""
    title = f"{found['model']} at {found['size']} on {found['target']}: {found['latency_ms']:.3f} ms, {found['label']}; {found['error']}"
    table = Table(title=title, title_justify="left", box=SIMPLE)
    if "parts" in found:
        table.add_column("part")
        table.add_column("ms", justify="right")
        for part, latency_ms in found["parts"].items():
            table.add_row(part, f"{latency_ms:.3f}")
    elif "blocks" in found:
        for column in ("block", "times", "ms each", "source", "rows of the table"):
            table.add_column(column, overflow="fold")
        for row in found["blocks"][:rows]:
            table.add_row(row["block"], str(row["times"]), f"{row['latency_ms']:.4f}", row["source"], "; ".join(row["rows"]))
    return table


def complexity_table(found: dict[str, Any]) -> Table:
    """Return multiply-adds per part and the parameters of a detector (`jdnas.api.complexity`)."""
    title = f"{found['model']} at {found['size']}: {found['flops_g']:.2f} GMAC, {found['params_m']:.2f} M parameters"
    table = Table(title=title, title_justify="left")
    table.add_column("part")
    table.add_column("GMAC", justify="right")
    table.add_column("share", justify="right")
    table.add_column("M parameters", justify="right")
    for part, row in found["parts"].items():
        share = 100 * row["flops_g"] / found["flops_g"]
        table.add_row(part, f"{row['flops_g']:.2f}", f"{share:.1f}%", f"{row['params_m']:.3f}")
    return table
