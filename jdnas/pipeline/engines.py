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
from jdnas.pipeline.single import export_model, noise_batches, read_weights

_ENGINES = ("tensorrt", "tensorrt-rtx")


def export_engine(
    model: Path, out: Path, *, runtime: str, size: str | None, batch: int, compute_capability: str | None = None
) -> list[str]:  # fmt: skip
    """Export weights, for TensorRT also an ONNX engine, for a runtime; compare with PyTorch where it runs, and say what came out.

    A ParityError leaves the file marked as failed. What cannot run here is built, and its record and the last line say so.
    """
    known = runtime_named(runtime)
    if compute_capability is not None and runtime != "tensorrt-rtx":
        raise ConfigError(f"--compute-capability is for --runtime tensorrt-rtx, which builds without the GPU; got --runtime {runtime}")
    wanted = SUFFIXES if runtime in _ENGINES else known.suffixes[:1]
    if out.suffix not in wanted:
        raise ConfigError(f"--out must end in {' or '.join(wanted)} for --runtime {runtime}, got {out}")
    if runtime in _ENGINES:
        return _engine(model, out, runtime, size, batch, compute_capability)
    if runtime == "aoti":
        return _package(model, out, size, batch)
    processor: Processor = known.processor or "cpu"
    reason = _refusal(runtime, processor)
    made = export_model(model, out, size, batch, runtime=runtime, checked_in=runtime if reason is None else "ort-cpu")
    return [made] if reason is None else [made, f"compared in ort-cpu; not run in {runtime}: {reason}"]


def _engine(model: Path, out: Path, runtime: str, size: str | None, batch: int, capability: str | None) -> list[str]:
    lines, graph = [], model
    if model.suffix != ".onnx":
        graph = out.with_suffix(".onnx")
        lines.append(export_model(model, graph, size, batch, runtime=runtime, checked_in="ort-cpu"))
    elif size is not None or batch != 1:
        raise ConfigError(f"{model} has its size and batch inside; leave out --size and --batch")
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
        result = compare(predictor(reference), predictor(runner), noise_batches(info.size_hw, info.batch))
    _keep_or_fail(result, engine, engine, lambda: record.save(engine))


def _package(model: Path, out: Path, size: str | None, batch: int) -> list[str]:
    import torch

    spec, state, classes, size_hw = read_weights(model, size)
    device: Processor = "gpu" if torch.cuda.is_available() else "cpu"
    unchecked = out.with_suffix(".unchecked.pt2")
    export_package(
        state, spec, size_hw=size_hw, batch=batch, path=unchecked, classes=classes, device="cuda" if device == "gpu" else "cpu",
        provenance={"weights": model.name},
    )  # fmt: skip
    with open_runner(unchecked, "aoti") as runner:
        result = compare(materialize(spec, state), predictor(runner), noise_batches(size_hw, batch))
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


def _refusal(runtime: str, processor: Processor) -> str | None:
    try:
        require(runtime, processor)
    except InputError as error:
        return str(error)
    return None
