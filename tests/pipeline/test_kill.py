"""kill -9 in the pool training and in a candidate: what is resumed ends as if nothing had happened."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jdnas.search.study import SearchStudy
from jdnas.training.checkpoint import load_tensors, read_json
from tests.pipeline.conftest import NANO, jdnas

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LIMIT_S = 120


def arguments(folder: Path, *more: str) -> list[str]:
    return ["search", "--base", "r18", "--data", "shapes", "--preset", str(NANO), "--run-dir", str(folder), *more]


def kill_when(happens: Callable[[], bool], command: list[str]) -> None:
    """Run `jdnas` and kill it as soon as something happens."""
    code = "from jdnas.cli import main; main()"
    with subprocess.Popen([sys.executable, "-c", code, *command], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + LIMIT_S
        while not happens():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -9


def running_trials(folder: Path) -> list[int]:
    try:
        with sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True, timeout=10) as database:
            found = database.execute("SELECT number FROM trials WHERE state = 'RUNNING'").fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        if "database" in locals():
            database.close()
    return [number for (number,) in found]


def trace(folder: Path) -> list[tuple[object, ...]]:
    with SearchStudy.load(f"sqlite:///{folder / 'study.db'}") as study:
        assert not study.running
        return [
            (t.number, t.parent, t.candidate.action, t.teacher.key, t.student.key, t.score, t.ap, t.cost, t.state) for t in study.history
        ]


def weights(folder: Path) -> dict[str, bytes]:
    return {
        f"{path.relative_to(folder)}:{name}": tensor.numpy().tobytes()
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_tensors(path).items()
    }


def test_killed_in_the_pool_and_in_a_candidate(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    code, _, err = jdnas(*arguments(undisturbed, "--quiet"))
    assert code == 0, err

    partial = killed / "pool" / "phase_1.partial.safetensors"
    kill_when(partial.exists, arguments(killed, "--quiet"))
    assert partial.exists() and not (killed / "pool" / "pool.json").exists() and not (killed / "study.db").exists()

    kill_when(lambda: running_trials(killed) == [2], arguments(killed, "--quiet", "--resume"))
    assert running_trials(killed) == [2]
    assert (killed / "pool" / "pool.json").exists() and not (killed / "candidates" / "0002" / "student.json").exists()

    code, _, err = jdnas(*arguments(killed, "--quiet", "--resume"))
    assert code == 0, err
    assert len(trace(undisturbed)) == 4 and trace(killed) == trace(undisturbed)
    assert weights(killed) == weights(undisturbed)
    curves = [[phase["curve"] for phase in read_json(folder / "pool" / "pool.json")["meta"]["phases"]] for folder in (undisturbed, killed)]
    assert curves[0] == curves[1]
