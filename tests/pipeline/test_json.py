"""`--json` of the commands that train: the result alone on stdout, progress on stderr."""

import json
from pathlib import Path

import pytest

from tests.pipeline.conftest import NANO, NanoRun, jdnas

pytestmark = pytest.mark.slow


def test_train(tmp_path: Path) -> None:
    code, out, err = jdnas("train", "--preset", NANO, "--run-dir", tmp_path / "run", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["base"] == json.loads((tmp_path / "run" / "base" / "base.json").read_text())["meta"]["metrics"]
    assert (found["pool"], found["search"], found["summary"]) == (None, None, None) and "base AP" in err


def test_optimize_and_status(nano_run: NanoRun) -> None:
    code, out, err = jdnas(*nano_run.arguments, "--resume", "--json")
    assert code == 0, err
    assert json.loads(out) == nano_run.summary and "Base detector: done before" in err
    code, out, err = jdnas("search", "status", nano_run.folder, "--json")
    found = json.loads(out)
    assert (found["done"], found["trials"]) == (3, 3) and found["best"][0]["score"] >= found["best"][-1]["score"]
    assert {row["number"] for row in found["best"]} <= {0, 1, 2, 3}


def test_export_and_predict(nano_run: NanoRun, tmp_path: Path) -> None:
    weights = nano_run.student.with_suffix(".safetensors")
    code, out, err = jdnas("export", weights, "--out", tmp_path / "s.onnx", "--json")
    assert code == 0 and json.loads(out)["out"] == str(tmp_path / "s.onnx"), err
    code, out, err = jdnas("predict", weights, nano_run.folder / "shapes" / "images", "--out", tmp_path / "found", "--json")
    assert code == 0 and json.loads(out)["images"] == 18, err
