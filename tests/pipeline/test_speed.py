"""Targets that this machine is not: the whole job runs, and every figure says what it is."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from jdnas.config import RunConfig
from jdnas.errors import TargetError
from jdnas.models.complexity import multiply_adds
from jdnas.pipeline.speed import check_target, checking_runtime, cost_name, foreign_table, make_cost, speeds, unmeasured_note
from jdnas.presets import preset
from latency.benchmark import Sweep
from latency.here import Standing
from latency.tables import load_table
from latency.targets import load_target

from .conftest import NANO, jdnas

LABEL = "third-party prior"


@pytest.fixture(autouse=True)
def _no_tables_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JDNAS_LATENCY_DIR", str(tmp_path / "tables"))


def test_cost_and_its_name() -> None:
    spec = preset("r18", 3)
    counted = RunConfig(target="v100-trt", cost="multiply_adds")
    assert make_cost(counted)(spec, (64, 64)) == multiply_adds(spec, (64, 64))
    names = [cost_name(config) for config in (counted, RunConfig(target="v100-trt"), RunConfig(target="cpu-ort"))]
    assert names == ["multiply_adds", f"latency_ms, {LABEL}", "latency_ms"]
    assert 0.1 < make_cost(RunConfig(target="v100-trt"))(spec, (64, 64)) < 10


def test_a_table_of_another_processor_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jdnas.pipeline.speed.cpu_model", lambda: "Some CPU")
    assert "this machine has Some CPU" in (note := foreign_table(RunConfig(target="cpu-ort")))
    assert note.endswith("measure this machine with: jdnas latency measure --target cpu-ort --base r18")
    own = load_table(load_target("cpu-ort")).provenance["cpu"]
    monkeypatch.setattr("jdnas.pipeline.speed.cpu_model", lambda: own)
    assert foreign_table(RunConfig(target="cpu-ort")) == ""
    assert foreign_table(RunConfig(target="cpu-ort", cost="multiply_adds")) == foreign_table(RunConfig(target="v100-trt")) == ""


def test_files_for_other_devices_are_checked_on_the_cpu() -> None:
    assert checking_runtime(load_target("v100-trt")) == "ort-cpu"
    assert checking_runtime(load_target("cpu-ort")) == "ort-cpu"
    check_target(RunConfig(target="v100-trt"))
    with pytest.raises(TargetError, match="target 't4-trt' has no latency table; on a machine with NVIDIA T4"):
        check_target(RunConfig(target="t4-trt", cost="multiply_adds"))


def test_a_runtime_that_reads_no_onnx_is_timed_from_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("jdnas.pipeline.speed.standing", lambda target: Standing(True))
    monkeypatch.setattr(
        "jdnas.pipeline.speed.benchmark", lambda paths, target, *, sweep, **_: asked.append((paths, sweep)) or SimpleNamespace(to_dict=dict)
    )
    assert checking_runtime(load_target("cpu-aoti")) == "ort-cpu" and checking_runtime(load_target("cpu-openvino")) == "openvino"
    for target in ("cpu-aoti", "cpu-openvino"):
        speeds(SimpleNamespace(config=RunConfig(target=target)), [(Path("a.onnx"), preset("r18", 3), (64, 96))])
    (weights, compiled), (files, plain) = asked
    assert weights == [Path("a.safetensors")] and compiled == Sweep(in_torch=False, as_engine=True)
    assert files == [Path("a.onnx")] and plain == Sweep()


def test_predicted_rows_stand_where_measured_ones_would() -> None:
    config, spec = RunConfig(target="v100-trt"), preset("r18", 3)
    report = speeds(SimpleNamespace(config=config), [(Path("a.onnx"), spec, (64, 96))])
    latency_ms = make_cost(config)(spec, (64, 96))
    (row,) = report["rows"]
    assert (report["label"], row["label"], row["median_ms"], row["p5_ms"], row["repeats"]) == (LABEL, LABEL, latency_ms, None, 0)
    assert row["fps"] == pytest.approx(1000 / latency_ms)
    assert report["provenance"]["lineage"]["licence"] == "Apache-2.0"
    assert "built for NVIDIA V100: nothing here; measured on it: nothing here" in report["note"]
    assert "trtexec --onnx=student.onnx --fp16" in report["note"]


@pytest.mark.parametrize(
    ("name", "command"),
    [("rtx4090-trt-rtx", "jdnas export student.onnx --out student.engine --runtime tensorrt-rtx"),
     ("h100-aoti", "jdnas export student.safetensors --out student.pt2 --runtime aoti --precision "),
     ("h100-ort", "ort-cuda loads student.onnx itself; measure: jdnas latency benchmark --engine student.onnx --target h100-ort")],
)  # fmt: skip
def test_each_runtime_has_a_command_for_the_device(name: str, command: str) -> None:
    assert f"(no GPU). On the device: {command}" in unmeasured_note(load_target(name), "no GPU")


@pytest.mark.slow
def test_the_whole_job_for_a_device_that_is_not_here(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = ("--base", "r18", "--target", "v100-trt", "--data", "shapes", "--preset", NANO, "--run-dir", folder)
    code, out, err = jdnas("optimize", *arguments, "--set", "cost=latency", "--trials", 1)
    assert code == 0, err
    words = " ".join(out.split())
    assert f"cost of the search: latency ms, {LABEL}; built for NVIDIA V100: nothing here" in words
    assert f"latency and FPS: {LABEL}, measured on nothing here" in words
    summary = json.loads((folder / "summary.json").read_text())
    for role in ("base", "control", "student"):
        assert (summary[role]["latency_label"], summary[role]["latency_spread_ms"]) == (LABEL, None)
        assert summary[role]["latency_ms"] > 0
    assert (summary["target"]["name"], summary["target"]["label"]) == ("v100-trt", LABEL)
    assert "Apache-2.0" in json.dumps(summary["target"]["provenance"])
    parity = summary["student"]["parity"]
    assert parity["passed"] and parity["runtime"] == "ort-cpu"
    html = (folder / "report.html").read_text()
    tiles = re.findall(r"<h3>(\w+)</h3>(.*?)</article>", html, re.S)
    assert [name for name, text in tiles if f"{LABEL}, not measured" in text] == ["Latency", "FPS"]
    assert f"latency (ms), {LABEL}" in html
    assert "measured on nothing here" in html and "trtexec" in html
    assert json.loads((folder / "report_data.json").read_text())["cost_name"] == f"latency_ms, {LABEL}"
    code, out, _ = jdnas("search", "status", folder)
    assert code == 0 and "third-party" in out
