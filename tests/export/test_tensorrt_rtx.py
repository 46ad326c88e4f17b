import numpy as np
import pytest

import export.tensorrt_api as tensorrt_api
from export.runners import open_runner
from export.tensorrt_engine import BUILT_NOT_RUN, build_engine, read_record
from jdnas.errors import CheckpointError, MissingExtraError, TargetError
from tests.export.runner_contract import feeds


def missing():
    raise ImportError


def test_missing_package(tmp_path, monkeypatch):
    monkeypatch.setitem(tensorrt_api._IMPORTS, "tensorrt-rtx", missing)
    with pytest.raises(MissingExtraError, match=r"'tensorrt-rtx-cu13' .*jdnas\[tensorrt-rtx\]"):
        build_engine(tmp_path / "x.onnx", tmp_path / "x.engine", runtime="tensorrt-rtx")


@pytest.mark.tensorrt
class TestBuilder:
    @pytest.fixture(autouse=True)
    def _package(self):
        pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")

    def test_builds_without_a_gpu(self, tiny, tmp_path):
        record = build_engine(tiny.path, tmp_path / "tiny.engine", runtime="tensorrt-rtx", compute_capability="8.9")
        assert (tmp_path / "tiny.engine").stat().st_size > 10_000
        assert record == read_record(tmp_path / "tiny.engine")
        assert (record.device, record.capability, record.precision, record.status) == ("SM89", "SM89", "fp32", BUILT_NOT_RUN)

    def test_unknown_compute_capability(self, tiny, tmp_path):
        with pytest.raises(TargetError, match="unknown compute capability 'SM70'; known: .*SM89"):
            build_engine(tiny.path, tmp_path / "x.engine", runtime="tensorrt-rtx", compute_capability="7.0")

    def test_no_onnx(self, tmp_path):
        build = {"runtime": "tensorrt-rtx", "compute_capability": "8.9"}
        with pytest.raises(CheckpointError, match="does not exist"):
            build_engine(tmp_path / "x.onnx", tmp_path / "x.engine", **build)
        (tmp_path / "x.onnx").write_bytes(b"not a graph")
        with pytest.raises(CheckpointError, match="is not an ONNX file"):
            build_engine(tmp_path / "x.onnx", tmp_path / "x.engine", **build)
        assert not (tmp_path / "x.engine").exists()

    @pytest.mark.gpu
    def test_an_engine_runs_where_there_is_such_a_gpu(self, tiny, tmp_path):
        build_engine(tiny.path, tmp_path / "tiny.engine", runtime="tensorrt-rtx")
        with open_runner(tiny.path) as reference, open_runner(tmp_path / "tiny.engine", "tensorrt-rtx") as runner:
            wanted, found = reference.run(*feeds(tiny.size_hw)), runner.run(*feeds(tiny.size_hw))
        np.testing.assert_allclose(found["scores"], wanted["scores"], atol=1e-3)
