import time
from types import SimpleNamespace

import pytest

from jdnas.errors import TargetError
from latency import alternatives
from latency.alternatives import time_alternatives
from latency.targets import load_target

CPU = load_target("cpu-ort")


def test_engines_are_closed_where_a_later_one_cannot_be_opened(monkeypatch, tmp_path):
    closed = []

    def open_engine(path, target):
        if path.name == "broken":
            raise TargetError("broken")
        return SimpleNamespace(call=lambda: time.sleep(0.002), close=lambda: closed.append(path.name))

    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(alternatives, "open_engine", open_engine)
    with pytest.raises(TargetError, match="broken"):
        time_alternatives([tmp_path / "a", tmp_path / "broken"], CPU, seconds=0.01)
    assert closed == ["a"]
    assert len(time_alternatives([tmp_path / "b", tmp_path / "c"], CPU, seconds=0.01)) == 2
    assert closed == ["a", "c", "b"]
