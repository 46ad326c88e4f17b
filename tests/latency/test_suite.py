import json

import onnxruntime
import pytest
from rich.console import Console

from jdnas.errors import ConfigError, TargetError
from jdnas.models.complexity import multiply_adds
from jdnas.presets import preset
from latency import suite
from latency.suite import PAPER, members, run_suite, scaled_to


def test_bases_have_the_papers_complexity():
    for row, spec in members():
        if not row.searched:  # the paper's figure of X101 fits an input of 1280x800
            size_hw = (800, 1280) if row.base.startswith("x101") else row.size_hw
            assert multiply_adds(spec, size_hw) / 1e9 == pytest.approx(row.gmac, rel=0.01)


def test_students_have_the_searched_complexity():
    students = [(row, spec) for row, spec in members() if row.searched]
    assert {row.base for row, _ in students} == {"r18", "r50", "r101", "x101_32x4d"}
    for row, spec in students:
        assert multiply_adds(spec, row.size_hw) / 1e9 == pytest.approx(row.gmac, rel=0.01)
        assert spec.depths == preset(row.base, 80).depths
    assert [row.canvas_hw for row in PAPER[:1] + PAPER[4:5]] == [(800, 1344), (736, 1088)]


def test_scaling_reaches_what_width_steps_allow():
    base = preset("r50", 80)
    full = multiply_adds(base, (320, 320)) / 1e9
    assert scaled_to(base, (320, 320), full) == base


def test_predicted_where_the_device_is_not_here(capsys):
    found = run_suite("v100-trt", seconds=1, folder=None, json_path=None, console=Console(width=132))
    shown = capsys.readouterr().out
    assert "third-party prior" in shown and found["label"] == "third-party prior"
    models = found["models"]
    assert models["x101_32x4d"]["engine_ms"] is None and "no convolutions of kind 'grouped" in models["x101_32x4d"]["why"]
    assert models["r50"]["torch_ms"] is None
    assert models["r18"]["engine_ms"] < models["r50"]["engine_ms"] < models["r101"]["engine_ms"]
    line = next(line for line in shown.splitlines() if line.split()[:1] == ["r101"])
    assert f"{models['r101']['engine_ms'] / models['r50']['engine_ms']:.3f}" in line
    assert line.split()[-2:] == ["15.9", "1.289"]


def test_measured_suite_goes_on_where_it_stopped(monkeypatch, tmp_path, capsys):
    asked = []

    def measured(row, spec, target, seconds, folder):
        asked.append(row.name)
        return {"torch_ms": 2.0 * row.gmac, "engine_ms": row.gmac}

    monkeypatch.setattr(suite, "_measured", measured)
    path = tmp_path / "suite.json"
    run_suite("cpu-ort", seconds=1, folder=None, json_path=path, console=Console(width=132))
    names = [row.name for row, _ in members()]
    assert asked == names
    kept = json.loads(path.read_text())
    assert all(one["provenance"]["runtime_version"] == onnxruntime.__version__ for one in kept["models"].values())
    del kept["models"]["r101"]
    path.write_text(json.dumps(kept))
    run_suite("cpu-ort", seconds=1, folder=None, json_path=path, console=Console(width=132))
    assert asked == [*names, "r101"]
    assert f"{295.7 / 215.8:.3f}" in capsys.readouterr().out


def test_a_suite_that_another_machine_began_is_not_continued(tmp_path):
    path = tmp_path / "suite.json"
    one = {"engine_ms": 1.0, "torch_ms": 2.0, "provenance": {"cpu": "another"}}
    path.write_text(json.dumps({"suite": "paper", "target": "cpu-ort", "label": suite.MEASURED_LABEL, "models": {"r18": one}}))
    with pytest.raises(TargetError, match="the suite in .*suite.json was measured with cpu 'another', here it is"):
        run_suite("cpu-ort", seconds=1, folder=None, json_path=path, console=Console())


def test_file_of_something_else(tmp_path):
    path = tmp_path / "other.json"
    label = "third-party prior"
    measured = json.dumps({"suite": "paper", "target": "v100-trt", "label": "measured", "models": {}})
    for text in ("{}", "{", "[]", measured):
        path.write_text(text)
        with pytest.raises(ConfigError, match=f"other.json holds something else than the paper suite on v100-trt, {label}; give another"):
            run_suite("v100-trt", seconds=1, folder=None, json_path=path, console=Console())
