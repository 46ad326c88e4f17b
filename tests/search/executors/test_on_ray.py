"""A search on a local Ray cluster of two nodes: what workers, nodes and the driver lose is done again, and nothing else is."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jdnas.errors import MissingExtraError, TargetError, TrainingError
from jdnas.search.climb import SearchResult, run
from jdnas.search.executors import on_ray
from jdnas.search.executors.on_ray import RayExecutor, Share, capacity, check_share, connect
from jdnas.search.history import Trial
from jdnas.search.settings import SearchSettings
from jdnas.search.study import SearchStudy, sqlite_url
from tests.search.simulated import TASK, Simulator, cost
from tests.search.test_parallel import check_replay

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'jdnas[ray]'")

from tests.search.executors.ray_site import LackingSite, SimulatedSite  # noqa: E402

ROOT = Path(__file__).parents[3]
SETTINGS = SearchSettings(trials=12, patience=1000, seed=7, refuse=False, stop_early=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of two cores each, which workers reach the tests from; nodes that die are noticed at once."""
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
    small = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "_system_config": quick})
    cluster.add_node(**small)
    ray = connect(cluster.address)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


def search(url: str, site: Any, workers: int | None = 3, settings: SearchSettings = SETTINGS, **options: Any) -> SearchResult:
    with SearchStudy.open(url, TASK, settings) as study, RayExecutor(ray, site, Share(), workers=workers) as executor:
        return run(study, Simulator(), cost, executor=executor, **options)


def begun(notes: Path, kind: str = "begun") -> list[tuple[int, int, str]]:
    """Who worked on what: candidate, process, node."""
    found = [path.name.split(".") for path in sorted(notes.glob(f"*.{kind}"))]
    return [(int(number), int(pid), node) for number, pid, node, _ in found]


def when(happens: Callable[[], Any], act: Callable[[Any], None]) -> threading.Thread:
    """Act, once, as soon as something happens, beside the search."""

    def watch() -> None:
        deadline = time.monotonic() + 60
        while not (found := happens()):
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        act(found)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def check_whole(result: SearchResult, settings: SearchSettings = SETTINGS) -> None:
    """Everything is there once, proposed from what was known, and has the result that it would have had in this process."""
    assert result.stopped_by == "trials"
    assert sorted(trial.number for trial in result.history) == list(range(settings.trials + 1))
    check_replay(result.history, settings)
    for trial in result.history:
        outcome = Simulator().evaluate(trial.candidate, trial.student)
        assert (trial.state, trial.metrics, trial.files, trial.images) == ("complete", outcome.metrics, outcome.files, outcome.images)


def test_both_nodes_work_and_each_candidate_is_done_once(cluster: Any, tmp_path: Path, notes: Path) -> None:
    result = search(sqlite_url(tmp_path / "study.db"), SimulatedSite(str(notes), seconds=0.2), workers=4)
    check_whole(result)
    assert sorted(number for number, _, _ in begun(notes)) == list(range(13))
    assert len({node for _, _, node in begun(notes)}) == 2
    assert any(trial.candidate.known < trial.number for trial in result.history)


def test_a_killed_worker_loses_nothing(cluster: Any, tmp_path: Path, notes: Path) -> None:
    def victim() -> list[tuple[int, int, str]]:
        done = begun(notes, "done")
        return [one for one in begun(notes) if one[0] >= 4 and one not in done]

    thread = when(victim, lambda found: os.kill(found[0][1], signal.SIGKILL))
    result = search(sqlite_url(tmp_path / "study.db"), SimulatedSite(str(notes), seconds=0.4))
    thread.join()
    check_whole(result)
    numbers = [number for number, _, _ in begun(notes)]
    assert len(numbers) == 14 and len(begun(notes, "done")) == 13  # one was begun twice, and finished once


