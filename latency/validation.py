"""Whether a table can be trusted: predictions against engines that nothing was fitted to."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from jdnas.atomic import write_atomically
from jdnas.errors import TargetError
from jdnas.spec import DetectorSpec
from latency.blocks import SizeHW
from latency.busy import look_around
from latency.device_lock import exclusive_device
from latency.here import check_here
from latency.machine import same_machine
from latency.measure import PreparedEngine, probe
from latency.plan import Case
from latency.predictor import Predictor
from latency.tables import LatencyTable
from latency.targets import Target
from latency.timing import Clock

OnProgress = Callable[[int, int, str], None]
_REPEATED, _REPEATS = 3, 4
_LEAST = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """An engine: measured milliseconds (every measurement, the first one counts) and predicted ones."""

    spec: DetectorSpec
    size_hw: SizeHW
    measured_ms: tuple[float, ...]
    predicted_ms: float


@dataclass(frozen=True, slots=True)
class Validation:
    """Engines, and how far predictions are from them.

    `noise` is the mean relative difference between two measurements of one engine: no predictor can be better than about that.
    """

    target: str
    pairs: tuple[Pair, ...]
    provenance: dict[str, Any]

    @property
    def errors(self) -> Any:
        """Signed relative errors `[N]`."""
        return np.array([pair.predicted_ms / pair.measured_ms[0] - 1 for pair in self.pairs])

    def figures(self) -> dict[str, float]:
        """Return MAPE, median and largest error, shares within 5 and 10 %, Kendall's tau, bias, and the noise of measuring."""
        errors = np.abs(self.errors)
        measured = [pair.measured_ms[0] for pair in self.pairs]
        tau = kendalltau(measured, [pair.predicted_ms for pair in self.pairs]).statistic
        return {
            "engines": len(self.pairs), "mape": float(errors.mean()), "median_error": float(np.median(errors)),
            "largest_error": float(errors.max()), "bias": float(self.errors.mean()), "within_5": float((errors <= 0.05).mean()),
            "within_10": float((errors <= 0.10).mean()), "kendall_tau": float(tau), "noise": noise_floor(self.pairs),
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        pairs = [{"spec": p.spec.to_dict(), "size_hw": list(p.size_hw), "measured_ms": list(p.measured_ms), "predicted_ms": p.predicted_ms}
                 for p in self.pairs]  # fmt: skip
        return {"target": self.target, "provenance": self.provenance, "figures": self.figures(), "pairs": pairs}


def noise_floor(pairs: Sequence[Pair]) -> float:
    """Return the mean relative difference between two measurements of the same engine; NaN where none was measured twice."""
    found = [
        abs(a / b - 1) for pair in pairs for i, a in enumerate(pair.measured_ms) for b in pair.measured_ms[i + 1 :]
    ]  # fmt: skip
    return float(np.mean(found)) if found else float("nan")


def validate(
    target: Target, table: LatencyTable, cases: Sequence[Case], *, budget_s: float, path: Path, engines_dir: Path | None = None,
    on_progress: OnProgress | None = None, clock: Clock = perf_counter,
) -> Validation:  # fmt: skip
    """Measure the engines of `cases` that the table was not fitted to, some of them several times, and predict them.

    Each measurement is a session of its own. What was measured is kept in `path` and not measured again; predictions are made anew.
    TargetError where the table is of another machine or too few engines fit into the budget.
    """
    check_here(target)
    fitted = {(row.spec, row.size_hw) for row in table.engines}
    wanted = [case for case in cases if case not in fitted]
    predictor = Predictor(table)
    deadline = clock() + budget_s
    with exclusive_device(target.runtime):
        here = probe(target)
        same_machine(table.provenance, here, f"the table of {target.name!r}")
        measured, facts = _kept(path, target.name)
        quiet = look_around(target.runtime != "ort-cpu")
        facts = facts or {**here, "disturbances": quiet.warnings}
        for index, case in enumerate(wanted):
            if len(measured.get(case, ())) < 1:
                if clock() >= deadline:
                    break
                repeats = _REPEATS if index % max(1, len(wanted) // _REPEATED) == 0 else 1
                measured[case] = _measure(case, target, repeats, engines_dir)
                _save(path, target.name, measured, facts)
            if on_progress:
                on_progress(index + 1, len(wanted), "engine")
    pairs = [Pair(*case, measured[case], predictor.latency_ms(*case)) for case in wanted if case in measured]
    if len(pairs) < _LEAST:
        raise TargetError(f"only {len(pairs)} engines were measured, at least {_LEAST} are needed; run it again with a larger --budget")
    result = Validation(target.name, tuple(pairs), facts)
    write_atomically(path, json.dumps(result.to_dict()).encode())
    return result


def _measure(case: Case, target: Target, repeats: int, engines_dir: Path | None) -> tuple[float, ...]:
    with PreparedEngine(case, target, engines_dir) as engine:
        return tuple(round(engine.measure().median_ms, 5) for _ in range(repeats))


def _save(path: Path, target: str, measured: dict[Case, tuple[float, ...]], facts: dict[str, Any]) -> None:
    pairs = [{"spec": spec.to_dict(), "size_hw": list(size), "measured_ms": list(ms)} for (spec, size), ms in measured.items()]
    write_atomically(path, json.dumps({"target": target, "provenance": facts, "pairs": pairs}).encode())


def _kept(path: Path, target: str) -> tuple[dict[Case, tuple[float, ...]], dict[str, Any]]:
    if not path.is_file():
        return {}, {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["target"] != target:
            raise TargetError(f"{path} holds a validation of {data['target']!r}, not of {target!r}; give another --out")
        found: dict[Case, tuple[float, ...]] = {}
        for pair in data["pairs"]:
            height, width = pair["size_hw"]
            found[DetectorSpec.from_dict(pair["spec"]), (int(height), int(width))] = tuple(map(float, pair["measured_ms"]))
        return found, dict(data["provenance"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise TargetError(f"{path} is not a validation that jdnas wrote ({error}); give another --out") from error
