"""A base that is trained already is taken as it is."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jdnas.models.detector import build
from jdnas.training.checkpoint import load_detector, save_detector
from tests.pipeline.conftest import NANO, NanoRun, jdnas

pytestmark = pytest.mark.slow


def run(nano_run: NanoRun, folder: Path, weights: Path, *more: object) -> tuple[int, str, str]:
    given = ("--weights", weights, "--data", nano_run.folder / "shapes", "--target", "cpu-ort", "--preset", NANO, "--run-dir", folder)
    return jdnas("optimize", *given, "--trained", *more)


def test_the_whole_job_from_a_trained_base(nano_run: NanoRun, tmp_path: Path) -> None:
    weights = nano_run.folder / "base" / "base.safetensors"
    code, out, err = run(nano_run, tmp_path / "run", weights, "--trials", 1)
    assert code == 0, out + err
    assert f"Base detector resnet_basic: {weights}, as it is" in out
    spec, state, meta = load_detector(tmp_path / "run" / "base" / "base")
    given_spec, given, _ = load_detector(weights.with_suffix(""))
    assert spec == given_spec and meta["images"] == 0 and meta["curve"] == []
    assert state.keys() == given.keys() and all(torch.equal(state[name], given[name]) for name in given)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["base"]["ap"] == nano_run.summary["base"]["ap"]
    assert (tmp_path / "run" / "report.html").is_file()


def test_its_training_is_not_planned(nano_run: NanoRun, tmp_path: Path) -> None:
    code, out, err = run(nano_run, tmp_path / "run", nano_run.folder / "base" / "base.safetensors", "--plan", "--json")
    assert code == 0, err
    steps = {step["name"]: step for step in json.loads(out)["steps"]}
    assert steps["base"]["train_images"] == 0 and steps["teacher pool"]["train_images"] > 0
    assert not (tmp_path / "run").exists()


def test_weights_of_other_classes_are_refused(nano_run: NanoRun, tmp_path: Path) -> None:
    spec = load_detector(nano_run.folder / "base" / "base")[0]
    other = replace(spec, num_classes=5)
    save_detector(tmp_path / "other", other, build(other).state_dict(), {})
    code, _, err = run(nano_run, tmp_path / "run", tmp_path / "other.safetensors")
    assert code == 2 and err.startswith(f"error: {tmp_path / 'other.safetensors'} knows 5 classes; the data has 3 classes: circle")
    assert not (tmp_path / "run").exists()


def test_weights_of_classes_in_another_order_are_refused(nano_run: NanoRun, tmp_path: Path) -> None:
    spec, state, _ = load_detector(nano_run.folder / "base" / "base")
    save_detector(tmp_path / "other", spec, state, {"classes": ["triangle", "circle", "rectangle"]})
    code, _, err = run(nano_run, tmp_path / "run", tmp_path / "other.safetensors")
    assert code == 2 and "knows triangle, circle, rectangle; the data has 3 classes: circle, rectangle, triangle; leave" in err


def test_what_is_not_as_it_was_trained_is_said(nano_run: NanoRun, tmp_path: Path) -> None:
    spec, state, _ = load_detector(nano_run.folder / "base" / "base")
    wider = replace(spec, head=replace(spec.head, proposals=77))
    save_detector(tmp_path / "mine", wider, state, {"size_hw": [64, 96]})
    code, out, err = run(nano_run, tmp_path / "run", tmp_path / "mine.safetensors", "--trials", 0)
    assert code == 0, out + err
    said = " ".join(out.split())
    assert "not as it was trained: proposals 77 in the file, 16 here (model.proposals)" in said
    assert "not as it was trained: input 96x64 in the file, 96x96 here (data_settings.long_sides)" in said


def test_the_synthetic_set_is_not_made_for_weights_of_other_classes(nano_run: NanoRun, tmp_path: Path) -> None:
    spec = load_detector(nano_run.folder / "base" / "base")[0]
    other = replace(spec, num_classes=5)
    save_detector(tmp_path / "other", other, build(other).state_dict(), {})
    given = ("--weights", tmp_path / "other.safetensors", "--trained", "--data", "shapes", "--preset", NANO)
    code, _, err = jdnas("optimize", *given, "--run-dir", tmp_path / "run")
    assert code == 2 and "knows 5 classes; the data has 3 classes" in err and not (tmp_path / "run").exists()


def test_a_run_goes_on_without_the_file_that_its_base_came_from(nano_run: NanoRun, tmp_path: Path) -> None:
    spec, state, meta = load_detector(nano_run.folder / "base" / "base")
    save_detector(tmp_path / "mine", spec, state, meta)
    assert run(nano_run, tmp_path / "run", tmp_path / "mine.safetensors", "--trials", 0)[0] == 0
    (tmp_path / "mine.safetensors").unlink(), (tmp_path / "mine.json").unlink()
    code, out, err = run(nano_run, tmp_path / "run", tmp_path / "mine.safetensors", "--trials", 1, "--resume")
    assert code == 0, out + err


def test_a_backbone_is_refused(nano_run: NanoRun, tmp_path: Path) -> None:
    spec, state, _ = load_detector(nano_run.folder / "base" / "base")
    save_detector(tmp_path / "backbone", spec, state, {"fresh": [name for name in state if name.startswith("fpn.")]})
    code, _, err = run(nano_run, tmp_path / "run", tmp_path / "backbone.safetensors")
    assert code == 2 and "holds a backbone without detection heads; leave --trained" in err


def test_without_weights_it_is_refused(tmp_path: Path) -> None:
    code, _, err = jdnas("optimize", "--base", "r18", "--data", "shapes", "--preset", NANO, "--run-dir", tmp_path / "run", "--trained")
    assert code == 2 and "takes the base from a file of trained weights; name it with --weights" in err
    assert not (tmp_path / "run").exists()
