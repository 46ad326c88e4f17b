import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jdnas.errors import InputError
from jdnas.models.detector import build
from jdnas.training.checkpoint import save_detector
from latency.benchmark import Sweep, benchmark, main
from latency.subjects import open_engine, open_model
from latency.targets import load_target

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
        assert row.p95_ms <= row.p99_ms
        assert 20 < row.peak_rss_mib < 1000
        assert row.build_s > 0 and (row.runs_in, row.mode) == ("ort-cpu", "engine")
    assert report.provenance["threads"] >= 1


def test_prints_a_table_and_writes_json(fake_engine, tmp_path, capsys):
    out = tmp_path / "report.json"
    assert main(["--engine", str(fake_engine), "--target", "cpu-ort", "--seconds", "0.05", "--json", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "FPS" in shown
    assert "64x32" in shown
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
     (None, "t4-trt", "package 'tensorrt' is not installed")],
)  # fmt: skip
def test_wrong_input_is_one_line_and_status_2(fake_engine, tmp_path, capsys, engine, target, message):
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    path = tmp_path / engine if engine else fake_engine
    assert main(["--engine", str(path), "--target", target, "--seconds", "0.05"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_precision_of_a_row_is_that_of_its_artifact(fake_engine, tmp_path):
    target = tmp_path / "half.yaml"
    target.write_text("name: half\ndevice: cpu\nruntime: ort-cpu\nprecision: fp16\n")
    (row,) = benchmark([fake_engine], target, seconds=0.05).rows
    assert row.precision == "fp32"


def test_no_time(fake_engine):
    with pytest.raises(InputError, match="must be positive"):
        benchmark([fake_engine], "cpu-ort", seconds=0)


@pytest.fixture
def model(tmp_path, spec):
    torch.manual_seed(0)
    save_detector(tmp_path / "small", spec, build(spec).state_dict(), {"size_hw": [64, 96]})
    return tmp_path / "small.safetensors"


def test_a_model_leaves_the_threads_of_the_process_as_they_were(model):
    torch.set_num_threads(1)
    target = load_target("cpu-ort").model_copy(update={"threads": 2})
    subject = open_model(model, target, (64, 64), 1)
    assert torch.get_num_threads() == 2
    subject.close()
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("quick_footprint")
def test_a_benchmark_leaves_the_threads_as_they_were(model, tmp_path):
    torch.set_num_threads(1)
    target = tmp_path / "two.yaml"
    target.write_text("name: two\ndevice: cpu\nruntime: ort-cpu\nthreads: 2\n")
    (row,) = benchmark([model], target, seconds=0.02).rows
    assert row.runs_in == "torch" and torch.get_num_threads() == 1


@pytest.mark.parametrize("options", [["--csv", "x.csv"], ["--markdown", "x"], ["--size", "64x64"], ["--batch", "2"], ["--export", "also"],
                                     ["--images", "x"], ["--profile"]])  # fmt: skip
def test_a_suite_refuses_what_it_would_not_heed(capsys, options):
    assert main(["--suite", "paper", "--target", "v100-trt", *options]) == 2
    assert f"--suite takes --target, --seconds, --folder and --json, not {options[0]}" in capsys.readouterr().err


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, size in enumerate(((50, 40), (200, 90))):
        Image.new("RGB", size, (90 * index, 20, 200)).save(folder / f"{index}.jpg")
    return folder


@pytest.fixture
def quick_footprint(monkeypatch):
    """Leave out the processes that measure memory: each of them imports PyTorch."""
    monkeypatch.setattr("latency.benchmark.peak_memory_mib", lambda *_: {"host": 1.0, "gpu": None})


def test_memory_of_a_pytorch_model(model):
    (row,) = benchmark([model], "cpu-ort", seconds=0.02).rows
    assert (row.runs_in, row.size_hw, row.batch) == ("torch", (64, 96), 1)
    assert 100 < row.peak_rss_mib < 2000


@pytest.mark.usefixtures("quick_footprint")
def test_sweep_of_a_pytorch_model(model):
    report = benchmark([model], "cpu-ort", seconds=0.02, sweep=Sweep(((32, 64), (64, 64)), (1, 2)))
    assert [(row.runs_in, row.size_hw, row.batch) for row in report.rows] == [
        ("torch", size, batch) for size in ((32, 64), (64, 64)) for batch in (1, 2)
    ]
    assert report.rows[0].fps == pytest.approx(1000 / report.rows[0].median_ms)
    assert report.rows[1].fps == pytest.approx(2000 / report.rows[1].median_ms)


@pytest.mark.usefixtures("quick_footprint")
def test_a_model_is_exported_once_and_timed_with_decoding(model, photos, tmp_path):
    sweep = Sweep(((32, 64),), (2,), in_torch=False, as_engine=True, folder=tmp_path)
    report = benchmark([model], "cpu-ort", seconds=0.05, sweep=sweep, images=photos, profile=True)
    assert [(row.runs_in, row.mode, row.size_hw, row.batch) for row in report.rows] == [
        ("ort-cpu", mode, (32, 64), 2) for mode in ("engine", "decoding")
    ]
    assert report.rows[1].peak_rss_mib is None
    (made,) = tmp_path.glob("small_64x32_b2_*.onnx")
    changed = made.stat().st_mtime_ns
    (profile,) = report.profiles.values()
    assert "Conv" in profile.by_operator()
    assert profile.by_operator()["Conv"] == pytest.approx(sum(x.latency_ms for x in profile.layers if x.operator == "Conv"))
    # The same engine under its own name, and once more through the sweep: nothing is exported again.
    again = benchmark([made], "cpu-ort", seconds=0.02).rows[0]
    assert (again.batch, again.size_hw) == (2, (32, 64))
    benchmark([model], "cpu-ort", seconds=0.02, sweep=sweep)
    assert made.stat().st_mtime_ns == changed


def test_a_photo_on_the_canvas_of_an_engine_and_of_a_model_by_hand(photos, spec, fake_engine, model):
    image = np.array(Image.open(photos / "1.jpg"))  # 200 x 90 on a canvas of 32 x 64: 0.32 times as large
    expected = (image[50, 100] / 255 - np.array(spec.traits.mean)) / np.array(spec.traits.std)
    for subject in (open_engine(fake_engine, load_target("cpu-ort")), open_model(model, load_target("cpu-ort"), (32, 64), 1)):
        pixels, sizes = subject.prepare(image)
        subject.close()
        assert (pixels.shape, sizes.tolist()) == ((1, 3, 32, 64), [[28, 64]])
        assert pixels[0, :, 16, 32] == pytest.approx(expected, abs=0.03)
        assert not pixels[0, :, 28:].any()


def test_formats(fake_engine, tmp_path, capsys):
    outs = {kind: tmp_path / f"report.{kind}" for kind in ("json", "csv", "markdown")}
    options = [word for kind, path in outs.items() for word in (f"--{kind}", str(path))]
    assert main(["--engine", str(fake_engine), "--target", "cpu-ort", "--seconds", "0.05", *options]) == 0
    (row,) = csv.DictReader(outs["csv"].read_text().splitlines())
    kept = json.loads(outs["json"].read_text())
    assert float(row["median_ms"]) == kept["rows"][0]["median_ms"]
    assert (row["size_hw"], row["batch"]) == ("32x64", "1")
    lines = outs["markdown"].read_text().splitlines()
    assert len({line.count("|") for line in lines[:3]}) == 1
    assert "threads" in lines[4]
    assert {"throttled", "stolen_percent", "cpu_percent_of_others", "load_average"} <= kept["provenance"].keys()


def test_compare_interleaves_two(fake_engine, capsys, tmp_path):
    out = tmp_path / "report.json"
    assert main(["--compare", str(fake_engine), str(fake_engine), "--target", "cpu-ort", "--seconds", "0.3", "--json", str(out)]) == 0
    found = json.loads(out.read_text())["comparison"]
    assert found["low"] <= found["ratio"] <= found["high"]
    assert found["turns"] >= 3
    assert "95 % interval" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "2"], "has its size and batch inside"), (["--size", "64x64"], "has its size and batch inside"),
        (["--batch", "two"], "--batch takes positive numbers"), (["--size", "64"], "WIDTHxHEIGHT"),
        (["--images", "nowhere"], "no images at nowhere"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line_and_status_2(fake_engine, capsys, options, message):
    assert main(["--engine", str(fake_engine), "--target", "cpu-ort", "--seconds", "0.05", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_models_that_cannot_be_opened(model, capsys, tmp_path):
    for path, message in ((tmp_path / "none.safetensors", "none.json"), (tmp_path / "x.pth", "runtime 'ort-cpu' loads .onnx, got")):
        path.with_suffix(".pth").write_bytes(b"pickle")
        assert main(["--model", str(path), "--target", "cpu-ort"]) == 2
        assert message in capsys.readouterr().err
    data = json.loads(model.with_suffix(".json").read_text())
    del data["meta"]["size_hw"]
    model.with_suffix(".json").write_text(json.dumps(data))
    assert main(["--model", str(model), "--target", "cpu-ort"]) == 2
    assert "does not say its input size; give it with --size" in capsys.readouterr().err


def test_compare_takes_two(fake_engine):
    with pytest.raises(InputError, match="--compare takes two subjects at one size and batch each, got 3"):
        benchmark([fake_engine] * 3, "cpu-ort", seconds=0.05, compare=True)
