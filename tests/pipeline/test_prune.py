"""`jdnas prune` on the nano run's base."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from jdnas.models.complexity import multiply_adds
from jdnas.pipeline import prune as module
from jdnas.training.checkpoint import load_detector
from tests.pipeline.conftest import NANO, NanoRun, jdnas

pytestmark = pytest.mark.slow


def _arguments(run: NanoRun, out: Path) -> tuple[object, ...]:
    base = run.folder / "base" / "base.safetensors"
    return ("prune", "--weights", base, "--data", run.folder / "shapes", "--preset", NANO, "--out", out, "--size", "96x96", "--ratio", 0.3)


def test_a_pruned_detector_is_written_with_its_figures(nano_run: NanoRun, tmp_path: Path) -> None:
    out = tmp_path / "new" / "small.safetensors"
    code, printed, err = jdnas(*_arguments(nano_run, out), "--finetune-epochs", 1)
    assert code == 0, err
    assert "multiply-adds" in printed and "of fine-tuning" in printed and "Stage 2: " in printed, printed
    base = load_detector(nano_run.folder / "base" / "base")[0]
    spec, _, meta = load_detector(out.with_suffix(""))
    report = meta["pruning"]
    assert report["images"] == 12 and report["action"]["ratio"] == 0.3 and report["size_hw"] == [96, 96]
    assert report["base"]["flops_g"] == pytest.approx(multiply_adds(base, (96, 96)) / 1e9, abs=1e-4)
    assert report["finetuned"]["flops_g"] == pytest.approx(multiply_adds(spec, (96, 96)) / 1e9, abs=1e-4)
    assert multiply_adds(spec, (96, 96)) < multiply_adds(base, (96, 96))
    assert not list(out.parent.glob("*.partial*"))
    code, printed, err = jdnas("eval", out, "--data", nano_run.folder / "shapes")
    assert code == 0, err
    assert json.loads(printed)["ap"] == pytest.approx(meta["metrics"]["ap"], abs=1e-6)


def test_an_interrupted_pruning_goes_on(nano_run: NanoRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    arguments = _arguments(nano_run, out)
    assert jdnas(*_arguments(nano_run, whole), "--finetune-epochs", 1.4)[0] == 0
    train, seen = module.train_detector, []

    def watched(*args, on_step, last=99, **kwargs):
        def watch(step, loss):
            seen.append(step)
            if step == last:
                raise RuntimeError("the power went")

        return train(*args, on_step=watch, **kwargs)

    monkeypatch.setattr(module, "train_detector", partial(watched, last=3))
    with pytest.raises(RuntimeError, match="the power went"):
        jdnas(*arguments, "--finetune-epochs", 1.4)
    assert not out.exists()
    monkeypatch.setattr(module, "train_detector", watched)
    assert jdnas(*arguments, "--finetune-epochs", 1.4)[0] == 0
    assert seen == [1, 2, 3, 3, 4]
    assert out.read_bytes() == whole.read_bytes()


def test_heads_are_pruned_by_name_and_without_training(nano_run: NanoRun, tmp_path: Path) -> None:
    out = tmp_path / "head.safetensors"
    code, printed, err = jdnas(*_arguments(nano_run, out), "--kind", "prune_box_head", "--finetune-epochs", 0)
    assert code == 0, err
    spec, _, meta = load_detector(out.with_suffix(""))
    assert spec.head.width == 12 and "Box head width: 16 → 12." in printed
    assert meta["pruning"]["pruned"] == meta["pruning"]["finetuned"]


def test_a_name_with_a_dot_leaves_the_input_as_it_was(nano_run: NanoRun) -> None:
    base, out = nano_run.folder / "base" / "base.safetensors", nano_run.folder / "base" / "base.pruned.safetensors"
    before = base.read_bytes()
    assert jdnas(*_arguments(nano_run, out), "--finetune-epochs", 0)[0] == 0
    assert base.read_bytes() == before and load_detector(base.with_suffix(""))[2].get("pruning") is None
    assert load_detector(out.with_suffix(""))[2]["pruning"]["epochs"] == 0


def test_other_classes_are_refused(nano_run: NanoRun, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(nano_run.folder / "shapes", data)
    for split in ("train", "val"):
        path = data / "annotations" / f"{split}.json"
        text = json.loads(path.read_text())
        text["categories"] = [{**c, "name": "fish"} if c["name"] == "circle" else c for c in text["categories"]]
        path.write_text(json.dumps(text))
    student = nano_run.student.with_suffix(".safetensors")
    out = tmp_path / "x.safetensors"
    code, _, err = jdnas("prune", "--weights", student, "--data", data, "--preset", NANO, "--out", out)
    assert code == 2 and "knows circle" in err and "give the data set that it was trained on" in err
    assert not out.exists()
