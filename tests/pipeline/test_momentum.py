"""Candidates go on with their parent's optimizer state where the setting says so."""

from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from rich.console import Console

from jdnas.config import resolve
from jdnas.models.weights import shapes_of
from jdnas.pipeline import workshop as module
from jdnas.pipeline.base import ensure_base
from jdnas.pipeline.context import Context, load_context
from jdnas.pipeline.progress import JobProgress
from jdnas.pipeline.run_folder import RunFolder
from jdnas.pipeline.workshop import StudentWorkshop
from jdnas.search.workshop import Candidate
from jdnas.student.actions import Action
from jdnas.training.loop import FitReport
from jdnas.training.momentum import load_momentum
from tests.pipeline.conftest import NANO


def _context(folder: Path, inherit: bool) -> Context:
    data = {"long_sides": [64], "shapes_train": 4, "shapes_val": 2, "shapes_size": 64}
    settings = {"student": {"width_step": 4, "inherit_optimizer": inherit}, "data_settings": data, "base_train": {"epochs": 2}}
    context = load_context(resolve(str(NANO), settings), RunFolder(folder))
    ensure_base(context, JobProgress(Console(), 1.0, quiet=True), 1.0)
    return context


def _inherited(context: Context, number: int, parent: int, action: Action | None, monkeypatch: pytest.MonkeyPatch) -> object:
    """Evaluate a candidate with a training that does nothing; return the momentum that the training was given."""
    given: list[object] = []

    def train(context, spec, state, settings, *, momentum, **_):
        given.append(None if momentum is None else dict(momentum))
        return state, FitReport(images=1)

    monkeypatch.setattr("jdnas.pipeline.candidate_training.train_detector", train)
    space = StudentWorkshop(context, MagicMock(), context.config.action_rules(context.base_spec))
    data = None if action is None else action.to_dict()
    candidate = Candidate(number, parent, 0, "student", data, context.base_spec, context.base_spec, 1)
    space.evaluate(candidate, space.evolve(candidate))
    return given[0]


def test_momentum_goes_through_actions_from_parent_to_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = _context(tmp_path / "run", inherit=True)
    base = load_momentum(context.folder.base)
    assert base and all(key.startswith(("exp_avg.", "exp_avg_sq.", "step.")) for key in base)
    same = _inherited(context, 1, 0, None, monkeypatch)
    assert isinstance(same, dict) and all(torch.equal(same[key], tensor) for key, tensor in base.items())
    pruned = _inherited(context, 2, 1, Action("prune_channels", ratio=0.2), monkeypatch)
    assert isinstance(pruned, dict) and pruned.keys() == base.keys()
    spec = module.load_detector(context.folder.candidate(2))[0]
    shapes = {key: tensor.shape for key, tensor in pruned.items() if tensor.dim()}
    assert all(shape == shapes_of(spec)[key.partition(".")[2]] for key, shape in shapes.items())
    assert sum(t.numel() for t in pruned.values()) < sum(t.numel() for t in base.values())
    name = "step.backbone.stem.conv.weight"
    assert torch.equal(pruned[name], base[name]) and pruned[name] == 2


def test_without_the_setting_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = _context(tmp_path / "run", inherit=False)
    assert _inherited(context, 1, 0, Action("prune_layer"), monkeypatch) is None
    assert not list(context.folder.root.rglob("*.optimizer.safetensors"))
