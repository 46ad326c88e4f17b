"""`jdnas search` on a tiny run: goals that are met or not, a study elsewhere, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jdnas.pipeline.optimize import pick_student
from jdnas.search.study import SearchStudy, sqlite_url
from tests.pipeline.conftest import jdnas
from tests.pipeline.tiny import make_tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_tiny(tmp_path / "run")
    return tmp_path / "run"


def test_a_latency_that_nothing_meets_names_the_fastest_and_exits_with_3(folder: Path) -> None:
    (folder / "config.yaml").unlink()
    (folder / ".lock").unlink(missing_ok=True)
    make_tiny(folder, "search.max_cost=0.0001", "cost=latency")
    code, out, err = jdnas("search", "--run-dir", folder, "--resume", "--trials", 2)
    assert code == 3
    with SearchStudy.load(sqlite_url(folder / "study.db")) as study:
        fastest = min((price, trial.number) for trial in study.history.complete for price in trial.costs.values())
    line = err.splitlines()[-1]
    assert line.startswith(f"error: nothing meets the cost limit 0.0001 ms: the fastest found was candidate {fastest[1]} at 64x64: cost ")
    assert f"{fastest[0]:.6g} ms, AP " in line
    assert jdnas("search", "--run-dir", folder, "--resume", "--trials", 2)[0] == 3  # it is as true when nothing is left to do


def test_an_ap_that_nothing_reaches_names_the_best_and_exits_with_3(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_tiny(folder, "search.min_ap=0.99")
    code, _, err = jdnas("search", "--run-dir", folder, "--resume", "--trials", 1)
    assert code == 3 and err.splitlines()[-1].startswith("error: nothing reaches AP 0.99: the best found was candidate ")


def test_a_goal_that_is_met_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_tiny(folder, "search.max_cost=1e12")
    code, out, err = jdnas("search", "--run-dir", folder, "--resume", "--trials", 1)
    assert code == 0, err
    assert "the best within the cost limit 1e+12 is candidate" in " ".join(out.split())


def test_with_a_goal_the_best_is_taken_whatever_it_costs(folder: Path) -> None:
    assert jdnas("search", "--run-dir", folder, "--resume", "--trials", 3)[0] == 0
    with SearchStudy.load(sqlite_url(folder / "study.db")) as study:
        assert pick_student(study.history, 1e-9, has_goal=True) is study.history.best()


def test_budget_patience_and_trials_end_a_search_that_can_go_on(folder: Path) -> None:
    assert jdnas("search", "--run-dir", folder, "--resume", "--budget", "0.001s")[0] == 0
    with SearchStudy.load(sqlite_url(folder / "study.db")) as study:
        assert len(study.history) == 1 and study.settings.max_seconds == 0.001
    assert jdnas("search", "--run-dir", folder, "--resume", "--budget", "1h", "--patience", 1, "--trials", 9)[0] == 0
    with SearchStudy.load(sqlite_url(folder / "study.db")) as study:
        assert study.history.stale == 1 and len(study.history) <= 9
    code, _, err = jdnas("search", "--run-dir", folder, "--resume", "--budget", "soon")
    assert code == 2 and "a budget is a time such as 2h, 1h30m, 90m or 45s, got 'soon'" in err


def test_a_study_elsewhere_has_a_name_of_its_own_and_shows_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite stands for a server; what looks like a password is in its address' query, which SQLite ignores."""
    database = tmp_path / "studies.db"
    url = f"sqlite:///file:{database}?uri=true&password=very-secret"
    said = []
    for name in ("one", "two"):
        make_tiny(tmp_path / name)
        (tmp_path / name / "config.yaml").unlink()
        monkeypatch.setenv("JDNAS_STUDY_URL", url)
        make_tiny(tmp_path / name, f"study_url={url}")
        said += jdnas("search", "--run-dir", tmp_path / name, "--resume", "--trials", 1)
        said += jdnas("search", "status", tmp_path / name)
    names = [json.loads((tmp_path / name / "study.json").read_text())["name"] for name in ("one", "two")]
    assert names[0].startswith("one-") and names[1].startswith("two-")
    for name in names:
        with SearchStudy.load(url, name=name) as study:
            assert len(study.history) == 2
    written = [path for name in ("one", "two") for path in (tmp_path / name).rglob("*") if path.suffix in (".yaml", ".json")]
    text = " ".join([*map(str, said), *(path.read_text() for path in written)])
    assert written
    assert "very-secret" not in text and "1 of 1 candidates" in text
    assert not list(tmp_path.glob("*/study.db"))


def test_ctrl_c_saves_says_how_to_go_on_and_exits_with_130(folder: Path) -> None:
    # A shell's background jobs are born with SIGINT ignored, and what runs these tests may be one.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from jdnas.cli import main; main()"
    arguments = ["search", "--run-dir", str(folder), "--resume", "--patience", "500", "--trials", "500"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        deadline = time.monotonic() + 120
        while "candidate   1" not in process.stdout.readline():
            assert time.monotonic() < deadline and process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    command = f"jdnas {' '.join(arguments)}"
    assert err.splitlines()[-1] == f"stopped; nothing that was finished is lost. Continue with: {command}" and "Traceback" not in err
    with SearchStudy.load(sqlite_url(folder / "study.db")) as study:
        finished = len(study.history)
        assert finished >= 2
    again = [*command.split()[1:-1], str(finished)]  # as printed, with a budget that lets it end
    code_again, out, err = jdnas(*again)
    assert code_again == 0, out + err
    with SearchStudy.load(sqlite_url(folder / "study.db")) as study:
        assert len(study.history) == finished + 1 and not study.running


def test_a_full_disk_says_how_to_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "candidates/0001/student.safetensors")

    monkeypatch.setattr("jdnas.pipeline.workshop.save_detector", full)
    code, _, err = jdnas("search", "--run-dir", folder, "--resume", "--trials", 1)
    assert code == 1
    assert err.splitlines()[-1] == (
        "error: no space left on the device for candidates/0001/student.safetensors; nothing that was finished is lost. Make room and "
        f"continue with: jdnas search --run-dir {folder} --resume --trials 1"
    )
