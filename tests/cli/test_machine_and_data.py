"""`jdnas doctor` and `jdnas data check`."""

import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.runtimes import RUNTIMES
from latency.targets import known


def test_doctor_prints_what_is_here_and_what_is_missing(jdnas, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ['nothing-at-all>=1; extra == "odd"', 'numpy>=1; extra == "even"', 'jdnas[odd]; extra == "dev"', "numpy>=1.26"]
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    answer = jdnas("doctor", "--json")
    assert answer.code == 0 and answer.err == ""
    found = json.loads(answer.out)
    assert found["extras"] == [
        {"extra": "odd", "installed": False, "packages": {"nothing-at-all": None}, "command": "pip install 'jdnas[odd]'"},
        {"extra": "even", "installed": True, "packages": {"numpy": np.__version__}, "command": "pip install 'jdnas[even]'"},
    ]
    runtimes = {row["runtime"]: row for row in found["runtimes"]}
    assert list(runtimes) == ["PyTorch", *RUNTIMES] and runtimes["PyTorch"]["version"] == metadata.version("torch")
    for name, row in runtimes.items():
        assert row["runs_here"] or (row["note"] and name != "ort-cpu"), row
    assert [row["target"] for row in found["targets"]] == list(known())
    assert found["memory_gib"]["total"] >= found["memory_gib"]["free"] > 0 and found["disk_gib"]["free"] >= 0
    assert found["cpu"]["physical_cores"] >= 1 and {row["name"] for row in found["compilers"]} >= {"nvcc", "Python.h"}
    shown = jdnas("doctor").out
    assert "pip install 'jdnas[odd]'" in shown and "nothing-at-all (missing)" in shown and "cpu-ort" in shown


def test_every_extra_of_the_package_is_listed() -> None:
    from jdnas.pipeline.doctor import extras

    named = set(metadata.metadata("jdnas").get_all("Provides-Extra") or []) - {"dev", "docs"}
    assert {row["extra"] for row in extras()} == named


def textured(root: Path) -> Path:
    for number, path in enumerate(sorted((root / "images").iterdir())):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    return root


def test_a_sound_set_passes(jdnas, coco) -> None:
    root = textured(coco(images=20))
    answer = jdnas("data", "check", root, "--out", "found", "--images", 6)
    assert answer.code == 0, answer.err
    assert "nothing odd" in answer.out and "thing1" in answer.out
    assert sorted(path.name for path in Path("found").iterdir()) == ["check.html", "check.json", "sheet.png"]
    with Image.open("found/sheet.png") as sheet:
        assert sheet.width == 6 * 306 - 6
    assert "data:image/jpeg" in Path("found/check.html").read_text()
    answer = jdnas("data", "check", root, "--json", "--out", "found")
    assert json.loads(answer.out) == json.loads(Path("found/check.json").read_text())
    assert jdnas("data", "check", root, "--quiet", "--out", "found").out == ""


def test_what_training_would_stumble_over_is_exit_code_1(jdnas, coco) -> None:
    root = textured(coco(ids=(1, 2), boxes=((4, 4, 20, 20), (0, 0, 0, 9)), images=20))
    answer = jdnas("data", "check", root, "--out", "found")
    assert answer.code == 1 and "boxes without width or height: 20" in answer.out
    assert json.loads(Path("found/check.json").read_text())["passed"] is False


def test_what_cannot_be_checked(jdnas, coco) -> None:
    assert "'nowhere' does not exist" in jdnas("data", "check", "nowhere").error
    Path("file").write_text("")
    assert "is a file" in jdnas("data", "check", textured(coco()), "--out", "file").error
    assert not Path("data-check").exists()


def test_names_are_not_markup(jdnas, coco) -> None:
    root = textured(coco(images=12))
    for split in ("train", "val"):
        path = root / "annotations" / f"{split}.json"
        path.write_text(path.read_text().replace('"thing1"', '"[red]<b>"'))
    answer = jdnas("data", "check", root, "--out", "found")
    assert answer.code == 0 and "[red]<b>" in answer.out
    assert "<b>" not in Path("found/check.html").read_text().split("<script>")[0]
