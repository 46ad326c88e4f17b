"""Which parts of a network stay in float so that its int8 engine passes: those whose rounding does most harm, by measurement."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from onnx import ModelProto

from export.artifact import OUTPUT_NAMES
from export.int8 import Calibrated, Feeds, quantized
from export.ort_session import OrtSession
from export.parity import ParityResult, disagreement
from export.runners import RunnerDetections

Check = Callable[[ModelProto], ParityResult]
_LEAST_SHARE = 0.25  # of the groups, below which what is left in int8 saves too little to be worth a file


@dataclass(frozen=True, slots=True)
class Int8Choice:
    """The graph that was chosen and its comparison with PyTorch; `kept` are the groups in float, worst first.

    `sensitivity`: what rounding each group alone does to the detections (`disagreement`), empty where nothing had to be kept.
    """

    model: ModelProto
    result: ParityResult
    kept: tuple[str, ...]
    sensitivity: Mapping[str, float]


def sensitivities(calibrated: Calibrated, probe: Sequence[Feeds], on_group: Callable[[int], None] | None = None) -> dict[str, float]:
    """Return the mean disagreement on `probe` batches between the float graph and that graph with one group in int8, for each group."""
    groups = calibrated.parts.groups
    wanted = _detections(quantized(calibrated, frozenset(groups)), probe)
    found = {}
    for done, group in enumerate(groups):
        got = _detections(quantized(calibrated, frozenset(groups) - {group}), probe)
        found[group] = fmean(disagreement(a, b) for a, b in zip(wanted, got, strict=True))
        if on_group:
            on_group(done + 1)
    return found


def choose(calibrated: Calibrated, check: Check, probe: Iterable[Feeds], *, say: Callable[[str], object] = lambda _: None) -> Int8Choice:
    """Quantize everything; where `check` says no, keep the most sensitive groups in float: the fewest that pass, found by bisection.

    Where nothing passes, the attempt with the smallest difference comes back with its verdict.
    """
    model = quantized(calibrated)
    first = Int8Choice(model, check(model), (), {})
    if first.result.passed:
        return first
    groups = calibrated.parts.groups
    say(f"all {len(groups)} groups in int8: {first.result.message}; measuring which of them do it")
    found = sensitivities(calibrated, tuple(probe))
    order = sorted(groups, key=lambda group: -found[group])

    def attempt(count: int) -> Int8Choice:
        kept = tuple(order[:count])
        model = quantized(calibrated, frozenset(kept))
        choice = Int8Choice(model, check(model), kept, found)
        say(f"{count} of {len(groups)} groups in float: {choice.result.message}")
        return choice

    return _fewest(first, attempt, most=int((1 - _LEAST_SHARE) * len(groups)))


def _fewest(first: Int8Choice, attempt: Callable[[int], Int8Choice], *, most: int) -> Int8Choice:
    # Doubles the number of groups in float until one passes, then halves the gap to the largest that did not.
    best, failed, count = first, 0, 1
    while count <= most:
        choice = attempt(count)
        if choice.result.passed:
            best = choice
            break
        best, failed = min(best, choice, key=lambda one: _difference(one.result)), count
        count = min(2 * count, most) if count < most else most + 1
    while best.result.passed and len(best.kept) - failed > 1:
        choice = attempt((failed + len(best.kept)) // 2)
        if choice.result.passed:
            best = choice
        else:
            failed = len(choice.kept)
    return best


def _difference(result: ParityResult) -> float:
    return result.moved if result.delta_ap is None else abs(result.delta_ap)


def _detections(model: ModelProto, probe: Sequence[Feeds]) -> list[RunnerDetections]:
    session = OrtSession(model.SerializeToString(), "ort-cpu", where="a quantized graph")
    outputs = [session.run(feeds) for feeds in probe]
    return [RunnerDetections(*(torch.from_numpy(one[name]) for name in OUTPUT_NAMES)) for one in outputs]