def test_a_lost_node_loses_nothing(cluster: Any, tmp_path: Path, notes: Path) -> None:
    node = cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False)
    there = node.node_id

    def victims() -> list[int]:
        done = begun(notes, "done")
        return [one[0] for one in begun(notes) if one[2] == there and one not in done]

    thread = when(victims, lambda _: cluster.remove_node(node, allow_graceful=False))
    # Long enough that a node on a busy machine is gone before what it was at can end.
    result = search(sqlite_url(tmp_path / "study.db"), SimulatedSite(str(notes), seconds=2.5), workers=6)
    thread.join()
    check_whole(result)
    begun_there = {number for number, _, node_id in begun(notes) if node_id == there}
    done_there = {number for number, _, node_id in begun(notes, "done") if node_id == there}
    lost = begun_there - done_there
    assert lost and lost <= {number for number, _, node_id in begun(notes, "done") if node_id != there}


def test_a_driver_that_stops_does_again_only_what_was_in_flight(cluster: Any, tmp_path: Path, notes: Path) -> None:
    url = sqlite_url(tmp_path / "study.db")

    def interrupt(trial: Trial, history: Any) -> None:
        if len(history) == 6:
            raise KeyboardInterrupt

    site = SimulatedSite(str(notes), seconds=0.4)
    assert search(url, site, on_finish=interrupt).stopped_by == "interrupt"
    with SearchStudy.load(url) as study:
        finished, running = {trial.number for trial in study.history}, {candidate.number for candidate in study.running}
    assert len(finished) == 6 and len(running) == 2
    result = search(url, site)
    check_whole(result)
    numbers = [number for number, _, _ in begun(notes)]
    assert {number for number in numbers if numbers.count(number) > 1} <= running


def test_faults_of_candidates_and_of_the_set_up(cluster: Any, tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "RETRIES", 1)
    url = sqlite_url(tmp_path / "a.db")
    result = search(url, SimulatedSite(str(notes), errors=((2, "TrainingError"), (5, "exit"))))
    states = {trial.number: (trial.state, trial.reason) for trial in result.history if trial.state != "complete"}
    assert states == {
        2: ("failed", "TrainingError: diverged"),
        5: ("failed", "WorkerCrashedError: lost with its worker or node 2 times"),
    }
    for name, kind in (("TypeError", TypeError), ("OSError", OSError)):
        with pytest.raises(kind):
            search(sqlite_url(tmp_path / f"{name}.db"), SimulatedSite(str(notes), errors=((3, name),)))
    with pytest.raises(TrainingError, match="the base could not be evaluated: WorkerCrashedError"):
        search(sqlite_url(tmp_path / "base.db"), SimulatedSite(str(notes), errors=((0, "exit"),)))
    with pytest.raises(MissingExtraError, match="things"):
        search(sqlite_url(tmp_path / "lacking.db"), LackingSite())


def test_shares(cluster: Any) -> None:
    assert [Share(cpus=2).fitting({"CPU": c}) for c in (1.0, 2.0, 5.0)] == [0, 1, 2]
    assert Share(cpus=1, gpus=0.25).fitting({"CPU": 16.0, "GPU": 2.0}) == 8
    assert Share(cpus=0.1).fitting({"CPU": 1.0}) == 10
    assert capacity(ray, Share(cpus=1)) == 4 and capacity(ray, Share(cpus=2)) == 2
    check_share(ray, Share())
    with pytest.raises(
        TargetError, match="a candidate needs 1 CPU and 1 GPU, and the cluster's nodes have 2 CPU, 0 GPU; 2 CPU, 0 GPU; lower"
    ):
        check_share(ray, Share(gpus=1))


def test_room_is_that_of_the_cluster_unless_said(cluster: Any) -> None:
    assert RayExecutor(ray, LackingSite(), Share(cpus=2)).room == 2
    assert RayExecutor(ray, LackingSite(), Share(), workers=7).room == 7
    assert RayExecutor(ray, LackingSite(), Share(gpus=1)).room == 1  # a node with one may still come
