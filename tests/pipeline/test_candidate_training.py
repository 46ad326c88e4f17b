"""What may go wrong in a candidate's training, injected into the real one."""

import errno
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jdnas.models.complexity import multiply_adds
from jdnas.pipeline import detector_training
from jdnas.pipeline.candidate_training import in_more_parts, is_out_of_memory, metrics_of, train_candidate
from jdnas.search.climb import SearchResult, run
from jdnas.search.halving import Rung
from jdnas.search.objective import objective_for
from jdnas.search.settings import SearchSettings
from jdnas.search.study import SearchStudy, sqlite_url
from jdnas.search.workshop import SizeHW
from jdnas.spec import DetectorSpec
from jdnas.training.checkpoint import has_detector, load_tensors
from jdnas.training.settings import TrainSettings
from tests.pipeline.tiny import Tiny, make_tiny

CPU_ALLOCATOR = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes. "
    "Error code 12 (Cannot allocate memory)\nsecond line"
)
OUT_OF_MEMORY = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"), CPU_ALLOCATOR, MemoryError()]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("tiny") / "run")


def cost(spec: DetectorSpec, size_hw: SizeHW) -> float:
    return float(multiply_adds(spec, size_hw))


def search(tiny: Tiny, folder: Path, **settings: object) -> SearchResult:
    """Search with the real workshop; only students are changed, so that every candidate descends from what was trained."""
    rules = SearchSettings.model_validate(
        {"trials": 3, "patience": 99, "refuse": False, "stop_early": False, "seed": 1, "student_probability": 1.0, **settings}
    )
    with SearchStudy.open(sqlite_url(folder / "study.db"), tiny.task, rules) as study:
        return run(study, tiny.workshop, cost)


class Faulty:
    """Stands for `fit`'s loss: what `fault(batch_rows, call)` raises is raised, before anything is computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fault: Callable[[int, int], BaseException | None]) -> None:
        self.rows: list[int] = []
        genuine = detector_training.DetectorLoss.__call__

        def call(loss: Any, batch: Any, step: int) -> Iterator[Any]:
            self.rows.append(len(batch.images))
            if (error := fault(len(batch.images), len(self.rows))) is not None:
                raise error
            yield from genuine(loss, batch, step)

        monkeypatch.setattr(detector_training.DetectorLoss, "__call__", call)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_memory_that_runs_out_is_retried_in_half_the_batch(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    faulty = Faulty(monkeypatch, lambda rows, call: error if rows > 2 else None)
    outcome = tiny.workshop.evaluate(tiny.taught(), tiny.context.base_spec)
    settings = tiny.context.config.candidate_train
    assert settings.batch == 4 and faulty.rows == [4, *[2] * 4]  # two steps of 4 images, in two parts each
    assert outcome.images == 8 and outcome.note is not None and "in 2 parts a step, because memory ran out" in outcome.note
    assert "\n" not in outcome.note


def test_the_retry_is_a_training_in_parts_from_the_start(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out in the second step, and nothing of the first one is left in weights or optimizer state."""
    context, spec = tiny.context, tiny.context.base_spec
    halved = in_more_parts(context.config.candidate_train)
    assert halved is not None and halved.accumulate == 2
    momentum: dict[str, torch.Tensor] = {}
    first = train_candidate(context, spec, tiny.state, halved, seed=3, momentum=momentum)
    assert momentum == {} and first.momentum
    expected = train_candidate(context, spec, tiny.state, halved, seed=4, momentum=first.momentum)
    Faulty(monkeypatch, lambda rows, call: MemoryError() if rows > 2 and call == 2 else None)
    before = {name: tensor.clone() for name, tensor in first.momentum.items()}
    got = train_candidate(context, spec, tiny.state, context.config.candidate_train, seed=4, momentum=first.momentum)
    assert all(torch.equal(got.state[name], tensor) for name, tensor in expected.state.items())
    assert got.momentum is not None and all(torch.equal(got.momentum[n], t) for n, t in (expected.momentum or {}).items())
    assert all(torch.equal(first.momentum[name], tensor) for name, tensor in before.items())


