import json
from pathlib import Path

import pytest

NANO = Path(__file__).parents[1] / "pipeline" / "nano.yaml"
RUN = "run"


@pytest.fixture
def refused(jdnas):
    """Call `jdnas optimize` with wrong input and return its line; nothing may have been written."""

    def call(*arguments: object) -> str:
        line = jdnas("optimize", "--preset", NANO, "--run-dir", RUN, *arguments).error
        assert not Path(RUN).exists()
        return line

    return call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--base", "r17"], ["unknown base 'r17'", "r18", "jdnas bases"]),
        (["--target", "toaster"], ["unknown target 'toaster'", "cpu-ort"]),
        (["--target", "toaster.yaml"], ["toaster.yaml does not exist"]),
        (["--data", "nowhere"], ["'nowhere' does not exist", "--data shapes"]),
        (["--preset", "fast"], ["unknown preset 'fast'", "quick"]),
        (["--preset", "fast.yaml"], ["fast.yaml"]),
        (["--weights", "none.safetensors"], ["no such file", "none.json"]),
        (["--device", "tpu"], ["device", "'cpu'", "'tpu'"]),
        (["--set", "search.trials"], ["KEY=VALUE", "'search.trials'"]),
        (["--set", "=3"], ["KEY=VALUE"]),
        (["--set", "search.trials=[1"], ["search.trials=[1", "not valid YAML"]),
        (["--set", "search.trials=many"], ["search.trials", "integer", "'many'"]),
        (["--set", "search.trails=3"], ["search.trails: unknown setting", "trials, patience"]),
        (["--set", "data_settings.long_sides=[]"], ["data_settings.long_sides"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].startswith("--") else "",
)
def test_wrong_options(refused, arguments: list[str], words: list[str]) -> None:
    line = refused(*arguments)
    for word in words:
        assert word in line


def test_unknown_key_in_the_preset(refused) -> None:
    Path("my.yaml").write_text(NANO.read_text() + "serach: {trials: 3}\n")
    line = refused("--preset", "my.yaml")
    assert "serach: unknown setting" in line and "my.yaml" in line and "search" in line


def test_unknown_key_in_a_list_of_sections(refused) -> None:
    Path("my.yaml").write_text("pool: {phases: [{epoch: 3}]}\n")
    line = refused("--preset", "my.yaml")
    assert "pool.phases.0.epoch: unknown setting; known here: epochs" in line


def test_annotations_without_images(refused, coco) -> None:
    root = coco()
    for image in (root / "images").iterdir():
        image.unlink()
    assert "none of the 2 images" in refused("--data", root)


def test_empty_validation_set(refused, coco) -> None:
    root = coco()
    path = root / "annotations" / "val.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing1"}, {"id": 2, "name": "thing2"}]}))
    line = refused("--data", root)
    assert "val.json" in line and "lists no images" in line


def test_images_without_boxes(refused, coco) -> None:
    root = coco(boxes=())
    assert "no usable box" in refused("--data", root)


def test_splits_that_disagree(refused, coco) -> None:
    root = coco()
    path = root / "annotations" / "val.json"
    document = json.loads(path.read_text())
    document["categories"][1]["name"] = "other"
    path.write_text(json.dumps(document))
    assert "'thing2' in train and 'other' in val" in refused("--data", root)


def test_annotations_that_are_no_json(refused, coco) -> None:
    root = coco()
    (root / "annotations" / "train.json").write_text("{")
    assert "train.json" in refused("--data", root)


def test_run_dir_in_use(jdnas) -> None:
    Path(RUN).mkdir()
    (Path(RUN) / "thesis.tex").write_text("")
    assert "is not empty and holds no run" in jdnas("optimize", "--preset", NANO, "--run-dir", RUN).error
    assert [path.name for path in Path(RUN).iterdir()] == ["thesis.tex"]


