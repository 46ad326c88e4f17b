"""Exports for a runtime: ONNX with the head's forms for it, packages of AOTInductor, engines of TensorRT; and what was run of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from export.aot_inductor import export_package
from export.parity import ParityResult, compare
from export.runners import open_runner, predictor
from export.runtimes import Processor, require, runtime_named
from export.tensorrt_engine import BUILT_NOT_RUN, RUN_HERE, SUFFIXES, build_engine, record_path
from jdnas.errors import ConfigError, InputError, ParityError
from jdnas.pipeline.export_job import Proof, Say, Subject, parity_batches
from jdnas.pipeline.exports import ExportOptions, export_model, validation_set
from jdnas.pipeline.single import read_weights
from jdnas.sizes import SizeHW

_ENGINES = ("tensorrt", "tensorrt-rtx")


def export_engine(
    model: Path, out: Path, options: ExportOptions, *, compute_capability: str | None = None, say: Say = lambda _: None
) -> list[str]:
    """Export weights, for TensorRT also an ONNX engine, for a runtime; compare with PyTorch where it runs, and say what came out.

    A ParityError leaves what was made as NAME.failed.SUFFIX, and what lay at `out` as it was. What cannot run here is built, and its record
    and the last line say so.
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
    elif options != ExportOptions(runtime=runtime, data=options.data):
        raise ConfigError(f"{model} has its size, batch and precision inside; leave out all but --runtime, --compute-capability and --data")
    with _unchecked(out) as made:
        record = build_engine(graph, made, runtime=runtime, compute_capability=capability)
        lines.append(f"{out}: {record.runtime} {record.version}, {record.precision}, for {record.device}, built in {record.build_s:.1f} s")
        reason = _refusal(runtime, "gpu")
        if reason is None and capability is None:
            result = _compare_with_graph(graph, made, options)
            replace(record, status=RUN_HERE).save(made)
            _keep_or_fail(result, made, out, f"{graph} in ort-cpu")
            return [*lines, f"{RUN_HERE}: agrees with {graph} in ort-cpu"]
        _move(made, out)
    return [*lines, f"{BUILT_NOT_RUN}: {reason or f'it is for {record.device}, told by --compute-capability'}"]


def _compare_with_graph(graph: Path, engine: Path, options: ExportOptions) -> ParityResult:
    with open_runner(graph, "ort-cpu") as reference, open_runner(engine, options.runtime) as runner:
        info = runner.metadata
        batches = parity_batches(info, validation_set(options, graph, info.spec), options.parity_images)
        return compare(predictor(reference), predictor(runner), batches, tolerances=options.limits[info.precision])


def _package(model: Path, out: Path, options: ExportOptions) -> list[str]:
    import torch

    if options.input_form != "normalized":
        raise ConfigError(f"--runtime aoti takes normalized images; got --input {options.input_form}")
    size, batch = _single(options)
    read = read_weights(model, size)
    subject = Subject(read.spec, read.state, read.classes, read.size_hw, batch, provenance={"weights": model.name}, runtime="aoti")
    proof = Proof(subject, options.limits, validation_set(options, model, read.spec), options.parity_images, "aoti")
    device: Processor = "gpu" if torch.cuda.is_available() else "cpu"
    with _unchecked(out) as made:
        export_package(
            read.state, read.spec, size_hw=read.size_hw, batch=batch, path=made, classes=read.classes, precision=options.precision,
            device="cuda" if device == "gpu" else "cpu", provenance=subject.provenance,
        )  # fmt: skip
        result = proof.compare(made, options.precision)
        _keep_or_fail(result, made, out, "PyTorch")
    height, width = read.size_hw
    return [f"{out}: {width}x{height}, batch {batch}, compiled for the {device} of this machine; {result.message}"]


@contextmanager
def _unchecked(out: Path) -> Iterator[Path]:
    """Give the name of a file that nobody has compared yet; nothing is left under it."""
    made = out.with_name(f".{out.stem}.unchecked{out.suffix}")
    try:
        yield made
    finally:
        for path in (made, record_path(made)):
            path.unlink(missing_ok=True)


def _keep_or_fail(result: ParityResult, made: Path, out: Path, reference: str) -> None:
    if not result.passed:
        failed = out.with_suffix(f".failed{out.suffix}")
        _move(made, failed)
        raise ParityError(f"the engine differs from {reference}: {result.message}; it was kept as {failed}")
    _move(made, out)


def _move(made: Path, to: Path) -> None:
    made.replace(to)
    if record_path(made).is_file():
        record_path(made).replace(record_path(to))


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
