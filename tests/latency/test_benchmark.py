import json
import subprocess
import sys
from pathlib import Path

import pytest

from jdnas.errors import InputError
from latency.benchmark import benchmark, main

SCRIPT = Path(__file__).resolve().parents[2] / "latency" / "benchmark.py"


@pytest.fixture(autouse=True)
def _own_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))


def test_rows(fake_engine):
    report = benchmark([fake_engine, fake_engine], "cpu-ort", seconds=0.05)
    assert len(report.rows) == 2
    for row in report.rows:
        assert (row.size_hw, row.batch) == ((32, 64), 1)
        assert 0 < row.p5_ms <= row.median_ms <= row.p95_ms
        assert row.fps == pytest.approx(1000 / row.median_ms)
        assert row.repeats >= 5
        assert 20 < row.peak_rss_mib < 1000
    assert report.provenance["threads"] >= 1


def test_prints_a_table_and_writes_json(fake_engine, tmp_path, capsys):
    out = tmp_path / "report.json"
    assert main(["--engine", str(fake_engine), "--target", "cpu-ort", "--seconds", "0.05", "--json", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "FPS" in shown
    assert "32x64" in shown
    data = json.loads(out.read_text())
    assert data["target"]["name"] == "cpu-ort"
    assert data["rows"][0]["median_ms"] > 0


def test_runs_as_a_script_from_anywhere(fake_engine, tmp_path):
    command = [sys.executable, str(SCRIPT), "--engine", str(fake_engine), "--target", "cpu-ort", "--seconds", "0.05"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "median ms" in done.stdout


@pytest.mark.parametrize(
    ("engine", "target", "message"),
    [("none.onnx", "cpu-ort", "does not exist"), ("bad.onnx", "cpu-ort", "cannot load"), (None, "cpu", "unknown target 'cpu'"),
     (None, "t4-trt", "runtime 'tensorrt'")],
)  # fmt: skip
def test_wrong_input_is_one_line_and_status_2(fake_engine, tmp_path, capsys, engine, target, message):
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    path = tmp_path / engine if engine else fake_engine
    assert main(["--engine", str(path), "--target", target, "--seconds", "0.05"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_artifact_of_another_batch(fake_engine, tmp_path):
    target = tmp_path / "four.yaml"
    target.write_text("name: four\ndevice: cpu\nruntime: ort-cpu\nbatch: 4\n")
    with pytest.raises(InputError, match="has batch 1 and fp32; target 'four' asks for batch 4"):
        benchmark([fake_engine], target, seconds=0.05)


def test_no_time(fake_engine):
    with pytest.raises(InputError, match="must be positive"):
        benchmark([fake_engine], "cpu-ort", seconds=0)
