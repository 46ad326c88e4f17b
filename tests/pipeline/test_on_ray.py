"""The main job on a Ray cluster whose nodes share nothing with the driver but a bucket; one of them is the target."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest

from jdnas.pipeline.elsewhere import has_node
from jdnas.search.executors.on_ray import connect
from jdnas.search.study import SearchStudy
from jdnas.training.checkpoint import has_detector, load_detector
from latency.targets import load_target
from tests.pipeline.conftest import NANO, NanoRun, jdnas

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'jdnas[ray]'")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture
def address(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two nodes, the second of which is one of cpu-ort's; workers keep their copies in a folder of their own."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JDNAS_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    (tmp_path / "scratch").mkdir()
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    cluster.add_node(**small, resources={"target:cpu-ort": 1})
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


def test_the_whole_job(nano_run: NanoRun, address: str, bucket: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for name in ("base", "pool", "shapes"):
        shutil.copytree(nano_run.folder / name, folder / name)
    shutil.copy(nano_run.folder / "config.yaml", folder)
    options = ["--executor", "ray", "--ray-address", address, "--workers", 2, "--storage", bucket]
    command = ["--base", "r18", "--target", "cpu-ort", "--data", "shapes", "--preset", NANO, "--run-dir", folder, "--resume"]
    code, out, err = jdnas("optimize", *command, *options)
    assert code == 0, out + err
    with SearchStudy.load(f"sqlite:///{folder / 'study.db'}") as study:
        history = study.history
    assert sorted(trial.number for trial in history) == [0, 1, 2, 3] and not study.running
    stored = fsspec.filesystem("s3").glob(f"{bucket}/run-*/candidates/*/student.safetensors")
    copies = [trial.number for trial in history if trial.number]
    assert sorted(path.rpartition("run-")[2].partition("/")[2] for path in stored) == sorted(
        f"{trial.files['student']}.safetensors" for trial in history if trial.number
    )
    assert len(copies) == 3 and has_node(connect(address), load_target("cpu-ort"))
    assert len(list((tmp_path / "scratch").glob("jdnas-run-*/candidates/*/student.json"))) == 3  # made there, not in the run folder
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["target"]["note"] == "measured on the node of the Ray cluster with target:cpu-ort"
    assert summary["target"]["label"] == "measured" and summary["student"]["latency_ms"] > 0
    chosen = summary["student"]["trial"]
    assert [number for number in copies if has_detector(folder / "candidates" / f"{number:04d}" / "student")] == (
        [chosen] if chosen else []
    )
    spec, _, _ = load_detector(folder / "student" / "student")
    assert spec.to_dict() == summary["student"]["spec"]
    assert os.listdir(folder / "shapes") == os.listdir(nano_run.folder / "shapes")
    code, _, err = jdnas("search", *command, "--set", "search.trials=4")
    assert code == 2 and "are in a storage and not in its folder; resume it with the --executor ray --storage URL" in err
