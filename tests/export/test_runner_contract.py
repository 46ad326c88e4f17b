"""The contract on every runtime that is installed, and on stand-ins for TensorRT of each version."""

import numpy as np
import pytest
import torch

from export.aot_inductor import export_package
from export.compiler import check_compiler
from export.forms import forms_for
from export.graph import export_onnx
from export.runners import open_runner
from jdnas.errors import CheckpointError, TargetError
from latency.benchmark import benchmark
from tests.export.conftest import TinyEngine
from tests.export.fake_tensorrt import fake_tensorrt
from tests.export.host_device import HostDevice
from tests.export.runner_contract import BATCH, RunnerContract, feeds


def exporter(make):
    """A fixture for the whole session that makes a folder's artifact of the tiny detector."""

    @pytest.fixture(scope="session")
    def artifact(tiny, tmp_path_factory):
        return make(tiny, tmp_path_factory.mktemp("artifact"))

    return artifact


def onnx_for(runtime):
    def make(tiny: TinyEngine, folder):
        return export_onnx(
            tiny.state, tiny.spec, size_hw=tiny.size_hw, batch=BATCH, path=folder / "tiny.onnx", classes=tiny.classes,
            provenance={"run": "test"}, forms=forms_for(runtime),
        )  # fmt: skip

    return make


def package_for(device):
    def make(tiny: TinyEngine, folder):
        return export_package(
            tiny.state, tiny.spec, size_hw=tiny.size_hw, batch=BATCH, path=folder / "tiny.pt2", classes=tiny.classes,
            provenance={"run": "test"}, device=device,
        )  # fmt: skip

    return make


atlas_onnx, package, cuda_package = (exporter(make) for make in (onnx_for("ort-cuda"), package_for("cpu"), package_for("cuda")))


class TestOrtCpu(RunnerContract):
    runtime = "ort-cpu"


class TestOpenVino(RunnerContract):
    runtime = "openvino"

    @pytest.fixture
    def artifact(self, atlas_onnx):
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
        return atlas_onnx

    def test_the_form_of_another_runtime_gives_the_same(self, tiny, runner):
        with open_runner(tiny.path, "openvino", threads=1) as other:
            ours, theirs = runner.run(*feeds(tiny.size_hw)), other.run(*feeds(tiny.size_hw))
        assert runner.metadata.forms["roi"] != other.metadata.forms["roi"]
        for name, array in ours.items():
            np.testing.assert_allclose(array, theirs[name], atol=1e-3)


def _no_compiler():
    try:
        check_compiler("cpu")
    except TargetError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.skipif(bool(_no_compiler()), reason=_no_compiler())
class TestAotInductor(RunnerContract):
    runtime = "aoti"

    @pytest.fixture
    def artifact(self, package):
        return package

    def test_pytorch_gets_its_threads_back(self, artifact):
        before = torch.get_num_threads()
        with open_runner(artifact, "aoti", threads=before + 1):
            assert torch.get_num_threads() == before + 1
        assert torch.get_num_threads() == before

    def test_a_benchmark_times_it_through_the_same_session(self, artifact, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
        (row,) = benchmark([artifact], "cpu-aoti", seconds=0.05).rows
        assert row.runs_in == "aoti" and row.median_ms > 0 and row.peak_rss_mib > 20
        with pytest.raises(TargetError, match="--profile knows the layers of"):
            benchmark([artifact], "cpu-aoti", seconds=0.05, profile=True)


class _TensorRt(RunnerContract):
    runtime = "tensorrt"
    version = ""

    @pytest.fixture(autouse=True)
    def _stand_in(self, monkeypatch, tmp_path):
        self.trt = fake_tensorrt(self.version)
        monkeypatch.setitem(__import__("export.tensorrt_api").tensorrt_api._IMPORTS, "tensorrt", lambda: self.trt)
        monkeypatch.setattr("export.tensorrt_session.CudaDevice", HostDevice)
        monkeypatch.setenv("JDNAS_ENGINE_CACHE", str(tmp_path / "cache"))

    def test_calls_replay_one_capture_on_the_device_stream(self, tiny, runner, monkeypatch):
        monkeypatch.setattr(HostDevice, "captures", 0)
        call = runner.bind(*feeds(tiny.size_hw))
        before = len(self.trt.log.streams)
        for _ in range(4):
            call()
        runner.run(*feeds(tiny.size_hw, seed=1))
        assert HostDevice.captures <= 1
        assert set(self.trt.log.streams) == {HostDevice.stream_handle} and len(self.trt.log.streams) == before + 5
        assert runner.runtime.cuda_graph and runner.runtime.provider == "cuda"

    def test_what_cannot_be_captured_is_said_to_run_without_a_graph(self, tiny, runner, monkeypatch):
        monkeypatch.setattr(HostDevice, "captured", lambda device, launch: (launch, False))
        runner.bind(*feeds(tiny.size_hw))()
        assert not runner.runtime.cuda_graph


class TestTensorRt86(_TensorRt):
    version = "8.6.1"


class TestTensorRt104(_TensorRt):
    version = "10.4.0"


class TestTensorRt11(_TensorRt):
    version = "11.1.0"


@pytest.mark.gpu
class TestOrtCuda(RunnerContract):
    runtime = "ort-cuda"

    @pytest.fixture
    def artifact(self, atlas_onnx):
        return atlas_onnx

    def test_calls_replay_a_cuda_graph_and_are_timed_by_events(self, tiny, runner):
        assert runner.runtime.cuda_graph
        assert runner.bind(*feeds(tiny.size_hw)).device_ms() > 0


@pytest.mark.gpu
class TestAotInductorOnCuda(RunnerContract):
    runtime = "aoti"

    @pytest.fixture
    def artifact(self, cuda_package):
        return cuda_package


@pytest.mark.gpu
@pytest.mark.tensorrt
class TestTensorRt(RunnerContract):
    runtime = "tensorrt"

    @pytest.fixture
    def artifact(self, tiny):
        pytest.importorskip("tensorrt", reason="the extra tensorrt is not installed")
        return tiny.path


def test_an_unknown_runtime_is_named(tiny):
    with pytest.raises(TargetError, match="unknown runtime 'tvm'; known: aoti, openvino, ort-cpu, ort-cuda, tensorrt, tensorrt-rtx"):
        open_runner(tiny.path, "tvm")


def test_aoti_takes_no_onnx(tiny):
    with pytest.raises(CheckpointError, match="runtime 'aoti' loads .pt2, got .*tiny.onnx; make one with: jdnas export --runtime aoti"):
        open_runner(tiny.path, "aoti")
