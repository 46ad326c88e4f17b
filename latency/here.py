"""Whether engines of a target can run on this machine."""

from dataclasses import dataclass

from export.ort_session import RUNTIMES, import_onnxruntime
from jdnas.errors import InputError, TargetError
from latency.gpus import gpu_state
from latency.targets import Target

_PACKAGES = {
    "ort-cpu": "onnxruntime",
    "ort-cuda": "onnxruntime-gpu",
    "aoti": "torch with CUDA",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx-cu13",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether this machine can time engines of a target; if not, why, in a few words and in a sentence."""

    measurable: bool
    why: str = ""
    reason: str = ""


def standing(target: Target) -> Standing:
    """Return whether engines of `target` can be timed on this machine."""
    if target.runtime not in RUNTIMES:
        package = _PACKAGES[target.runtime]
        timed = ", ".join(RUNTIMES)
        reason = (f"runtime {target.runtime!r} of target {target.name!r} cannot be measured here: this version times engines of {timed}, "
                  f"not those of {package}")  # fmt: skip
        return Standing(False, f"no: needs {package}", reason)
    try:
        import_onnxruntime(target.runtime)
    except InputError as error:
        return Standing(False, "no: " + _PACKAGES[target.runtime] + " missing", str(error))
    # Without NVML the name cannot be checked; that the provider is there is then all there is to go by.
    state = None if target.runtime == "ort-cpu" else gpu_state()
    if state is not None and target.device.lower() not in state.name.lower():
        reason = f"target {target.name!r} is {target.device}, the GPU of this machine is {state.name}; describe it in a YAML file of its " \
                 "own and pass that as the target"  # fmt: skip
        return Standing(False, f"no: has {state.name}", reason)
    return Standing(True)


def check_here(target: Target) -> None:
    """Raise a TargetError that says why engines of `target` cannot be timed here: no runtime, no package, another device."""
    here = standing(target)
    if not here.measurable:
        raise TargetError(here.reason)
