"""The polish phase on a tiny run, and what the job reports of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from jdnas.models.complexity import multiply_adds
from jdnas.pipeline import polish as module
from jdnas.pipeline.polish import polish
from jdnas.pipeline.pool import outgrown_pool
from jdnas.pipeline.progress import JobProgress
from jdnas.pipeline.scalars import Scalars
from jdnas.pipeline.search import search_objective
from jdnas.search.attempt import Bench, Judge, attempt
from jdnas.search.history import Trial
from jdnas.training.checkpoint import load_detector
from jdnas.training.schedule import steps_of
from tests.pipeline.conftest import jdnas
from tests.pipeline.tiny import Tiny, make_tiny


def cost(spec, size_hw) -> float:
    return float(multiply_adds(spec, size_hw))


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return make_tiny(tmp_path / "run", "search.polish_epochs=1.0")


def progress() -> JobProgress:
    return JobProgress(Console(quiet=True), 1.0, quiet=True)


def winner(tiny: Tiny) -> Trial:
    judge = Judge(tiny.task, search_objective(tiny.context, cost))
    return attempt(tiny.pruned(), Bench(tiny.workshop, cost), judge)


def test_without_epochs_the_student_stays_as_it_is(tmp_path: Path) -> None:
    plain = make_tiny(tmp_path / "run")
    student = winner(plain)
    state = load_detector(plain.context.folder.candidate(1))[1]
    final = polish(plain.context, plain.pool, student, state, search_objective(plain.context, cost), progress(), 1.0)
    assert final.trial is student and final.state is state and final.polish is None and final.images == 0
    assert not plain.context.folder.polished.parent.exists()


def test_its_losses_are_recorded(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[tuple[str, int]] = []
    monkeypatch.setattr(Scalars, "add", lambda self, name, value, step: recorded.append((name, step)))
    context = replace(tiny.context, scalars=Scalars(tiny.context.folder.root / "tensorboard"))
    student = winner(tiny)
    state = load_detector(tiny.context.folder.candidate(student.number))[1]
    polish(context, tiny.pool, student, state, search_objective(context, cost), progress(), 1.0)
    steps = steps_of(1.0, len(context.train.records), context.config.candidate_train.batch)
    assert [step for name, step in recorded if name == "polish/loss"] == list(range(1, steps + 1))


@pytest.mark.parametrize("ap", [0.0, 0.9])
def test_the_better_one_leaves_and_both_are_reported(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, ap: float) -> None:
    """The student has AP 0.5 for the purpose; its polished weights are made to have less, or more."""
    student = winner(tiny)
    metrics = {size: values | {"ap": 0.5} for size, values in student.metrics.items()}
    objective = search_objective(tiny.context, cost)
    size, score = objective.best(dict.fromkeys(metrics, 0.5), student.costs)
    student = replace(student, metrics=metrics, ap=0.5, size=size, cost=student.costs[size], score=score)
    genuine = module.metrics_of
    monkeypatch.setattr(module, "metrics_of", lambda *a: {size: values | {"ap": ap} for size, values in genuine(*a).items()})
    state = load_detector(tiny.context.folder.candidate(1))[1]
    final = polish(tiny.context, tiny.pool, student, state, objective, progress(), 1.0)
    assert final.polish is not None
    assert final.polish["unpolished"] == {"ap": 0.5, "size": size, "cost": student.cost, "score": score}
    assert final.polish["polished"]["ap"] == ap and final.polish["images"] == 12
    if ap:
        assert (final.polish["delivered"], final.images, final.trial.ap) == ("polished", 12, 0.9)
        assert any(not torch.equal(final.state[name], tensor) for name, tensor in state.items())
    else:
        assert (final.polish["delivered"], final.images, final.trial) == ("unpolished", 0, student)
        assert final.state is state


@pytest.mark.parametrize(("ap", "until", "said"), [(0.9, None, True), (0.9, 4.0, False), (0.0, None, False)])
def test_a_student_that_has_outgrown_its_teachers(tiny: Tiny, ap: float, until: float | None, said: bool) -> None:
    distill = tiny.context.config.distill.model_copy(update={"until_epochs": until})
    context = replace(tiny.context, config=tiny.context.config.model_copy(update={"distill": distill}))
    lines = outgrown_pool(context, ap)
    assert bool(lines) == said
    assert not said or "(AP 0.900) has outgrown the largest teacher (AP 0.0" in lines[0] and "distill.until_epochs=4" in lines[0]


def test_it_is_done_once_for_a_student_and_a_length(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    student, objective = winner(tiny), search_objective(tiny.context, cost)
    state = load_detector(tiny.context.folder.candidate(1))[1]
    polish(tiny.context, tiny.pool, student, state, objective, progress(), 1.0)
    stem, trainings = tiny.context.folder.polished, []
    kept = stem.with_suffix(".safetensors").read_bytes()
    genuine = module.train_candidate
    monkeypatch.setattr(module, "train_candidate", lambda *a, **k: trainings.append(1) or genuine(*a, **k))
    polish(tiny.context, tiny.pool, student, state, objective, progress(), 1.0)
    assert trainings == [] and stem.with_suffix(".safetensors").read_bytes() == kept
    other = replace(student, candidate=replace(student.candidate, number=2))
    polish(tiny.context, tiny.pool, other, state, objective, progress(), 1.0)
    assert trainings == [1] and not list(stem.parent.glob("*.partial*"))


@pytest.mark.slow
def test_optimize_reports_both_and_gives_the_control_as_many_images(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_tiny(folder)
    code, out, err = jdnas("optimize", "--run-dir", folder, "--resume", "--trials", 1, "--polish-epochs", 2)
    assert code == 0, out + err
    summary = json.loads((folder / "summary.json").read_text())
    record = summary["student"]["polish"]
    assert "polished: AP" in " ".join(out.split()) and record["epochs"] == 2
    delivered = record[record["delivered"]]
    assert (summary["student"]["ap"], summary["student"]["score"]) == (delivered["ap"], delivered["score"])
    assert delivered["score"] == max(record["polished"]["score"], record["unpolished"]["score"])
    own = 24 if record["delivered"] == "polished" else 0
    assert summary["control"]["extra_images"] == own + (8 if summary["student"]["trial"] else 0)
    drawn = json.loads((folder / "report_data.json").read_text())
    assert (drawn["delivered"]["ap"], drawn["delivered"]["cost"]) == (delivered["ap"], delivered["cost"])
    assert drawn["control_cost"] > 0
    assert "Polishing for 2.0 epochs" in (folder / "report.html").read_text()
