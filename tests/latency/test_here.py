import sys

import pytest

from jdnas.errors import TargetError
from latency import here
from latency.gpus import GpuState
from latency.here import check_here, standing
from latency.targets import load_target

CUDA = load_target("h100-ort")


def gpu(name):
    return GpuState(name, "580.1", 1980, 2619, 40, (), ())


def test_the_cpu_is_always_here():
    assert standing(load_target("cpu-ort")).measurable


@pytest.mark.parametrize("name", ["v100-trt", "h100-aoti", "rtx4090-trt-rtx"])
def test_runtimes_that_this_version_cannot_run(name):
    found = standing(load_target(name))
    assert not found.measurable
    assert found.why.startswith("no: needs ")
    assert "cannot be measured here: this version times engines of ort-cpu, ort-cuda" in found.reason


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name, package, extra in (("cpu-ort", "onnxruntime", "cpu"), ("h100-ort", "onnxruntime-gpu", "gpu")):
        found = standing(load_target(name))
        assert (found.measurable, found.why) == (False, f"no: {package} missing")
        with pytest.raises(TargetError, match=f"package '{package}' is not installed; install it with: pip install 'jdnas.{extra}.'"):
            check_here(load_target(name))


@pytest.mark.parametrize(
    ("state", "measurable"), [(gpu("NVIDIA H100 80GB HBM3"), True), (gpu("NVIDIA A100-SXM4-40GB"), False), (None, True)]
)
def test_the_gpu_must_be_the_targets(monkeypatch, state, measurable):
    monkeypatch.setattr(here, "import_onnxruntime", lambda runtime: None)
    monkeypatch.setattr(here, "gpu_state", lambda: state)
    found = standing(CUDA)
    assert found.measurable == measurable
    if not measurable:
        assert found.why == "no: has NVIDIA A100-SXM4-40GB"
        assert "is NVIDIA H100, the GPU of this machine is NVIDIA A100-SXM4-40GB; describe it in a YAML file" in found.reason
