import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from jdnas.training.checkpoint import load_tensors, read_json
from jdnas.training.distributed import Team
from tests.teacher import team_member


@pytest.mark.skipif(not dist.is_available(), reason="this PyTorch has no distributed package")
def test_two_processes_train_the_pool_that_one_would(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.teacher.team_member"]
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=root) for rank in range(team_member.WORLD)]
    alone, reports = team_member.train(tmp_path / "alone", "batch", Team())
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    states = [load_tensors(tmp_path / f"state_{rank}.safetensors") for rank in range(2)]
    visits = [read_json(tmp_path / f"visits_{rank}.json")["visited"] for rank in range(2)]
    assert visits[0] == visits[1] == [report.visited for report in reports]
    for name, tensor in alone.items():
        if tensor.is_floating_point() and ".running_" not in name:
            assert torch.equal(states[0][name], states[1][name]), name
            assert torch.allclose(states[0][name], tensor, atol=2e-5), name
    start = team_member.fresh_state(team_member.settings_of("batch"))["backbone.stem.conv.weight"]
    assert not torch.allclose(alone["backbone.stem.conv.weight"], start, atol=2e-4)


def test_pool_with_frozen_norms_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="running statistics are those of no subnet"):
        team_member.train(tmp_path, "frozen", Team())
