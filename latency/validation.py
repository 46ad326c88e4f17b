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
_ROUNDS = 4
_LEAST = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """An engine: measured milliseconds (one of each round, of which the least counts) and predicted ones."""

    spec: DetectorSpec
    size_hw: SizeHW
    measured_ms: tuple[float, ...]
    predicted_ms: float

    @property
    def least_ms(self) -> float:
        """What the engine takes: a neighbour on the machine only ever adds time."""
        return min(self.measured_ms)


@dataclass(frozen=True, slots=True)
class Validation:
    """Engines, and how far predictions are from them.

    `noise` is the mean relative difference between two measurements of one engine, each the least of half of the rounds: no predictor can
    be better than about that.
    """

    target: str
    pairs: tuple[Pair, ...]
    provenance: dict[str, Any]

    @property
    def errors(self) -> Any:
        """Signed relative errors `[N]`."""
        return np.array([pair.predicted_ms / pair.least_ms - 1 for pair in self.pairs])

    def figures(self) -> dict[str, float]:
        """Return MAPE, median and largest error, shares within 5 and 10 %, Kendall's tau, bias, and the noise of measuring."""
        errors = np.abs(self.errors)
        measured = [pair.least_ms for pair in self.pairs]
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
    """Return the mean relative difference between the least of the even rounds and that of the odd ones; NaN where there was one round."""
    halves = [(min(pair.measured_ms[::2]), min(pair.measured_ms[1::2])) for pair in pairs if len(pair.measured_ms) > 1]
    return float(np.mean([abs(a / b - 1) for a, b in halves])) if halves else float("nan")


def validate(
    target: Target, table: LatencyTable, cases: Sequence[Case], *, budget_s: float, path: Path, engines_dir: Path | None = None,
    on_progress: OnProgress | None = None, clock: Clock = perf_counter,
) -> Validation:  # fmt: skip
    """Measure the engines of `cases` that the table was not fitted to, in several rounds over all of them, and predict them.

    Each measurement is a session of its own. What was measured is kept in `path` and not measured again; predictions are made anew.
    TargetError where the table is of another machine or too few engines fit into the budget.
    """
    check_here(target)
    fitted = {(row.spec, row.size_hw) for row in table.engines}
    wanted = [case for case in cases if case not in fitted]
    predictor = Predictor(table)
    deadline = clock() + budget_s
    with exclusive_device(target.processor):
        here = probe(target)
        same_machine(table.provenance, here, f"the table of {target.name!r}")
        measured, facts = _kept(path, target.name)
        quiet = look_around(target.processor == "gpu")
        facts = facts or {**here, "disturbances": quiet.warnings}
        tasks = [(turn, case) for turn in range(_ROUNDS) for case in wanted]
        for index, (turn, case) in enumerate(tasks):
            if len(measured.get(case, ())) <= turn:
                if clock() >= deadline:
                    break
                measured[case] = (*measured.get(case, ()), _measure(case, target, engines_dir))
                _save(path, target.name, measured, facts)
            if on_progress:
                on_progress(index + 1, len(tasks), "engine")
    pairs = [Pair(*case, measured[case], predictor.latency_ms(*case)) for case in wanted if case in measured]
    if len(pairs) < _LEAST:
        raise TargetError(f"only {len(pairs)} engines were measured, at least {_LEAST} are needed; run it again with a larger --budget")
    result = Validation(target.name, tuple(pairs), facts)
    write_atomically(path, json.dumps(result.to_dict()).encode())
    return result


def _measure(case: Case, target: Target, engines_dir: Path | None) -> float:
    with PreparedEngine(case, target, engines_dir) as engine:
        return round(engine.measure().median_ms, 5)


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
