"""Functions on this machine and on targets: what it can do, latency tables, predictions and benchmarks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from jdnas.api.detectors import spec_of
from jdnas.pipeline.doctor import examine
from jdnas.pipeline.progress import counting
from jdnas.pipeline.tables import Space, adapt_for, measure_for, prepare_for, validate_for
from jdnas.sizes import size_hw_from_text
from latency.bench_report import BenchmarkReport
from latency.benchmark import benchmark as time_subjects
from latency.conv_library import read_conv_library
from latency.here import standing
from latency.predictor import BlockPrediction
from latency.prior import Prior
from latency.prior_fit import fit_prior
from latency.repeatability import Repeats
from latency.repeatability import repeat as measure_again
from latency.sources import PriorSource, TableSource, knowledge, open_source
from latency.tables import LatencyTable
from latency.targets import known, load_target
from latency.validation import ROUNDS, Validation

PathLike = str | Path


def doctor(folder: PathLike = ".") -> dict[str, Any]:
    """Say what this machine can do: devices, memory, runtimes, compilers, extras with what installs them, and which targets it is.

    `folder` is where runs would be kept.
    """
    return examine(Path(folder))


def targets(files: Sequence[PathLike] = ()) -> list[dict[str, Any]]:
    """Return what is known of each target, those in the YAML files `files` behind the shipped ones, and whether it is this machine."""
    rows = []
    for target in [*map(load_target, known()), *map(load_target, files)]:
        here = standing(target)
        facts = {"known": knowledge(target), "this_machine": here.measurable, "why_not": here.why}
        rows.append(target.model_dump(mode="json") | facts)
    return rows


def benchmark(
    models: PathLike | Sequence[PathLike], target: PathLike = "cpu-ort", *, seconds: float = 5.0, images: PathLike | None = None,
    compare: bool = False, profile: bool = False,
) -> BenchmarkReport:  # fmt: skip
    """Time engines and PyTorch detectors on a target that this machine is, for about `seconds` each, in turns.

    `images` adds rows that begin with decoding files; `compare` the ratio of the second model to the first with its interval; `profile`
    the time of each layer of engines.
    """
    paths = [models] if isinstance(models, str | Path) else list(models)
    return time_subjects(
        [Path(path) for path in paths], target, seconds=seconds, images=None if images is None else Path(images), profile=profile,
        compare=compare,
    )  # fmt: skip


def predict_latency(model: PathLike, size: str, target: PathLike = "cpu-ort", *, classes: int = 80) -> dict[str, Any]:
    """Return the predicted latency of a base or weight file at WIDTHxHEIGHT, what it rests on, and its blocks or parts."""
    source = open_source(load_target(target))
    spec, size_hw = spec_of(model, classes=classes), size_hw_from_text(size)
    found = {"model": str(model), "size": size, "target": str(target), "latency_ms": source.latency_ms(spec, size_hw),
             "label": source.label, "error": source.error_words(), "source": source.describe()}  # fmt: skip
    if isinstance(source, PriorSource):
        return found | {"parts": source.parts_ms(spec, size_hw)}
    if isinstance(source, TableSource):
        return found | {"blocks": [_block_row(line) for line in source.predictor.explain(spec, size_hw)]}
    return found


def _block_row(line: BlockPrediction) -> dict[str, Any]:
    return {
        "block": f"{line.block.family} {' '.join(map(str, line.block.sizes))}", "times": line.count, "latency_ms": line.latency_ms,
        "source": line.source, "rows": [" ".join(map(str, row.sizes)) for row in line.rows],
    }  # fmt: skip


def _space(bases: Sequence[str], preset: str, sizes: Sequence[str], engines_dir: PathLike | None) -> Space:
    return Space(tuple(bases), preset, tuple(sizes), None if engines_dir is None else Path(engines_dir))


@contextmanager
def _measuring(console: Console | None, quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    with counting(console or Console(), quiet=quiet) as count:
        yield lambda done, planned, what: count(f"measuring {what}".strip(), done, planned)


def measure_latency(
    target: PathLike = "cpu-ort", *, bases: Sequence[str] = ("r18",), preset: str = "quick", sizes: Sequence[str] = (),
    engines_dir: PathLike | None = None, seconds: float = 900.0, engines: int = 24, out: PathLike | None = None, quiet: bool = False,
    console: Console | None = None,
) -> tuple[Path, LatencyTable]:  # fmt: skip
    """Measure (or go on measuring) a latency table for the search spaces of `bases` on this machine, for at most `seconds`.

    Returns its file and the table. `engines` whole engines correct the sum of blocks; exported ones are kept in `engines_dir`.
    """
    space = _space(bases, preset, sizes, engines_dir)
    with _measuring(console, quiet) as progress:
        return measure_for(str(target), space, seconds, engines=engines, out=None if out is None else Path(out), progress=progress)


def prepare_latency(
    engines_dir: PathLike, target: PathLike = "cpu-ort", *, bases: Sequence[str] = ("r18",), preset: str = "quick",
    sizes: Sequence[str] = (), engines: int = 24, count: int = 50, jobs: int = 1, quiet: bool = False, console: Console | None = None,
) -> Path:  # fmt: skip
    """Export the engines that `measure_latency` and `validate_latency` will need, in `jobs` processes, and measure nothing."""
    with _measuring(console, quiet) as progress:
        return prepare_for(
            str(target), _space(bases, preset, sizes, engines_dir), engines=engines, count=count, jobs=jobs, progress=progress
        )  # fmt: skip


def validate_latency(
    target: PathLike = "cpu-ort", *, bases: Sequence[str] = ("r18",), preset: str = "quick", sizes: Sequence[str] = (),
    engines_dir: PathLike | None = None, count: int = 50, seconds: float = 600.0, rounds: int = ROUNDS,
    table: PathLike | None = None, out: PathLike = "validation.json", quiet: bool = False, console: Console | None = None,
) -> Validation:  # fmt: skip
    """Hold predictions against `count` random students measured whole, none of which the table was fitted to.

    Each is measured in `rounds`; with the same `out`, more rounds go on from those that were made.
    """
    space = _space(bases, preset, sizes, engines_dir)
    with _measuring(console, quiet) as progress:
        return validate_for(
            str(target), space, count, seconds, rounds=rounds, table=None if table is None else Path(table), out=Path(out),
            progress=progress,
        )  # fmt: skip


def adapt_latency(
    source: PathLike, target: PathLike = "cpu-ort", *, bases: Sequence[str] = ("r18",), preset: str = "quick", sizes: Sequence[str] = (),
    engines_dir: PathLike | None = None, engines: int = 12, seconds: float = 600.0, out: PathLike | None = None, quiet: bool = False,
    console: Console | None = None,
) -> tuple[Path, LatencyTable]:  # fmt: skip
    """Make a table of this device from the table `source` of another one, with at most 20 `engines` measured here."""
    space = _space(bases, preset, sizes, engines_dir)
    with _measuring(console, quiet) as progress:
        return adapt_for(
            Path(source), str(target), space, engines, seconds, out=None if out is None else Path(out), progress=progress
        )  # fmt: skip


def repeat_latency(
    engines: Sequence[PathLike], target: PathLike = "cpu-ort", *, times: int = 10, seconds: float = 2.0
) -> list[Repeats]:  # fmt: skip
    """Measure engines again and again in fresh processes, in turns; return how far their medians spread."""
    return measure_again([Path(engine) for engine in engines], str(target), times=times, seconds=seconds)


def import_conv_library(
    file: PathLike, target: PathLike = "v100-trt", *, source: str = "not stated", licence: str = "not stated",
    coefficients_only: bool = False, out: PathLike | None = None,
) -> tuple[Path, Prior, dict[str, int]]:  # fmt: skip
    """Make a third-party prior of a target from a published table of single convolutions.

    Returns the prior's file, the prior, and how many rows were read, failed when they were measured, or were of another batch.
    """
    where = load_target(target)
    library = read_conv_library(Path(file), batch=where.batch)
    prior = fit_prior(library, where, source=source, licence=licence, keep_rows=not coefficients_only)
    path = where.prior_path if out is None else Path(out)
    prior.save(path)
    return (
        path,
        prior,
        {"rows": len(library.rows), "failed": library.failed, "other_batches": library.other_batches, "batch": library.batch},
    )
