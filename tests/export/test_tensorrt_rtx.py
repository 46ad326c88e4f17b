import sys

import pytest

from export.tensorrt_rtx import build_engine
from jdnas.errors import CheckpointError, MissingExtraError, TargetError


def test_missing_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtraError, match=r"'tensorrt-rtx-cu13' .*jdnas\[tensorrt-rtx\]"):
        build_engine(tmp_path / "x.onnx", tmp_path / "x.engine")


@pytest.mark.tensorrt
class TestBuilder:
    @pytest.fixture(autouse=True)
    def _package(self):
        pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")

    def test_builds_without_a_gpu(self, tiny, tmp_path):
        engine = build_engine(tiny.path, tmp_path / "tiny.engine", compute_capability="SM89")
        assert engine.stat().st_size > 10_000

    def test_unknown_compute_capability(self, tiny, tmp_path):
        with pytest.raises(TargetError, match="unknown compute capability 'SM70'; known: .*SM89"):
            build_engine(tiny.path, tmp_path / "x.engine", compute_capability="SM70")

    def test_no_onnx(self, tmp_path):
        with pytest.raises(CheckpointError, match="does not exist"):
            build_engine(tmp_path / "x.onnx", tmp_path / "x.engine")
        (tmp_path / "x.onnx").write_bytes(b"not a graph")
        with pytest.raises(CheckpointError, match="cannot parse"):
            build_engine(tmp_path / "x.onnx", tmp_path / "x.engine")
        assert not (tmp_path / "x.engine").exists()
