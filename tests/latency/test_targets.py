import pytest

from jdnas.errors import TargetError
from latency.sources import knowledge
from latency.tables import load_table
from latency.targets import known, load_target


def test_known_targets_load():
    assert {"cpu-ort", "h100-ort", "h100-aoti", "v100-trt", "t4-trt", "a10-trt", "rtx4090-trt-rtx", "jetson-orin-trt"} <= set(known())
    assert all(load_target(name).name == name for name in known())


def test_unknown_target():
    with pytest.raises(TargetError, match="unknown target 'v100'; known: .*cpu-ort.*v100-trt"):
        load_target("v100")


def test_own_target_by_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: my-box\ndevice: my box\nruntime: ort-cpu\nthreads: 2\n")
    target = load_target(path)
    assert (target.name, target.threads, target.batch, target.precision) == ("my-box", 2, 1, "fp32")
    assert target.table_path == tmp_path / "my-box.json"


def test_a_target_of_ones_own_has_no_shipped_table_or_prior_whatever_its_name(tmp_path):
    for name, runtime, more in (("cpu-ort", "ort-cpu", "threads: 1"), ("v100-trt", "tensorrt", "precision: fp16")):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"name: {name}\ndevice: cpu\nruntime: {runtime}\n{more}\n")
        assert knowledge(load_target(name)) != "nothing"
        assert knowledge(load_target(path)) == "nothing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ndevice: b\nruntime: ort-cpu\ncolour: red\n", "colour: .*keys are name, device"),
        ("name: a\ndevice: b\nruntime: tvm\n", "runtime: .*ort-cpu.*got 'tvm'"),
        ("name: a\ndevice: b\nruntime: ort-cpu\nbatch: 0\n", "batch: "),
        ("name: ../a\ndevice: b\nruntime: ort-cpu\n", "name: "),
        ("name: [", "is not YAML"),
        ("- 1", "file: "),
    ],
)
def test_wrong_files(tmp_path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(TargetError, match=message) as caught:
        load_target(path)
    assert "\n" not in str(caught.value)


def test_missing_file():
    with pytest.raises(TargetError, match="does not exist"):
        load_target("nowhere/x.yaml")


def test_target_without_table_says_how_to_make_one():
    with pytest.raises(TargetError, match="on a machine with NVIDIA T4 run: jdnas latency measure --target t4-trt"):
        load_table(load_target("t4-trt"))
