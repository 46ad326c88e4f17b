"""What is ONNX Runtime's alone; what all runners must do is in `runner_contract`."""

import gc
import sys
import weakref

import numpy as np
import onnx
import pytest

import export.ort_session as ort_session
from export.ort_session import OrtSession
from export.runners import open_runner
from export.session import physical_cores
from jdnas.errors import CheckpointError, MissingExtraError, TargetError
from tests.export.runner_contract import feeds


def test_normalization_is_in_the_file(tiny):
    properties = {entry.key: entry.value for entry in onnx.load(tiny.path).metadata_props}
    assert properties["jdnas.mean"] == "[0.485, 0.456, 0.406]"
    assert properties["jdnas.std"] == "[0.229, 0.224, 0.225]"


def test_a_file_of_another_program(tiny, tmp_path):
    model = onnx.load(tiny.path)
    del model.metadata_props[:]
    stranger = tmp_path / "stranger.onnx"
    onnx.save(model, stranger)
    with pytest.raises(CheckpointError, match="was not exported by this jdnas"):
        open_runner(stranger)


def test_missing_runtime(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"'onnxruntime' .*jdnas\[cpu\]"):
        open_runner(tiny.path)
    with pytest.raises(MissingExtraError, match=r"'onnxruntime-gpu' .*jdnas\[gpu\]"):
        open_runner(tiny.path, "ort-cuda")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"'openvino' .*jdnas\[openvino\]"):
        open_runner(tiny.path, "openvino")


def test_build_without_cuda(tiny, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(TargetError, match=r"needs CUDAExecutionProvider.*jdnas\[gpu\]"):
        open_runner(tiny.path, "ort-cuda")


def test_default_threads_are_the_physical_cores(tiny):
    assert OrtSession(tiny.path).info.threads == physical_cores() >= 1


class OldBinding:
    """A binding as ONNX Runtime 1.20 has it: it keeps no Python object of its inputs."""

    def __init__(self, binding):
        self._binding = binding

    def __getattr__(self, name):
        return getattr(self._binding, name)

    def bind_ortvalue_input(self, name, value):
        self._binding._iobinding.bind_ortvalue_input(name, value._ortvalue)


def test_a_bound_call_owns_the_arrays_that_it_reads(tiny, monkeypatch):
    session = OrtSession(tiny.path, threads=1)
    make = session._session.io_binding
    monkeypatch.setattr(session._session, "io_binding", lambda: OldBinding(make()))
    images, sizes = feeds(tiny.size_hw)
    kept, call = weakref.ref(images), session.bind({"images": images, "sizes_hw": sizes})
    del images, sizes
    gc.collect()
    assert kept() is not None
    call()
    del call
    gc.collect()
    assert kept() is None


class CudaOnTheHost:
    """The onnxruntime module with a CUDA provider that is the CPU's: device memory is host memory, and options are noted."""

    def __init__(self, *, captures):
        import onnxruntime

        self._ort, self.captures, self.options = onnxruntime, captures, []
        self.OrtValue = self._values()

    def __getattr__(self, name):
        return getattr(self._ort, name)

    def get_available_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, source, options, providers, provider_options):  # noqa: N802
        assert providers == ["CUDAExecutionProvider", "CPUExecutionProvider"]
        self.options.append(provider_options[0])
        if "enable_cuda_graph" in provider_options[0] and not self.captures:
            raise RuntimeError("not all nodes have been partitioned to the CUDA provider")
        session = self._ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        session.get_providers = self.get_available_providers
        return session

    def _values(self):
        real = self._ort.OrtValue

        class Values:
            @staticmethod
            def ortvalue_from_numpy(array, place, index):
                assert place == "cuda"
                return real.ortvalue_from_numpy(array, "cpu", index)

            @staticmethod
            def ortvalue_from_shape_and_type(shape, dtype, place, index):
                assert place == "cuda"
                return real.ortvalue_from_shape_and_type(shape, dtype, "cpu", index)

        return Values


@pytest.mark.parametrize("captures", [True, False])
def test_the_cuda_provider_captures_a_graph_over_bound_buffers(tiny, monkeypatch, captures):
    """On the host, with everything but the device: options, one set of buffers, and the fallback for graphs that cannot be captured."""
    reference, ort = OrtSession(tiny.path, threads=1), CudaOnTheHost(captures=captures)
    monkeypatch.setattr(ort_session, "import_onnxruntime", lambda runtime: ort)
    first, second = (dict(zip(("images", "sizes_hw"), feeds(tiny.size_hw, seed), strict=True)) for seed in (0, 1))
    session = OrtSession(tiny.path, "ort-cuda")
    assert ["enable_cuda_graph" in options for options in ort.options] == ([True] if captures else [True, False])
    assert all(options["use_tf32"] == "0" for options in ort.options)
    assert session.info.cuda_graph == captures and session.info.provider == "CUDAExecutionProvider"
    for one in (first, second, first):
        found = session.run(one)
        for name, array in reference.run(one).items():
            np.testing.assert_allclose(found[name], array, atol=1e-4)
    session.bind(second)()
    session.close()
