import sys

import pytest

import export.tensorrt_api as tensorrt_api
from jdnas.errors import TargetError
from latency import here
from latency.gpus import GpuState
from latency.here import check_here, standing
from latency.targets import Target, load_target

CUDA = load_target("h100-ort")


def gpu(name):
    return GpuState(name, "580.1", 1980, 2619, 40, (), ())


def test_the_cpu_is_always_here():
    assert standing(load_target("cpu-ort")).measurable


def test_packages_that_are_missing_are_named(monkeypatch):
    def missing():
        raise ImportError

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    for runtime in ("tensorrt", "tensorrt-rtx"):
        monkeypatch.setitem(tensorrt_api._IMPORTS, runtime, missing)
    for name, package, extra in (
        ("cpu-ort", "onnxruntime", "cpu"), ("h100-ort", "onnxruntime-gpu", "gpu"), ("cpu-openvino", "openvino", "openvino"),
        ("v100-trt", "tensorrt", "tensorrt"), ("rtx4090-trt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx"),
    ):  # fmt: skip
        found = standing(load_target(name))
        assert (found.measurable, found.why) == (False, f"no: {package} missing")
        with pytest.raises(TargetError, match=f"cannot be measured here: package '{package}' is not installed; install it with: "
                           f"pip install 'jdnas.{extra}.'"):  # fmt: skip
            check_here(load_target(name))


def test_a_machine_without_a_gpu(monkeypatch):
    monkeypatch.setattr("export.cuda_device.has_driver", lambda: False)
    found = standing(load_target("h100-aoti"))
    assert (found.measurable, found.why) == (False, "no: no such GPU")
    assert "no CUDA device" in found.reason


@pytest.mark.parametrize(
    ("providers", "driver", "why", "reason"),
    [(["CUDAExecutionProvider"], False, "no: no such GPU", "there is no CUDA driver here"),
     (["CPUExecutionProvider"], True, "no: onnxruntime-gpu missing", "replace onnxruntime by")],
)  # fmt: skip
def test_the_cuda_provider_alone_is_no_gpu(monkeypatch, providers, driver, why, reason):
    """onnxruntime-gpu lists it on machines without a GPU too."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)
    for where in ("export.cuda_device", "latency.here"):
        monkeypatch.setattr(f"{where}.has_driver", lambda: driver)
    found = standing(CUDA)
    assert (found.measurable, found.why) == (False, why) and reason in found.reason


def test_a_machine_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = standing(load_target("cpu-aoti"))
    assert (found.measurable, found.why) == (False, "no: no C++ compiler")
    assert "finds no compiler (no-such-compiler); install g++ or set CXX" in found.reason


def test_what_a_target_runs_on():
    assert {name: load_target(name).processor for name in ("cpu-ort", "cpu-openvino", "cpu-aoti", "h100-aoti", "h100-ort", "t4-trt")} == {
        "cpu-ort": "cpu", "cpu-openvino": "cpu", "cpu-aoti": "cpu", "h100-aoti": "gpu", "h100-ort": "gpu", "t4-trt": "gpu",
    }  # fmt: skip
    assert Target(name="x", device="cpu", runtime="aoti").processor == "cpu"


@pytest.mark.parametrize(
    ("target", "name", "measurable"),
    [
        ("a10-trt", "NVIDIA A10", True), ("a10-trt", "NVIDIA A100-SXM4-40GB", False), ("a10-trt", "NVIDIA A10G", False),
        ("t4-trt", "Tesla T4", True), ("t4-trt", "NVIDIA T400 4GB", False), ("v100-trt", "Tesla V100-SXM2-16GB", True),
        ("rtx4090-trt-rtx", "NVIDIA GeForce RTX 4090", True), ("rtx4090-trt-rtx", "NVIDIA GeForce RTX 3090", False),
    ],
)  # fmt: skip
def test_a_gpu_is_known_by_whole_words_of_its_name(monkeypatch, target, name, measurable):
    monkeypatch.setattr(here, "require", lambda runtime, processor: None)
    monkeypatch.setattr(here, "gpu_state", lambda: gpu(name))
    assert standing(load_target(target)).measurable == measurable


@pytest.mark.parametrize(
    ("state", "measurable"), [(gpu("NVIDIA H100 80GB HBM3"), True), (gpu("NVIDIA A100-SXM4-40GB"), False), (None, True)]
)
def test_the_gpu_must_be_the_targets(monkeypatch, state, measurable):
    monkeypatch.setattr(here, "require", lambda runtime, processor: None)
    monkeypatch.setattr(here, "gpu_state", lambda: state)
    found = standing(CUDA)
    assert found.measurable == measurable
    if not measurable:
        assert found.why == "no: has NVIDIA A100-SXM4-40GB"
        assert "is NVIDIA H100, the GPU of this machine is NVIDIA A100-SXM4-40GB; describe it in a YAML file" in found.reason
