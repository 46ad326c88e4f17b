"""Engines for TensorRT as `jdnas export` makes them: compared with their graph, and put in place only when they agree, on a stand-in."""

import shutil

import onnx
import pytest

from export.tensorrt_engine import RUN_HERE, read_record
from export.tensorrt_session import TensorRtSession
from jdnas.errors import ConfigError, ParityError
from jdnas.pipeline.engines import export_engine
from jdnas.pipeline.exports import ExportOptions

OPTIONS = ExportOptions(runtime="tensorrt")


@pytest.fixture
def scores_off(monkeypatch):
    """Engines whose scores are a little too high: beyond what fp32 allows, within what fp16 does."""
    run = TensorRtSession.run

    def wrong(session, feeds):
        found = run(session, feeds)
        return found | {"scores": found["scores"] * 1.01}

    return lambda: monkeypatch.setattr(TensorRtSession, "run", wrong)


def test_an_engine_that_agrees_takes_its_place(tiny, install, tmp_path):
    install("10.3.0")
    lines = export_engine(tiny.path, tmp_path / "a.engine", OPTIONS)
    assert lines[-1] == f"{RUN_HERE}: agrees with {tiny.path} in ort-cpu"
    assert read_record(tmp_path / "a.engine").status == RUN_HERE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.engine", "a.engine.json"]


def test_an_engine_that_differs_leaves_the_one_before_it(tiny, install, tmp_path, scores_off):
    install("10.3.0")
    out = tmp_path / "a.engine"
    export_engine(tiny.path, out, OPTIONS)
    before = out.stat().st_mtime_ns, read_record(out)
    scores_off()
    with pytest.raises(ParityError, match=r"differs from .*tiny.onnx in ort-cpu: score difference .*kept as .*a\.failed\.engine"):
        export_engine(tiny.path, out, OPTIONS)
    assert (out.stat().st_mtime_ns, read_record(out)) == before
    assert read_record(tmp_path / "a.failed.engine").status == RUN_HERE
    assert not [path for path in tmp_path.iterdir() if "unchecked" in path.name]


def test_each_precision_has_its_own_limits(tiny_half, install, tmp_path, scores_off):
    install("10.3.0")
    onnx.save(tiny_half, tmp_path / "half.onnx")
    scores_off()
    export_engine(tmp_path / "half.onnx", tmp_path / "half.engine", OPTIONS)
    assert read_record(tmp_path / "half.engine").precision == "fp16"


def test_what_breaks_off_leaves_nothing(tiny, install, tmp_path, monkeypatch):
    install("10.3.0")

    def broken(*_):
        raise OSError("the device is gone")

    monkeypatch.setattr(TensorRtSession, "run", broken)
    with pytest.raises(OSError, match="the device is gone"):
        export_engine(tiny.path, tmp_path / "a.engine", OPTIONS)
    assert not list(tmp_path.iterdir())


def test_a_graph_says_what_it_is(tiny, install, tmp_path):
    install("10.3.0")
    graph = shutil.copy(tiny.path, tmp_path / "tiny.onnx")
    with pytest.raises(ConfigError, match="leave out all but --runtime, --compute-capability and --data"):
        export_engine(graph, tmp_path / "a.engine", ExportOptions(runtime="tensorrt", precision="fp16"))
