"""Exports for a runtime: ONNX with the head's forms for it, packages of AOTInductor, engines of TensorRT; and what was run of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from export.aot_inductor import export_package
from export.parity import ParityResult, compare
from export.runners import open_runner, predictor
from export.runtimes import Processor, require, runtime_named
from export.tensorrt_engine import BUILT_NOT_RUN, RUN_HERE, SUFFIXES, EngineRecord, build_engine, record_path
from jdnas.errors import ConfigError, InputError, ParityError
from jdnas.models.bound import materialize
from jdnas.pipeline.export_job import Say, noise_batches
from jdnas.pipeline.exports import ExportOptions, export_model
from jdnas.pipeline.single import read_weights
from jdnas.sizes import SizeHW

_ENGINES = ("tensorrt", "tensorrt-rtx")


def export_engine(
    model: Path, out: Path, options: ExportOptions, *, compute_capability: str | None = None, say: Say = lambda _: None
) -> list[str]:
    """Export weights, for TensorRT also an ONNX engine, for a runtime; compare with PyTorch where it runs, and say what came out.

    A ParityError leaves the file marked as failed. What cannot run here is built, and its record and the last line say so.
    """
    runtime = options.runtime
    known = runtime_named(runtime)
    if compute_capability is not None and runtime != "tensorrt-rtx":
        raise ConfigError(f"--compute-capability is for --runtime tensorrt-rtx, which builds without the GPU; got --runtime {runtime}")
    wanted = SUFFIXES if runtime in _ENGINES else known.suffixes[:1]
    if out.suffix not in wanted:
        raise ConfigError(f"--out must end in {' or '.join(wanted)} for --runtime {runtime}, got {out}")
    if runtime in _ENGINES:
        return _engine(model, out, options, compute_capability, say)
    if runtime == "aoti":
        return _package(model, out, options)
    processor: Processor = known.processor or "cpu"
    reason = _refusal(runtime, processor)
    made = export_model(model, out, replace(options, checked_in=runtime if reason is None else "ort-cpu"), say)
    return made if reason is None else [*made, f"compared in ort-cpu; not run in {runtime}: {reason}"]


def _engine(model: Path, out: Path, options: ExportOptions, capability: str | None, say: Say) -> list[str]:
    lines, graph, runtime = [], model, options.runtime
    if model.suffix != ".onnx":
        _single(options)
        graph = out.with_suffix(".onnx")
        lines += export_model(model, graph, options, say)
    elif options != ExportOptions(runtime=runtime):
        raise ConfigError(f"{model} has its size, batch and precision inside; leave out all but --runtime and --compute-capability")
    record = build_engine(graph, out, runtime=runtime, compute_capability=capability)
    lines.append(f"{out}: {record.runtime} {record.version}, {record.precision}, for {record.device}, built in {record.build_s:.1f} s")
    reason = _refusal(runtime, "gpu")
    if reason is None and capability is None:
        _compare_with_graph(graph, out, runtime, record)
        replace(record, status=RUN_HERE).save(out)
        return [*lines, f"{RUN_HERE}: agrees with {graph} in ort-cpu"]
    return [*lines, f"{BUILT_NOT_RUN}: {reason or f'it is for {record.device}, told by --compute-capability'}"]


def _compare_with_graph(graph: Path, engine: Path, runtime: str, record: EngineRecord) -> None:
    with open_runner(graph, "ort-cpu") as reference, open_runner(engine, runtime) as runner:
        info = runner.metadata
        result = compare(predictor(reference), predictor(runner), noise_batches(info.spec, info.size_hw, info.batch))
    _keep_or_fail(result, engine, engine, lambda: record.save(engine))


def _package(model: Path, out: Path, options: ExportOptions) -> list[str]:
    import torch

    if options.input_form != "normalized":
        raise ConfigError(f"--runtime aoti takes normalized images; got --input {options.input_form}")
    size, batch = _single(options)
    read = read_weights(model, size)
    spec, state, size_hw = read.spec, read.state, read.size_hw
    device: Processor = "gpu" if torch.cuda.is_available() else "cpu"
    unchecked = out.with_suffix(".unchecked.pt2")
    export_package(
        state, spec, size_hw=size_hw, batch=batch, path=unchecked, classes=read.classes, precision=options.precision,
        device="cuda" if device == "gpu" else "cpu",
        provenance={"weights": model.name},
    )  # fmt: skip
    with open_runner(unchecked, "aoti") as runner:
        result = compare(
            materialize(spec, state), predictor(runner), noise_batches(spec, size_hw, batch), tolerances=options.limits[options.precision]
        )
    _keep_or_fail(result, unchecked, out, lambda: unchecked.replace(out))
    return [f"{out}: {size_hw[1]}x{size_hw[0]}, batch {batch}, compiled for the {device} of this machine; {result.message}"]


def _keep_or_fail(result: ParityResult, made: Path, out: Path, keep: Callable[[], object]) -> None:
    if not result.passed:
        failed = out.with_suffix(f".failed{out.suffix}")
        made.replace(failed)
        if record_path(made).is_file():
            record_path(made).replace(record_path(failed))
        raise ParityError(f"the engine differs from PyTorch: {result.message}; it was kept as {failed}")
    keep()


def _single(options: ExportOptions) -> tuple[SizeHW | None, int]:
    sizes_hw, batches = options.sizes_hw, options.batches
    if len(sizes_hw) > 1 or len(batches) > 1:
        raise ConfigError(f"--runtime {options.runtime} makes one file at a time; give one --size and one --batch")
    return (sizes_hw[0] if sizes_hw else None), batches[0]


def _refusal(runtime: str, processor: Processor) -> str | None:
    try:
        require(runtime, processor)
    except InputError as error:
        return str(error)
    return None
