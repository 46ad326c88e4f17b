import json
import shutil
from pathlib import Path

import pytest

from jdnas.pipeline.pool import weak_pool
from jdnas.report.pool_chart import pool_figure
from tests.pipeline.conftest import NanoRun, jdnas


@pytest.fixture(scope="module")
def evaluated(nano_run: NanoRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("quality") / "run"
    shutil.copytree(nano_run.folder, folder)
    code, out, err = jdnas("teacher", "eval", "--run-dir", folder, "--samples", 2, "--seed-net", "r18")
    assert code == 0, out + err
    return folder, out


def test_subnets_of_every_phase_are_evaluated_before_and_after(evaluated: tuple[Path, str]) -> None:
    folder, out = evaluated
    rows = json.loads((folder / "pool" / "quality.json").read_text())["rows"].values()
    first, second = ([row for row in rows if row["phase"] == phase] for phase in (0, 1))
    assert {row["role"] for row in first} == {"largest", "r18"}  # its space has one subnet
    assert sorted(row["role"] for row in second) == ["largest", "sample", "sample", "smallest"]  # of which r18 is the smallest
    assert [row["released"] for row in first if row["role"] == "r18"] == [False]
    assert all(0 <= row[key] <= 1 for row in rows for key in ("ap_before", "ap_after"))
    assert max(row["gmac"] for row in second) == next(row["gmac"] for row in second if row["role"] == "largest")
    assert "AP after" in out and "chart:" in out


def test_chart_shows_each_phase_before_and_after(evaluated: tuple[Path, str]) -> None:
    page = (evaluated[0] / "pool" / "quality.html").read_text()
    assert "after phase 2, before recalibration" in page and "multiply-adds (G)" in page


def test_what_was_evaluated_is_kept(evaluated: tuple[Path, str]) -> None:
    folder, _ = evaluated
    path = folder / "pool" / "quality.json"
    kept = json.loads(path.read_text())
    for row in kept["rows"].values():
        row["ap_after"] = 0.123  # an evaluation would give 0 to so short a training
    path.write_text(json.dumps(kept))
    code, out, err = jdnas("teacher", "eval", "--run-dir", folder, "--samples", 2)
    assert code == 0 and out.count("0.123") >= 5, out + err


def test_pools_that_cannot_be_evaluated_are_refused(evaluated: tuple[Path, str], tmp_path: Path) -> None:
    code, _, err = jdnas("teacher", "eval", "--run-dir", tmp_path)
    assert (code, err.count("\n")) == (2, 1) and "is no run folder" in err
    code, _, err = jdnas("teacher", "eval", "--run-dir", evaluated[0], "--seed-net", "d=1-1-1-1")
    assert (code, err.count("\n")) == (2, 1) and "stage 0 with 1 blocks is smaller than any subnet of this pool; it has 2 to 3" in err
    folder = tmp_path / "truncated"
    shutil.copytree(evaluated[0], folder)
    path = folder / "pool" / "pool.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    code, _, err = jdnas("teacher", "eval", "--run-dir", folder)
    assert (code, err.count("\n")) == (2, 1) and "truncated" in err


def test_figure_is_plain_data() -> None:
    from jdnas.pipeline.pool_quality import SubnetQuality

    rows = [SubnetQuality(1, "b", "sample", True, 2.0, 0.1, 0.3), SubnetQuality(1, "a", "largest", True, 1.0, 0.2, 0.4)]
    figure = json.loads(json.dumps(pool_figure(rows, size_hw=(64, 96), base_ap=0.25)))
    before, after = figure["data"]
    assert before["x"] == after["x"] == [1.0, 2.0]
    assert before["y"] == [0.2, 0.1] and after["y"] == [0.4, 0.3]
    assert figure["layout"]["shapes"][0]["y0"] == 0.25
    assert "shapes" not in pool_figure(rows, size_hw=(64, 96), base_ap=None)["layout"]


def test_a_pool_that_is_weaker_than_its_base_is_said() -> None:
    assert weak_pool(0.5, 0.5) == weak_pool(0.6, 0.5) == []
    [line] = weak_pool(0.144, 0.177)
    assert "weaker than the base (AP 0.177)" in line and "lr_factor" in line
