"""kill -9 in the pool training, in a candidate, and at random: what is resumed ends as if nothing had happened."""

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from jdnas.training.checkpoint import read_json
from tests.pipeline.kill_harness import arguments, compare, finish, kill_often, running_trials, started

pytestmark = pytest.mark.slow
LIMIT_S = 120


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill") / "undisturbed"
    finish(folder, [])
    return folder


def kill_when(happens: Callable[[], bool], command: list[str]) -> None:
    """Run `jdnas` and kill it as soon as something happens."""
    with started(command) as process:
        deadline = time.monotonic() + LIMIT_S
        while not happens():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -9


def check_same(undisturbed: Path, killed: Path) -> None:
    found = compare(undisturbed, killed)
    assert (found["candidates"], found["different_candidates"], found["different_files"]) == (4, [], [])
    assert found["files"] > 10
    curves = [[phase["curve"] for phase in read_json(folder / "pool" / "pool.json")["meta"]["phases"]] for folder in (undisturbed, killed)]
    assert curves[0] == curves[1]


def test_killed_in_the_pool_and_in_a_candidate(undisturbed: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    partial = killed / "pool" / "phase_1.partial.safetensors"
    kill_when(partial.exists, arguments(killed, "--quiet"))
    assert partial.exists() and not (killed / "pool" / "pool.json").exists() and not (killed / "study.db").exists()

    kill_when(lambda: running_trials(killed) == [2], arguments(killed, "--quiet", "--resume"))
    assert running_trials(killed) == [2]
    assert (killed / "pool" / "pool.json").exists() and not (killed / "candidates" / "0002" / "student.json").exists()

    finish(killed, [])
    check_same(undisturbed, killed)


def test_killed_at_random_moments(undisturbed: Path, tmp_path: Path) -> None:
    # Early moments, so that the fastest machine has not finished by then; `python -m tests.pipeline.kill_harness` draws from the whole run.
    kills = kill_often(tmp_path / "killed", [], 2, seed=1, window_s=0.2, base_and_pool_s=0.6)
    assert len(kills) == 2
    check_same(undisturbed, tmp_path / "killed")


def test_differences_are_seen(undisturbed: Path, tmp_path: Path) -> None:
    other = shutil.copytree(undisturbed, tmp_path / "other")
    weights = other / "candidates" / "0001" / "student.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with closing(sqlite3.connect(other / "study.db")) as database, database:
        database.execute("UPDATE trial_values SET value = value + 1 WHERE trial_id = (SELECT trial_id FROM trials WHERE number = 2)")
    found = compare(undisturbed, other)
    assert found["different_files"] == ["candidates/0001/student.safetensors"] and found["different_candidates"] == [2]
