"""Whether engines of a target can run on this machine."""

import re
from dataclasses import dataclass

from export.cuda_device import has_driver
from export.runtimes import RUNTIMES, require
from jdnas.errors import InputError, MissingExtraError, TargetError
from latency.gpus import gpu_state
from latency.targets import Target

_VENDORS = {"nvidia", "tesla"}


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether this machine can time engines of a target; if not, why, in a few words and in a sentence."""

    measurable: bool
    why: str = ""
    reason: str = ""


def standing(target: Target) -> Standing:
    """Return whether engines of `target` can be timed on this machine."""
    try:
        require(target.runtime, target.processor)
    except InputError as error:
        return Standing(False, f"no: {_missing(target, error)}", f"target {target.name!r} cannot be measured here: {error}")
    # Without NVML the name cannot be checked; that the runtime starts is then all there is to go by.
    state = gpu_state() if target.processor == "gpu" else None
    if state is not None and not _words(target.device) <= _words(state.name):
        reason = f"target {target.name!r} is {target.device}, the GPU of this machine is {state.name}; describe it in a YAML file of its " \
                 "own and pass that as the target"  # fmt: skip
        return Standing(False, f"no: has {state.name}", reason)
    return Standing(True)


def _words(name: str) -> set[str]:
    """Return the words that tell one GPU from another; drivers call the T4 "Tesla T4"."""
    return set(re.findall(r"[a-z0-9]+", name.lower())) - _VENDORS


def _missing(target: Target, error: InputError) -> str:
    without_gpu = target.processor == "gpu" and not has_driver()
    if isinstance(error, MissingExtraError) or (target.runtime.startswith("ort-") and not without_gpu):
        return f"{RUNTIMES[target.runtime].package} missing"
    return "no such GPU" if target.processor == "gpu" else "no C++ compiler"


def check_here(target: Target) -> None:
    """Raise a TargetError that says why engines of `target` cannot be timed here: no runtime, no package, another device."""
    here = standing(target)
    if not here.measurable:
        raise TargetError(here.reason)
