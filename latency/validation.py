"""Whether a table can be trusted: predictions against engines that nothing was fitted to."""

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from jdnas.atomic import write_atomically
from jdnas.errors import TargetError
from jdnas.models.complexity import multiply_adds
from jdnas.spec import DetectorSpec
from latency.blocks import SizeHW
from latency.busy import look_around
from latency.device_lock import held_device
from latency.here import check_here
from latency.machine import same_machine
from latency.measure import probe
from latency.plan import Case, case_name
from latency.predictor import Predictor
from latency.sentinel import Reading, Readings, Sentinel, undisturbed
from latency.tables import LatencyTable
from latency.targets import Target
from latency.timing import Clock

OnProgress = Callable[[int, int, str], None]
ROUNDS = 4
_LEAST_ROUNDS = 2
_LEAST = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """An engine: milliseconds of the rounds that no slow spell of the machine met, of which the median counts, and predicted ones."""

    spec: DetectorSpec
    size_hw: SizeHW
    measured_ms: tuple[float, ...]
    predicted_ms: float

    @property
    def median_ms(self) -> float:
        """What the engine takes; the least of the rounds would fall with their number, which differs from engine to engine."""
        return median(self.measured_ms)


@dataclass(frozen=True, slots=True)
class Validation:
    """Engines, and how far predictions are from them.

    `noise` is the mean relative difference between two measurements of one engine, each the median of half of the rounds, and `noise_tau`
    Kendall's tau between the two: no predictor of such measurements can be much better. `flops_tau` is Kendall's tau of multiply-adds,
    which a table has to beat. `slow` is the share of all measurements that a slow spell of the machine met, and `left_out` the number of
    engines that were met in no other state.
    """

    target: str
    pairs: tuple[Pair, ...]
    provenance: dict[str, Any]
    slow: float = 0.0
    left_out: int = 0

    @property
    def errors(self) -> Any:
        """Signed relative errors `[N]`."""
        return np.array([pair.predicted_ms / pair.median_ms - 1 for pair in self.pairs])

    def figures(self) -> dict[str, float]:
        """Return MAPE, median and largest error, shares within 5 and 10 %, Kendall's tau, bias, and the noise of measuring."""
        errors = np.abs(self.errors)
        measured = [pair.median_ms for pair in self.pairs]
        tau = rank_agreement(measured, [pair.predicted_ms for pair in self.pairs])
        of_flops = rank_agreement(measured, [multiply_adds(pair.spec, pair.size_hw) for pair in self.pairs])
        halves = halves_ms(self.pairs)
        return {
            "engines": len(self.pairs), "mape": float(errors.mean()), "median_error": float(np.median(errors)),
            "largest_error": float(errors.max()), "bias": float(self.errors.mean()), "within_5": float((errors <= 0.05).mean()),
            "within_10": float((errors <= 0.10).mean()), "kendall_tau": tau, "flops_tau": of_flops,
            "noise": float(np.mean(np.abs(halves[0] / halves[1] - 1))) if halves.size else math.nan, "noise_tau": rank_agreement(*halves),
            "slow": self.slow, "left_out": self.left_out,
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data; figures that cannot be told are None."""
        pairs = [{"spec": p.spec.to_dict(), "size_hw": list(p.size_hw), "measured_ms": list(p.measured_ms), "predicted_ms": p.predicted_ms}
                 for p in self.pairs]  # fmt: skip
        figures = {key: None if math.isnan(value) else value for key, value in self.figures().items()}
        return {"target": self.target, "provenance": self.provenance, "figures": figures, "pairs": pairs}


def halves_ms(pairs: Sequence[Pair]) -> Any:
    """Return `[2, N]`: medians of the even rounds and of the odd ones, of engines that were measured more than once."""
    several = [pair.measured_ms for pair in pairs if len(pair.measured_ms) > 1]
    return np.array([[median(ms[first::2]) for ms in several] for first in (0, 1)])


def rank_agreement(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Kendall's tau; NaN where nothing can be put in order."""
    return float(kendalltau(one, other).statistic) if len(one) > 1 else math.nan


def validate(
    target: Target, table: LatencyTable, cases: Sequence[Case], *, budget_s: float, path: Path, engines_dir: Path | None = None,
    rounds: int = ROUNDS, on_progress: OnProgress | None = None, clock: Clock = perf_counter,
) -> Validation:  # fmt: skip
    """Measure the engines of `cases` that the table was not fitted to, in `rounds` over all of them, and predict them.

    Each measurement is a session of its own. Engines that slow spells of the machine met in most rounds are measured again while there
    is time. What was measured is kept in `path` and not measured again; predictions are made anew. TargetError where the table or what
    was kept is of another machine or beside another sentinel, the table knows all of the engines, or too few fit into the budget.
    """
    check_here(target)
    fitted = {(row.spec, row.size_hw) for row in table.engines}
    wanted = [case for case in cases if case not in fitted]
    if not wanted:
        raise TargetError(f"the table of {target.name!r} was fitted to all of the {len(cases)} engines; ask for more with --count")
    predictor = Predictor(table)
    deadline = clock() + budget_s
    with held_device(target), tempfile.TemporaryDirectory() as temporary:
        here = probe(target)
        same_machine(table.provenance, here, f"the table of {target.name!r}")
        readings, known = _kept(path, target.name)
        smallest = min(wanted, key=lambda case: multiply_adds(*case))
        facts = _facts(known, here, case_name(smallest), path) | {"disturbances": look_around(target.processor == "gpu").warnings}
        sentinel = Sentinel(smallest, target, engines_dir or Path(temporary))
        total = rounds * len(wanted)
        for done, (turn, case) in enumerate(_in_turns(wanted, readings, rounds), start=1):
            if len(readings.get(case, ())) <= turn:
                if clock() >= deadline:
                    break
                readings[case] = (*readings.get(case, ()), sentinel.reading_of(case))
                _save(path, target.name, readings, facts)
            if on_progress:
                on_progress(min(done, total), total, "engine")
    return _validated(target.name, wanted, readings, predictor, facts, path)


def _facts(known: dict[str, Any], here: dict[str, Any], sentinel: str, path: Path) -> dict[str, Any]:
    """Return what readings are taken on and beside which engine; TargetError where those that were kept were taken on or beside others."""
    if known:
        same_machine(known, here, f"validation {path}")
        if known.get("sentinel") != sentinel:
            raise TargetError(f"validation {path} was measured beside the engine {known.get('sentinel')!r}, here the smallest is "
                              f"{sentinel!r}; give another --out")  # fmt: skip
    return {**here, **known, "sentinel": sentinel}


def _in_turns(wanted: Sequence[Case], readings: Readings, rounds: int) -> Iterator[tuple[int, Case]]:
    """Yield what to measure with the number of its turn, as long as there is a reason to; `readings` grow meanwhile."""
    for turn in count():
        cases = _of_turn(turn, wanted, readings, rounds)
        if not cases:
            return
        yield from ((turn, case) for case in cases)


def _of_turn(turn: int, wanted: Sequence[Case], readings: Readings, rounds: int) -> list[Case]:
    """Return what a turn measures: all, and after the last round what has too few measurements out of slow spells."""
    if turn < rounds:
        return list(wanted)
    known = undisturbed(readings)
    return [case for case in wanted if len(known.get(case, ())) < _LEAST_ROUNDS]


def _validated(
    target: str, wanted: Sequence[Case], readings: Readings, predictor: Predictor, facts: dict[str, Any], path: Path
) -> Validation:
    known = undisturbed(readings)
    pairs = tuple(Pair(*case, known[case], predictor.latency_ms(*case)) for case in wanted if known.get(case))
    if len(pairs) < _LEAST:
        raise TargetError(f"only {len(pairs)} engines were measured, at least {_LEAST} are needed; run it again with a larger --budget")
    taken = [own for case, own in readings.items() if case in wanted]
    slow = 1 - sum(len(known[case]) for case in wanted if case in known) / sum(map(len, taken))
    result = Validation(target, pairs, facts, slow, len(taken) - len(pairs))
    write_atomically(path, json.dumps(result.to_dict() | {"readings": _plain(readings)}).encode())
    return result


def _plain(readings: Readings) -> list[dict[str, Any]]:
    return [
        {"spec": spec.to_dict(), "size_hw": list(size), "ms": [one.ms for one in own], "sentinel_ms": [one.sentinel_ms for one in own]}
        for (spec, size), own in readings.items()
    ]


def _save(path: Path, target: str, readings: Readings, facts: dict[str, Any]) -> None:
    write_atomically(path, json.dumps({"target": target, "provenance": facts, "readings": _plain(readings)}).encode())


def _kept(path: Path, target: str) -> tuple[Readings, dict[str, Any]]:
    if not path.is_file():
        return {}, {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["target"] != target:
            raise TargetError(f"{path} holds a validation of {data['target']!r}, not of {target!r}; give another --out")
        found: Readings = {}
        for row in data["readings"]:
            height, width = row["size_hw"]
            own = tuple(Reading(float(ms), float(beside)) for ms, beside in zip(row["ms"], row["sentinel_ms"], strict=True))
            found[DetectorSpec.from_dict(row["spec"]), (int(height), int(width))] = own
        return found, dict(data["provenance"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise TargetError(f"{path} is not a validation that jdnas wrote ({error}); give another --out") from error
