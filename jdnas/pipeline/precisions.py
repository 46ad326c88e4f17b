"""Which precision leaves: the one that was asked for, or of all that pass the parity check the fastest on the target."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.graph import PRECISIONS
from jdnas.errors import ConfigError, ParityError, unknown_name
from jdnas.pipeline.export_job import Calibration, Made, Proof, Say, Subject, make
from jdnas.pipeline.speed import reads_onnx
from jdnas.training.checkpoint import write_json
from latency.alternatives import time_alternatives
from latency.here import check_here
from latency.targets import Target
from latency.timing import Timing

AUTO = "auto"
CHOICES = (*PRECISIONS, AUTO)


@dataclass(frozen=True)
class Published:
    """The artifact that left and the rows of all precisions that were tried, as JSON data; `verdict` says in words which was taken."""

    artifact: Path
    made: Made
    rows: tuple[dict[str, Any], ...]
    verdict: str


def publish(
    subject: Subject, precision: str, out: Path, proof: Proof, calibration: Calibration | None, *, target: Target | None = None,
    seconds: float = 5.0, failed_folder: Path | None = None, say: Say = lambda _: None,
) -> Published:  # fmt: skip
    """Export in one precision, or with "auto" in each and take the fastest that passes, and put the artifact at `out`.

    What fails the parity check is kept as NAME.failed.onnx, with its verdict beside it, in `failed_folder` (default: that of `out`); where
    nothing passes, that is a ParityError and `out` is not written. "auto" measures on `target`: a TargetError where that is not here, a
    ConfigError where it loads no .onnx files.
    """
    if precision not in CHOICES:
        raise ConfigError(unknown_name("precision", precision, CHOICES))
    subject.check()
    wanted: Sequence[str] = PRECISIONS if precision == AUTO else (precision,)
    if precision == AUTO:
        _check_auto(calibration, target)
    unchecked = {one: out.with_name(f".{out.stem}.{one}.unchecked.onnx") for one in wanted}
    try:
        return _publish_best(subject, unchecked, out, proof, calibration, target, seconds, failed_folder or out.parent, say)
    finally:
        for path in unchecked.values():
            path.unlink(missing_ok=True)


def _publish_best(
    subject: Subject, unchecked: dict[str, Path], out: Path, proof: Proof, calibration: Calibration | None, target: Target | None,
    seconds: float, failed_folder: Path, say: Say,
) -> Published:  # fmt: skip
    passed: list[Made] = []
    rows: list[dict[str, Any]] = []
    for one, path in unchecked.items():
        made = make(subject, one, path, proof, calibration, say)
        rows.append(_row(made))
        if made.result.passed:
            passed.append(made)
        else:
            rows[-1]["kept_as"] = str(_keep_failed(made, out, failed_folder, alone=len(unchecked) == 1))
    if not passed:
        problems = "; ".join(f"{row['precision']}: {row['message']}, kept as {row['kept_as']}" for row in rows)
        raise ParityError(f"the exported detector differs from PyTorch: {problems}")
    paths = [made.path for made in passed]
    timings = time_alternatives(paths, target, seconds=seconds) if len(unchecked) > 1 and target is not None else []
    chosen = _fastest(passed, timings, rows)
    chosen.path.replace(out)
    for row in rows:
        row["chosen"] = row["precision"] == chosen.precision
    return Published(out, chosen, tuple(rows), _verdict(chosen, rows))


def _check_auto(calibration: Calibration | None, target: Target | None) -> None:
    if calibration is None:
        raise ConfigError("precision 'auto' tries int8 too, which needs images to calibrate with; name the data set with --data FOLDER")
    if target is None:
        raise ConfigError("precision 'auto' measures on the target; name it, or choose one of " + ", ".join(PRECISIONS))
    if not reads_onnx(target):
        raise ConfigError(f"precision 'auto' times .onnx files, which runtime {target.runtime!r} of target {target.name!r} does not load; "
                          f"choose another target, or one of {', '.join(PRECISIONS)}")  # fmt: skip
    check_here(target)


def _row(made: Made) -> dict[str, Any]:
    result = made.result
    return {
        "precision": made.precision, "passed": result.passed, "message": result.message, "ap": result.ap, "delta_ap": result.delta_ap,
        "moved": result.moved, "size_mb": made.size_mb, "in_float": list(made.kept), "median_ms": None, "p5_ms": None, "p95_ms": None,
    }  # fmt: skip


def _keep_failed(made: Made, out: Path, folder: Path, *, alone: bool) -> Path:
    name = out.stem if alone else f"{out.stem}.{made.precision}"
    failed = folder / f"{name}.failed.onnx"
    failed.parent.mkdir(parents=True, exist_ok=True)
    made.path.replace(failed)
    write_json(failed.with_suffix(".json"), made.result.to_dict() | {"precision": made.precision})
    return failed


def _fastest(passed: Sequence[Made], timings: Sequence[Timing], rows: Sequence[dict[str, Any]]) -> Made:
    if not timings:
        return passed[0]
    by_name = {row["precision"]: row for row in rows}
    for made, timing in zip(passed, timings, strict=True):
        by_name[made.precision].update(median_ms=timing.median_ms, p5_ms=timing.p5_ms, p95_ms=timing.p95_ms)
    return min(zip(passed, timings, strict=True), key=lambda pair: pair[1].median_ms)[0]


def _verdict(chosen: Made, rows: Sequence[dict[str, Any]]) -> str:
    if len(rows) == 1:
        kept = f"; {', '.join(chosen.kept)} stay in float" if chosen.kept else ""
        return f"{chosen.precision}: {chosen.result.message}{kept}"
    times = {row["precision"]: row["median_ms"] for row in rows if row["median_ms"] is not None}
    others = [f"{times[name] / times[chosen.precision]:.2f} times the latency with {name}" for name in times if name != chosen.precision]
    failed = [f"{row['precision']} failed the parity check" for row in rows if not row["passed"]]
    faster = f"{chosen.precision} is the fastest that passes"
    if chosen.precision != "int8" and "int8" in times:
        faster += f", faster than int8: {times[chosen.precision]:.2f} against {times['int8']:.2f} ms"
    return "; ".join([faster, *others, *failed])
