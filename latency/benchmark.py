"""FPS report: `python latency/benchmark.py --engine FILE [FILE...] --target cpu-ort`; `--help` lists the rest.

Frames per second are images per second at the median, end to end in the engine: normalized image in, final boxes out. Several
subjects are run in turns.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:
    # Run as a script: the root of the project, not this folder, is where packages are found.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

try:
    import numpy as np
    from rich.console import Console

    from jdnas.atomic import write_atomically
    from jdnas.errors import ConfigError, InputError
    from jdnas.sizes import size_hw_from_text
    from latency.bench_report import BenchmarkReport, BenchmarkRow, csv_text, markdown_text, print_report, wide
    from latency.blocks import SizeHW
    from latency.busy import begin_watch, disturbances, end_watch, look_around
    from latency.comparison import compare_sessions
    from latency.decoding import image_files, with_decoding
    from latency.device_lock import held_device
    from latency.footprint import peak_memory_mib
    from latency.here import check_here
    from latency.machine import provenance
    from latency.profiling import check_profiler, profile_engine
    from latency.subjects import TORCH, Subject, export_model, open_engine, open_model
    from latency.targets import Target, load_target
    from latency.timing import flat, sample_in_turns
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    print(f"error: package {error.name!r} is not installed; in the project's folder run: pip install '.[cpu]'", file=sys.stderr)
    sys.exit(2)

_BURST_S = 0.05
_LEAST_RUNS = 5
_SESSIONS, _LEAST_RUNS_OF_SESSION = 8, 3  # of a comparison: openings of both, and the fewest runs of each after one


@dataclass(frozen=True, slots=True)
class Sweep:
    """What to run .safetensors detectors at: canvases and batches (none: those in the file and the target), and in what.

    `as_engine` exports them for the target's runtime into `folder`, where engines are kept and used again; else they run in PyTorch.
    """

    sizes_hw: tuple[SizeHW, ...] = ()
    batches: tuple[int, ...] = ()
    in_torch: bool = True
    as_engine: bool = False
    folder: Path | None = None


def benchmark(
    paths: Sequence[Path], target: str | Path, *, seconds: float = 5.0, sweep: Sweep = Sweep(), images: Path | None = None,
    profile: bool = False, compare: bool = False,
) -> BenchmarkReport:  # fmt: skip
    """Time artifacts and PyTorch detectors on `target` for about `seconds` each, in turns; an InputError says what cannot be run.

    `images`, a file or folder, adds rows that begin with decoding; `profile` the time of each layer of engines; `compare` the ratio of
    the second subject to the first, which are then opened anew several times (see `compare_sessions`).
    """
    where = load_target(target)
    if seconds <= 0:
        raise InputError(f"seconds must be positive, got {seconds:g}")
    check_here(where)
    if profile:
        check_profiler(where)
    files = image_files(images) if images else []
    gpu = where.processor == "gpu"
    with held_device(where), tempfile.TemporaryDirectory() as temporary:
        folder = sweep.folder or Path(temporary)
        quiet, watch = look_around(gpu), begin_watch(gpu)
        subjects, sessions = _sampled(paths, where, sweep, folder, files, seconds, _SESSIONS if compare else 1)
        facts = end_watch(watch, gpu)
        memory = [peak_memory_mib(one.path, one.runs_in, str(target), one.size_hw, one.batch) for one in subjects]
        modes = ["engine"] * len(subjects) + (["decoding"] * len(subjects) if files else [])
        rows = [
            _row(one, mode, [sample for turns in sessions for sample in flat(turns[index])], peak)
            for index, (one, mode, peak) in enumerate(zip(subjects * 2, modes, memory * 2, strict=False))
        ]  # fmt: skip
        known = provenance(subjects[0].info) | facts | {"cpu_percent_of_others": quiet.cpu_percent}
        names = [one.name for one in subjects]
        ratio = compare_sessions(names[0], names[1], [turns[:2] for turns in sessions]) if compare else None
        profiles = {one.name: profile_engine(one.path, where) for one in subjects if one.runs_in != TORCH} if profile else {}
        return BenchmarkReport(where, known, rows, disturbances(quiet, facts), ratio, profiles)


def _sampled(
    paths: Sequence[Path], target: Target, sweep: Sweep, folder: Path, files: list[Path], seconds: float, sessions: int
) -> tuple[list[Subject], list[list[list[list[float]]]]]:  # fmt: skip
    """Run all subjects in turns, opened anew for each session and in alternating order; return them, closed, and the ms of each session."""
    found: list[list[list[list[float]]]] = []
    least = _LEAST_RUNS_OF_SESSION if sessions > 1 else _LEAST_RUNS
    for session in range(sessions):
        order = -1 if session % 2 else 1
        with ExitStack() as stack:
            subjects = _open(paths[::order], target, sweep, folder, stack)[::order]
            if sessions > 1 and len(subjects) != 2:
                raise ConfigError(f"--compare takes two subjects at one size and batch each, got {len(subjects)}")
            calls: list[Callable[[], object]] = [one.call for one in subjects]
            calls += [with_decoding(one, files) for one in subjects] if files else []
            burst_s = _BURST_S if len(calls) > 1 else 0.0
            found.append(sample_in_turns(calls, seconds=seconds / sessions, least=least, burst_s=burst_s))
    return subjects, found


def _open(paths: Sequence[Path], target: Target, sweep: Sweep, folder: Path, stack: ExitStack) -> list[Subject]:
    subjects: list[Subject] = []
    for path in paths:
        if path.suffix in (".safetensors", ".json"):
            subjects += _sweep(path.with_suffix(".safetensors"), target, sweep, folder, stack)
        elif sweep.sizes_hw or sweep.batches:
            raise ConfigError(f"{path} has its size and batch inside; --size and --batch are for .safetensors detectors (with --export)")
        else:
            subjects.append(stack.enter_context(closing(open_engine(path, target))))
    return subjects


def _sweep(path: Path, target: Target, sweep: Sweep, folder: Path, stack: ExitStack) -> Iterator[Subject]:
    for size_hw in sweep.sizes_hw or (None,):
        for batch in sweep.batches or (target.batch,):
            if sweep.in_torch:
                yield stack.enter_context(closing(open_model(path, target, size_hw, batch)))
            if sweep.as_engine:
                yield stack.enter_context(closing(open_engine(export_model(path, size_hw, batch, folder, target), target)))


def _row(one: Subject, mode: str, samples_ms: list[float], peak: dict[str, float | None]) -> BenchmarkRow:
    p5, middle, p95, p99 = (float(value) for value in np.percentile(samples_ms, (5, 50, 95, 99)))
    rates = (1e3 * one.batch / middle, 1e3 * one.batch * len(samples_ms) / sum(samples_ms))
    memory = (peak["host"], peak["gpu"]) if mode == "engine" else (None, None)
    return BenchmarkRow(
        str(one.path), one.runs_in, one.precision, mode, one.size_hw, one.batch, middle, p5, p95, p99, *rates, len(samples_ms),
        round(one.build_s, 3), *memory,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark", description="Latency and FPS of exported detectors and PyTorch models on a target.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--engine",
        "--model",
        dest="paths",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="engines (.onnx, .pt2, .engine) or .safetensors, run in turns",
    )
    what.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="interleave two and give the ratio with its interval")
    what.add_argument("--suite", choices=("paper",), help="the paper's baselines and students of its complexity, beside its V100 figures")
    parser.add_argument("--target", required=True, help="name of a target or path of its YAML file")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each subject (default: 5)")
    parser.add_argument("--size", default="", metavar="WxH,..", help="canvases of .safetensors detectors (default: the one in the file)")
    parser.add_argument("--batch", default="", metavar="N,..", help="batches of .safetensors detectors (default: the target's)")
    parser.add_argument(
        "--export", choices=("no", "also", "only"), default="no", help="run .safetensors detectors as engines too, or only so"
    )
    parser.add_argument("--folder", type=Path, help="keep exported engines here and use them again")
    parser.add_argument("--images", type=Path, help="image or folder: adds rows that begin with reading and decoding files")
    parser.add_argument("--profile", action="store_true", help="time of each layer of the engines, by the runtime's profiler")
    for kind in ("json", "csv", "markdown"):
        parser.add_argument(
            f"--{kind}", type=Path, metavar="OUT", help=f"also write the report as {kind.upper() if kind != 'markdown' else kind}"
        )
    return parser


def _batches(text: str) -> tuple[int, ...]:
    parts = [part for part in text.split(",") if part]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"--batch takes positive numbers such as 1,4,8; got {text!r}")
    return tuple(map(int, parts))


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def _run(options: argparse.Namespace) -> None:
    if options.suite:
        from latency.suite import run_suite

        run_suite(options.target, seconds=options.seconds, folder=options.folder, json_path=options.json, console=wide(Console()))
        return
    sizes = tuple(size_hw_from_text(part) for part in options.size.split(",") if part)
    sweep = Sweep(sizes, _batches(options.batch), options.export != "only", options.export != "no", options.folder)
    report = benchmark(
        options.compare or options.paths, options.target, seconds=options.seconds, sweep=sweep, images=options.images,
        profile=options.profile, compare=bool(options.compare),
    )  # fmt: skip
    print_report(report, wide(Console()))
    written: dict[Path | None, Any] = {
        options.json: json.dumps(report.to_dict(), indent=2), options.csv: csv_text(report), options.markdown: markdown_text(report),
    }  # fmt: skip
    for path, text in written.items():
        if path:
            write_atomically(path, text.encode())


_OUTSIDE_SUITES = ("size", "batch", "export", "images", "profile", "csv", "markdown")


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    given = [f"--{name}" for name in _OUTSIDE_SUITES if getattr(options, name) != parser.get_default(name)]
    if options.suite and given:
        parser.error(f"--suite takes --target, --seconds, --folder and --json, not {', '.join(given)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 2 with one line on standard error for wrong input."""
    try:
        with _one_line_errors():
            _run(_parsed(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