def test_memory_that_runs_out_again_fails_the_candidate_and_no_other(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = Faulty(monkeypatch, lambda rows, call: CPU_ALLOCATOR if call in (1, 2) else None)
    history = search(tiny, tmp_path).history
    assert [trial.state for trial in history] == ["complete", "failed", "complete", "complete"]
    assert history[1].reason is not None and history[1].reason.startswith("RuntimeError: [enforce fail at alloc_cpu.cpp:121]")
    assert faulty.rows[:3] == [4, 2, 4]


def test_evaluation_is_retried_with_half_as_many_images(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, genuine, seen = metrics_of(tiny.context, tiny.context.base_spec, tiny.state), detector_training.evaluate, []

    def evaluate(*args: Any, batch: int, **kwargs: Any) -> Any:
        seen.append(batch)
        if batch > 4:
            raise torch.OutOfMemoryError("out")
        return genuine(*args, batch=batch, **kwargs)

    monkeypatch.setattr(detector_training, "evaluate", evaluate)
    assert metrics_of(tiny.context, tiny.context.base_spec, tiny.state) == expected
    assert seen == [8, 4, 4]


@pytest.mark.parametrize(
    ("settings", "parts"),
    [((16, 1), 2), ((16, 2), 4), ((16, 16), None), ((1, 1), None), ((6, 2), 6), ((9, 1), 3), ((6, 1), 2), ((7, 1), 7)],
)
def test_steps_stay_what_they_are(settings: tuple[int, int], parts: int | None) -> None:
    halved = in_more_parts(TrainSettings(batch=settings[0], accumulate=settings[1]))
    assert (None if halved is None else halved.accumulate) == parts
    assert halved is None or halved.batch == settings[0]


def test_what_out_of_memory_is() -> None:
    assert all(map(is_out_of_memory, OUT_OF_MEMORY))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"))
    assert not is_out_of_memory(RuntimeError("shape mismatch")) and not is_out_of_memory(ValueError("out of memory"))
    asked = torch.empty
    with pytest.raises(RuntimeError) as caught:
        asked(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_a_loss_that_is_never_finite_fails_the_candidate_and_no_other(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, genuine = [0], detector_training.DetectorLoss._terms

    def terms(loss: Any, batch: Any, step: int) -> Any:
        calls[0] += 1
        found = genuine(loss, batch, step)
        return {name: term * math.nan for name, term in found.items()} if calls[0] <= 2 else found  # the two steps of candidate 1

    monkeypatch.setattr(detector_training.DetectorLoss, "_terms", terms)
    history = search(tiny, tmp_path).history
    assert [trial.state for trial in history] == ["complete", "failed", "complete", "complete"]
    assert history[1].reason == "TrainingError: the loss was not finite in any of 2 steps; lower the learning rate"
    assert 1 not in {trial.parent for trial in history}


def test_a_loss_that_is_not_finite_once_is_passed_over(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine, calls = detector_training.DetectorLoss._terms, [0]

    def terms(loss: Any, batch: Any, step: int) -> Any:
        calls[0] += 1
        return {name: term * (math.nan if calls[0] == 1 else 1.0) for name, term in genuine(loss, batch, step).items()}

    monkeypatch.setattr(detector_training.DetectorLoss, "_terms", terms)
    trained = train_candidate(tiny.context, tiny.context.base_spec, tiny.state, tiny.context.config.candidate_train, seed=0)
    assert (trained.report.steps, trained.report.skipped) == (2, 1)


@pytest.mark.parametrize("damage", ["truncated", "missing", "other"])
def test_unreadable_parent_weights_fail_the_candidate_and_no_other(tiny: Tiny, tmp_path: Path, damage: str) -> None:
    """The base's weights are made unreadable for one candidate, by a workshop that damages them before and mends them after."""
    path = tiny.context.folder.base.with_suffix(".safetensors")
    whole = path.read_bytes()

    class Damaging(type(tiny.workshop)):  # type: ignore[misc]
        def evolve(self, candidate: Any) -> Any:
            if candidate.number == 1:
                if damage == "missing":
                    path.unlink()
                else:
                    path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"no weights at all")
            try:
                return super().evolve(candidate)
            finally:
                path.write_bytes(whole)

    workshop = Damaging(tiny.context, tiny.pool, tiny.workshop.rules)
    rules = SearchSettings(trials=3, patience=99, refuse=False, stop_early=False, seed=1, student_probability=1.0)
    with SearchStudy.open(sqlite_url(tmp_path / "study.db"), tiny.task, rules) as study:
        history = run(study, workshop, cost).history
    assert [trial.state for trial in history] == ["complete", "failed", "complete", "complete"]
    wording = "no such weight file" if damage == "missing" else "is truncated or no safetensors file"
    assert history[1].reason is not None and history[1].reason.startswith("CheckpointError: ") and wording in history[1].reason


def test_a_full_disk_ends_the_search_with_the_file_and_the_candidate_is_done_again(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = search(tiny, tmp_path, trials=2).history
    (again := tmp_path / "again").mkdir()
    full, genuine = [True], os.fdopen

    def fdopen(handle: int, mode: str, *args: Any, **kwargs: Any) -> Any:
        if full[0] and mode == "wb":
            os.close(handle)
            return open("/dev/full", "wb", buffering=0)  # noqa: SIM115  (the caller closes it)
        return genuine(handle, mode, *args, **kwargs)

    monkeypatch.setattr(os, "fdopen", fdopen)
    with pytest.raises(OSError, match="No space left on device") as caught:
        search(tiny, again, trials=2)
    assert caught.value.errno == errno.ENOSPC and str(caught.value.filename).endswith("student.safetensors")
    full[0] = False
    with SearchStudy.load(sqlite_url(again / "study.db")) as study:
        assert [candidate.number for candidate in study.running] == [1] and len(study.history) == 1
    resumed = search(tiny, again, trials=2).history
    assert [replace(t, seconds=0, overhead_seconds=0) for t in resumed] == [replace(t, seconds=0, overhead_seconds=0) for t in undisturbed]
    left = [path.name for path in tiny.context.folder.root.rglob(".*") if path.name.startswith(".student")]
    assert left == []


def test_a_stopped_candidate_was_trained_for_its_first_epochs_alone(tiny: Tiny) -> None:
    context = replace(
        tiny.context, config=tiny.context.config.model_copy(update={"candidate_train": TrainSettings(epochs=2, batch=4, lr=1e-4)})
    )
    workshop = replace(tiny.workshop, context=context)
    candidate = tiny.pruned(number=5)
    student = workshop.evolve(candidate)
    costs = {"64x64": 1.0, "96x96": 2.0}
    objective = objective_for(tiny.task, cost, SearchSettings())
    stopped = workshop.evaluate(candidate, student, Rung(1.0, 2.0).of(objective, costs))
    assert stopped.images == 12 and stopped.stopped is not None and stopped.metrics == {}
    assert set(stopped.early_aps or {}) == set(costs)
    assert not has_detector(context.folder.candidate(5))
    looked = workshop.evaluate(candidate, student, Rung(1.0, None).of(objective, costs))
    assert looked.images == 24 and looked.stopped is None and looked.early_aps == stopped.early_aps
    kept = load_tensors(context.folder.candidate(5).with_suffix(".safetensors"))
    unseen = workshop.evaluate(candidate, student)
    assert unseen.early_aps is None and unseen.metrics == looked.metrics
    after = load_tensors(context.folder.candidate(5).with_suffix(".safetensors"))
    assert all(torch.equal(after[name], tensor) for name, tensor in kept.items())  # looking leaves no trace
    short = workshop.evaluate(candidate, student, Rung(2.0, 2.0).of(objective, costs))
    assert short.stopped is None and short.early_aps is None  # its end is no look


def test_an_interrupted_training_is_no_failure(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Faulty(monkeypatch, lambda rows, call: KeyboardInterrupt() if call == 2 else None)
    result = search(tiny, tmp_path)
    assert result.stopped_by == "interrupt" and [trial.number for trial in result.history] == [0]
