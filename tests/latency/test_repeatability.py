import pytest

from jdnas.errors import TargetError
from latency import repeatability
from latency.repeatability import Repeats, repeat


@pytest.fixture(autouse=True)
def _own_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))


def test_spread_by_hand():
    assert Repeats("a", (10.0, 10.5, 9.9)).spread == pytest.approx(0.06)


def test_engines_take_turns(monkeypatch, tmp_path):
    order = []
    monkeypatch.setattr(repeatability, "_fresh", lambda path, target, seconds: order.append(path) or float(len(order)))
    found = repeat([tmp_path / "a", tmp_path / "b"], "cpu-ort", times=2, seconds=1)
    assert [path.name for path in order] == ["a", "b", "a", "b"]
    assert [one.medians_ms for one in found] == [(1.0, 3.0), (2.0, 4.0)]


def test_fresh_processes(fake_engine):
    (found,) = repeat([fake_engine], "cpu-ort", times=2, seconds=0.05)
    assert all(ms > 0 for ms in found.medians_ms)


def test_failures_say_why(tmp_path):
    with pytest.raises(TargetError, match=r"none.onnx could not be measured in a fresh process: .*does not exist"):
        repeat([tmp_path / "none.onnx"], "cpu-ort", times=2, seconds=0.05)
    with pytest.raises(TargetError, match="cannot be measured here"):
        repeat([tmp_path / "none.onnx"], "t4-trt", times=2, seconds=0.05)
