"""How fast detectors are on a run's target: measured where this machine is one, else predicted, under the name of what it is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from export.runtimes import RUNTIMES, require
from jdnas.config import RunConfig
from jdnas.errors import InputError
from jdnas.models.complexity import multiply_adds
from jdnas.pipeline.context import Context, SizeHW
from jdnas.pipeline.elsewhere import benchmark_on_node, has_node, resource_name
from jdnas.pipeline.placement import LOCAL, Placement
from jdnas.search.executors.on_ray import connect
from jdnas.search.workshop import Cost
from jdnas.spec import DetectorSpec
from jdnas.student.actions import ActionRules
from latency.benchmark import Sweep, benchmark
from latency.here import standing
from latency.machine import cpu_model
from latency.plateaus import widths_that_pay
from latency.sources import MEASURED_LABEL, TABLE_LABEL, LatencySource, TableSource, open_source
from latency.targets import Target, load_target

CPU_RUNTIME = "ort-cpu"
Finished = tuple[Path, DetectorSpec, SizeHW]  # an exported file, its architecture and its canvas


def make_cost(config: RunConfig) -> Cost:
    """Return the cost of the search: predicted latency in ms on the target, or multiply-adds."""
    if config.cost == "multiply_adds":
        return lambda spec, size_hw: float(multiply_adds(spec, size_hw))
    return open_source(load_target(config.target)).latency_ms


def student_rules(config: RunConfig, base: DetectorSpec) -> ActionRules:
    """Return the rules of student actions; with `student.snap_widths`, pruned widths are those that pay on the target."""
    rules = config.action_rules(base)
    return replace(rules, pays=widths_that_pay(open_source(load_target(config.target)))) if config.student.snap_widths else rules


def cost_name(config: RunConfig) -> str:
    """Return what the search's cost is to be called; a latency that rests on a prior says so."""
    if config.cost == "multiply_adds":
        return "multiply_adds"
    label = open_source(load_target(config.target)).label
    return "latency_ms" if label == TABLE_LABEL else f"latency_ms, {label}"


def cost_unit(config: RunConfig) -> str:
    """Return the unit of the search's cost; multiply-adds have none."""
    return "ms" if config.cost == "latency" else ""


def foreign_table(config: RunConfig) -> str:
    """Say that the search's cost comes from a table of another processor, and how to measure this one; else an empty string."""
    target = load_target(config.target)
    if config.cost == "multiply_adds" or target.runtime != CPU_RUNTIME:
        return ""
    source, here = open_source(target), cpu_model()
    measured_on = source.describe().get("provenance", {}).get("cpu")
    if not isinstance(source, TableSource) or measured_on == here:
        return ""
    return (f"the latency table of {target.name!r} was measured on {measured_on}, this machine has {here}: costs are rough; "
            f"measure this machine with: jdnas latency measure --target {config.target} --base {config.base}")  # fmt: skip


def check_target(config: RunConfig) -> None:
    """Raise the InputError that delivery would end in: no runtime to check engines with, or no way to tell their latency."""
    target = load_target(config.target)
    require(checking_runtime(target), target.processor)
    if not standing(target).measurable:
        open_source(target)


def checking_runtime(target: Target) -> str:
    """Return the runtime that exported files are compared with PyTorch in: the target's own where it runs them here, else the CPU's."""
    return target.runtime if reads_onnx(target) and standing(target).measurable else CPU_RUNTIME


def reads_onnx(target: Target) -> bool:
    """Tell whether a target's runtime takes exported .onnx files; for AOTInductor, weights are compiled instead."""
    return ".onnx" in RUNTIMES[target.runtime].suffixes


def speeds(context: Context, finished: list[Finished], placement: Placement = LOCAL) -> dict[str, Any]:
    """Return a benchmark report as JSON data, one row per detector in order; its `label` and `note` say what the figures are.

    A node of the Ray cluster that is one of the target's measures; without one, this machine does, or the latency is predicted.
    """
    target, here = load_target(context.config.target), standing(load_target(context.config.target))
    paths = [path for path, _, _ in finished]
    if placement.on_ray and has_node(ray := connect(placement.ray_address), target):
        report = benchmark_on_node(ray, target, paths, context.config.benchmark_seconds)
        return report | {"label": MEASURED_LABEL, "note": f"measured on the node of the Ray cluster with {resource_name(target)}"}
    if here.measurable:
        seconds, sweep = context.config.benchmark_seconds, Sweep()
        if not reads_onnx(target):
            paths, sweep = [path.with_suffix(".safetensors") for path in paths], Sweep(in_torch=False, as_engine=True)
        report = benchmark(paths, context.config.target, seconds=seconds, sweep=sweep, compare=len(paths) == 2).to_dict()
        return report | {"label": MEASURED_LABEL, "note": "measured on this machine through the runtime of the target"}
    source = open_source(target)
    return {
        "target": target.model_dump(), "provenance": source.describe(), "label": source.label, "note": unmeasured_note(target, here.reason),
        "rows": [_predicted(source, one, target.batch) for one in finished],
    }  # fmt: skip


def parts_ms(config: RunConfig, *cases: tuple[DetectorSpec, SizeHW]) -> dict[str, Any] | None:
    """Return the predicted latency of each part of some detectors, and what it rests on; None where nothing is known of the target."""
    try:
        source = open_source(load_target(config.target))
        return {"label": source.label, "parts": [source.parts_ms(spec, size_hw) for spec, size_hw in cases]}
    except InputError:
        return None


def unmeasured_note(target: Target, reason: str) -> str:
    """Say that no engine for the target was built or measured, why, and what to do with the exported file."""
    note = f"built for {target.device}: nothing here; measured on it: nothing here ({reason}). On the device: "
    runtime = target.runtime
    if runtime == "tensorrt":
        flag = {"fp32": "", "fp16": " --fp16", "int8": " --int8 --fp16"}[target.precision]
        note += f"trtexec --onnx=student.onnx{flag} --saveEngine=student.engine"
        return note + (" (from TensorRT 11 on without these flags: the file's types say it)" if flag else "")
    if runtime == "tensorrt-rtx":
        return f"{note}jdnas export student.onnx --out student.engine --runtime {runtime}"
    if not reads_onnx(target):
        return f"{note}jdnas export student.safetensors --out student.pt2 --runtime {runtime} --precision {target.precision}"
    return f"{note}{runtime} loads student.onnx itself; measure: jdnas latency benchmark --engine student.onnx --target {target.name}"


def _predicted(source: LatencySource, one: Finished, batch: int) -> dict[str, Any]:
    path, spec, size_hw = one
    latency_ms = source.latency_ms(spec, size_hw)
    return {
        "artifact": str(path), "size_hw": list(size_hw), "batch": batch, "median_ms": latency_ms, "p5_ms": None, "p95_ms": None,
        "fps": 1000.0 * batch / latency_ms, "repeats": 0, "label": source.label,
    }  # fmt: skip
