import json
import shutil
import time
from pathlib import Path

import onnx
import pytest

from export.runners import open_runner
from jdnas.pipeline.optimize import pick_student
from jdnas.training.checkpoint import load_detector
from tests.pipeline.conftest import NanoRun, jdnas

pytestmark = pytest.mark.slow
TIMED = {"latency_ms", "fps", "latency_spread_ms", "target", "finished", "command", "seconds"}
FIGURES = {"ap", "ap50", "latency_ms", "flops_g", "params_m", "size_hw"}


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMED}
    return value


def test_summary_has_the_documented_keys(nano_run: NanoRun) -> None:
    summary = nano_run.summary
    assert summary["base"].keys() >= FIGURES
    assert summary["student"].keys() >= FIGURES | {"artifact", "parity"}
    assert summary["control"].keys() >= FIGURES | {"extra_images"}
    assert summary["search"].keys() >= {"evaluated", "accepted", "seconds"}
    assert summary["target"]["name"] == "cpu-ort" and summary["seed"] == 0
    for role in ("base", "control", "student"):
        figures = summary[role]
        assert 0 <= figures["ap"] <= figures["ap50"] <= 1
        assert figures["latency_ms"] > 0 and figures["fps"] == pytest.approx(1000 / figures["latency_ms"], rel=0.5)
        assert figures["flops_g"] > 0 and figures["params_m"] > 0 and figures["size_hw"] in ([64, 64], [96, 96])
    assert summary["search"]["evaluated"] == 3


def test_every_detector_of_a_run_says_its_classes_and_input_size(nano_run: NanoRun) -> None:
    files = [path for path in nano_run.folder.rglob("*.safetensors") if path.with_suffix(".json").is_file() and path.parent.name != "pool"]
    assert {path.relative_to(nano_run.folder).parts[0] for path in files} >= {"base", "candidates", "student"}
    for path in files:
        meta = load_detector(path.with_suffix(""))[2]
        assert len(meta["classes"]) == 3 and meta["size_hw"] in ([64, 64], [96, 96]), path


def test_products(nano_run: NanoRun) -> None:
    summary, folder = nano_run.summary, nano_run.folder
    assert summary["student"]["parity"]["passed"] is True
    artifact = folder / summary["student"]["artifact"]
    assert artifact == nano_run.student.with_suffix(".onnx")
    model = onnx.load(artifact)
    onnx.checker.check_model(model)
    height, width = summary["student"]["size_hw"]
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, height, width]
    spec, _, meta = load_detector(nano_run.student)
    assert spec.to_dict() == summary["student"]["spec"] and meta["classes"] == ["circle", "rectangle", "triangle"]
    report = (folder / "report.html").read_text()
    assert "<html" in report and report.count("data:image/jpeg;base64") >= 1
    left_over = [path.name for path in folder.rglob("*") if any(part in path.name for part in (".partial", ".tmp", "unchecked"))]
    assert left_over == []


def test_what_it_says(nano_run: NanoRun) -> None:
    said = " ".join(nano_run.out.split())
    assert "12 training and 6 validation images, 3 classes; resolutions (width x height): 64x64, 96x96; device cpu" in said
    assert "plan: base 12 images" in said and "ETA" in said
    assert "estimate for cpu: about " in said and "measured now on cpu at 96x96" in said
    assert "candidate 3" in said and "control AP" in said and "report.html" in said and "Result" in said


def test_resuming_a_finished_run_repeats_nothing(nano_run: NanoRun) -> None:
    before = nano_run.summary
    files = {path: path.read_bytes() for path in nano_run.folder.rglob("*.safetensors")}
    times = {path: path.stat().st_mtime_ns for path in [*nano_run.folder.rglob("*.onnx"), *nano_run.folder.glob("candidates/*/*")]}
    assert len(files) >= 6 and times
    started = time.monotonic()
    code, out, err = jdnas(*nano_run.arguments, "--resume")
    assert code == 0, out + err
    assert time.monotonic() - started < 30
    assert "Base detector: done before" in out and "Teacher pool: done before" in out and "candidate   1" not in out
    assert without_times(nano_run.summary) == without_times(before)
    assert {path: path.read_bytes() for path in files} == files
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_run_in_use_is_refused(nano_run: NanoRun) -> None:
    before = nano_run.summary
    code, _, err = jdnas(*nano_run.arguments)
    assert code == 2 and "holds a run already; continue it with --resume" in err
    code, _, err = jdnas(*nano_run.arguments, "--resume", "--seed", 1)
    assert code == 2 and "was begun with seed=0 (now 1)" in err
    assert nano_run.summary == before


def test_report_and_status_of_the_run(nano_run: NanoRun) -> None:
    (nano_run.folder / "report.html").unlink()
    assert jdnas("report", nano_run.folder)[0] == 0
    assert (nano_run.folder / "report.html").exists()
    code, out, _ = jdnas("search", "status", nano_run.folder)
    assert code == 0 and "3 of 3 candidates" in out


def test_the_student_is_cheaper_and_better_where_one_is(nano_run: NanoRun) -> None:
    from jdnas.search.study import SearchStudy

    with SearchStudy.load(f"sqlite:///{nano_run.folder / 'study.db'}") as study:
        history = study.history
    trial = nano_run.summary["student"]["trial"]
    ratio = json.loads(json.dumps(nano_run.summary["settings"]))["student"]["max_cost_ratio"]
    assert pick_student(history, ratio).number == trial
    better = [t for t in history.complete if t.number and t.cost <= ratio * history[0].cost and t.score > history[0].score]
    assert history[trial].score == max((t.score for t in better), default=history.best().score)
    assert pick_student(history, 1e-9).number == history.best().number


def test_a_finished_run_gets_other_artifacts(nano_run: NanoRun, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(nano_run.folder, folder)
    changed = ["export.precision=int8", "export.input=uint8", "export.calibration_images=4", "export.max_delta_ap_int8=1"]
    options = [word for setting in changed for word in ("--set", setting)]
    code, out, err = jdnas(*nano_run.arguments[:-1], folder, "--resume", *options)
    assert code == 0, out + err
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["base"]["precision"], summary["student"]["precision"]) == ("fp32", "int8")
    (row,) = summary["student"]["precisions"]
    assert row["passed"] and row["chosen"] and summary["student"]["parity"]["ap"] == row["ap"]
    with open_runner(folder / "student" / "student.onnx", threads=1) as runner:
        assert (runner.metadata.precision, runner.metadata.input) == ("int8", "uint8")
    assert "Precisions of the student" in out and "int8:" in out