def test_run_dir_is_a_file(jdnas) -> None:
    Path(RUN).write_text("")
    assert "is a file" in jdnas("optimize", "--preset", NANO, "--run-dir", RUN).error


def test_run_dir_that_cannot_be_made(jdnas) -> None:
    Path("file").write_text("")
    assert "Not a directory: file/run" in jdnas("optimize", "--preset", NANO, "--run-dir", "file/run").error


@pytest.mark.parametrize("size", ["800", "800,600", "0x64", "64x64x3", "-64x64", "ax64"])
def test_bad_size(jdnas, size: str) -> None:
    assert "WIDTHxHEIGHT" in jdnas("complexity", "r18", "--size", size).error


def test_spec_files(jdnas) -> None:
    Path("spec.json").write_text("{}")
    assert "spec version None" in jdnas("complexity", "spec.json").error
    Path("spec.json").write_text("[")
    assert "not valid JSON" in jdnas("complexity", "spec.json").error
    assert "no such file" in jdnas("complexity", "none.json").error


def test_missing_runs(jdnas) -> None:
    assert "no search study" in jdnas("search", "status", "none").error
    assert "no summary.json in none" in jdnas("report", "none").error
    assert not Path("none").exists()


def test_missing_models(jdnas, coco) -> None:
    root = coco()
    for model, missing in (("none.onnx", "none.onnx does not exist"), ("none.safetensors", "no such file: none.json")):
        assert missing in jdnas("predict", model, root / "images", "--out", "found").error
        assert missing in jdnas("eval", model, "--data", root).error
    assert "none.onnx is an engine" in jdnas("export", "none.onnx", "--out", "other.onnx").error
    assert "no such weight file: none.pth" in jdnas("predict", "none.pth", root / "images").error
    assert not Path("found").exists()


def test_nothing_to_predict(jdnas) -> None:
    Path("empty").mkdir()
    assert "no images in empty" in jdnas("predict", "model.onnx", "empty").error
    assert "no such image, video or folder: nowhere" in jdnas("predict", "model.onnx", "nowhere").error


def test_unknown_command_and_option(jdnas) -> None:
    for arguments in (["optimise"], ["optimize", "--bse", "r18"], ["latency", "benchmark"], ["predict", "m.onnx", "x", "--score", "2"]):
        answer = jdnas(*arguments)
        assert answer.code == 2 and answer.err and "Traceback" not in answer.err


def test_full_disk(jdnas, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "run/base/base.safetensors")

    monkeypatch.setattr("jdnas.pipeline.optimize.optimize", full)
    answer = jdnas("optimize", "--run-dir", RUN)
    assert answer.code == 1 and answer.err == (
        "error: no space left on the device for run/base/base.safetensors; nothing that was finished is lost. Make room and continue with: "
        f"jdnas optimize --run-dir {RUN} --resume\n"
    )


def test_interrupt(jdnas, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jdnas.pipeline.optimize.optimize", stopped)
    answer = jdnas("optimize", "--run-dir", RUN, "--seed", 3)
    assert answer.code == 130 and answer.err.endswith("jdnas optimize --run-dir run --seed 3 --resume\n")


@pytest.mark.parametrize(
    ("work", "command"),
    [
        ("evaluate_pool", ("teacher", "eval", "--run-dir", RUN)),
        ("api.prune", ("prune", "--weights", "a.safetensors", "--data", "shapes")),
        ("reproduce_paper", ("reproduce", "table1")),
        ("measure_latency", ("latency", "measure", "--budget", "5m")),
        ("validate_latency", ("latency", "validate", "--count", "9")),
    ],
)
def test_commands_without_resume_go_on_as_they_are(jdnas, monkeypatch: pytest.MonkeyPatch, work: str, command: tuple[object, ...]) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"jdnas.{work}", stopped)
    answer = jdnas(*command)
    said = f"Continue with: jdnas {' '.join(map(str, command))}\n"
    assert answer.code == 130 and answer.err == f"\nstopped; nothing that was finished is lost. {said}"
