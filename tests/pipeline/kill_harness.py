"""Kills a tiny search with SIGKILL at random moments, resumes it each time, and compares the result with an undisturbed run's.

    python -m tests.pipeline.kill_harness --kills 20 --work runs/kills --out benchmarks/results/kill_search.json

A moment is drawn uniformly from the time after a process has read its data in which it does one to three candidates; the first process
trains base and pool in it. The files of both runs have to be equal to the byte, and their studies candidate for candidate.
"""

import argparse
import hashlib
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jdnas.search.study import SearchStudy
from tests.search.simulated import essence

ROOT = Path(__file__).parents[2]
NANO = Path(__file__).with_name("nano.yaml")
LIMIT_S = 300
BASE_AND_POOL_S = 6.0


def arguments(folder: Path, *more: str) -> list[str]:
    return ["search", "--base", "r18", "--data", "shapes", "--preset", str(NANO), "--run-dir", str(folder), *more]


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run `jdnas` beside this process, on one thread."""
    code = "from jdnas.cli import main; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, *command], cwd=ROOT, env=environment, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def running_trials(folder: Path) -> list[int]:
    """Return the candidates that a study, which another process may be writing, has in flight."""
    try:
        with sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True, timeout=10) as database:
            found = database.execute("SELECT number FROM trials WHERE state = 'RUNNING'").fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        if "database" in locals():
            database.close()
    return [number for (number,) in found]


def digests(folder: Path) -> dict[str, str]:
    """Return what was left of every detector of a run: each file of weights, optimizer states and candidates by its SHA-256."""
    paths = [*folder.rglob("*.safetensors"), *(folder / "candidates").rglob("*.json")]
    kept = [path for path in sorted(paths) if not path.name.startswith(".")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def trace(folder: Path) -> list[Any]:
    """Return everything that a finished study holds and that does not depend on the clock."""
    with SearchStudy.load(f"sqlite:///{folder / 'study.db'}") as study:
        assert not study.running
        return essence(study.history)


@dataclass(frozen=True)
class Kill:
    """When a process was killed, after it had read its data, and what it was at: the candidate in flight, or none."""

    after_s: float
    at: str


def kill_once(folder: Path, options: list[str], after_s: float) -> Kill | None:
    """Start or resume the run and kill it; None where it had finished before."""
    with started(arguments(folder, "--resume", *options)) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("data "), "the run did not begin"
        try:
            output, _ = process.communicate(timeout=after_s)
        except subprocess.TimeoutExpired:
            process.kill()
        else:
            assert process.returncode == 0, output
            return None
    assert process.returncode == -9
    running = running_trials(folder)
    at = f"candidate {running[0]}" if running else "between candidates" if (folder / "study.db").exists() else "base or pool"
    return Kill(round(after_s, 3), at)


def kill_often(
    folder: Path, options: list[str], kills: int, *, seed: int, window_s: float, base_and_pool_s: float = BASE_AND_POOL_S
) -> list[Kill]:  # fmt: skip
    """Kill a run so often, and let it finish then; the run has to be long enough for all kills."""
    rng, done = random.Random(seed), list[Kill]()
    while len(done) < kills:
        longest = window_s + (0.0 if (folder / "pool" / "pool.json").exists() else base_and_pool_s)
        kill = kill_once(folder, options, rng.uniform(0.0, longest))
        assert kill is not None, f"the run finished after {len(done)} kills; give it more candidates"
        done.append(kill)
    finish(folder, options)
    return done


def finish(folder: Path, options: list[str]) -> float:
    """Run to the end; return the seconds that the search's candidates took on average, by the clock on the wall."""
    with started(arguments(folder, "--resume", "--quiet", *options)) as process:
        output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, output
    with SearchStudy.load(f"sqlite:///{folder / 'study.db'}") as study:
        return study.history.seconds / len(study.history)


def compare(undisturbed: Path, killed: Path) -> dict[str, Any]:
    """Return how the two runs differ, by names of files and numbers of candidates; empty lists where they are equal."""
    files, own = digests(undisturbed), digests(killed)
    trials, others = trace(undisturbed), trace(killed)
    different = [trial.number for trial, other in zip(trials, others, strict=False) if trial != other]
    return {
        "candidates": len(trials), "files": len(files),
        "different_candidates": different + list(range(min(len(trials), len(others)), max(len(trials), len(others)))),
        "different_files": sorted(name for name in files.keys() | own.keys() if files.get(name) != own.get(name)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/kills"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    options = ["--set", f"search.trials={given.trials}", "--set", "search.patience=1000", "--set", "student.inherit_optimizer=true"]
    begun = time.monotonic()
    per_candidate = finish(given.work / "undisturbed", options)
    kills = kill_often(given.work / "killed", options, given.kills, seed=given.seed, window_s=2.5 * per_candidate)
    result = compare(given.work / "undisturbed", given.work / "killed") | {
        "kills": len(kills), "killed_at": dict(Counter(kill.at.split()[0] for kill in kills)), "moments": [asdict(kill) for kill in kills],
        "seconds_per_candidate": round(per_candidate, 3), "seed": given.seed, "minutes": round((time.monotonic() - begun) / 60, 1),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if given.out is not None:
        sys.path.insert(0, str(ROOT / "benchmarks"))
        from provenance import provenance

        given.out.write_text(json.dumps({"provenance": provenance(), **result}, indent=1) + "\n")
    sys.exit(bool(result["different_candidates"] or result["different_files"]))


if __name__ == "__main__":
    main()
