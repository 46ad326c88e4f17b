"""Two CPU processes through the command line, of one machine or of two, beside one process."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from jdnas.errors import ConfigError, MissingExtraError
from jdnas.training import distributed
from jdnas.training.checkpoint import load_tensors, read_json
from jdnas.training.distributed import ALONE, check_team

ROOT = Path(__file__).parents[2]
NANO = ROOT / "tests" / "pipeline" / "nano.yaml"


def start(folder: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
    settings = ["base_train.norm=sync", "base_train.optimizer=sgd", "base_train.lr=0.01", "base_train.epochs=2", "checkpoint_seconds=9"]
    overrides = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "jdnas", "train", "--data", "shapes", "--preset", str(NANO), "--run-dir", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(
        [*command, *overrides, *more], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def ended(*processes: subprocess.Popen[str]) -> list[tuple[int, str]]:
    """Wait for processes that need each other; return their exit codes and what they said on stderr."""
    try:
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def on_two_machines(folder: Path) -> list[tuple[int, str]]:
    """Start the command once for each of two machines, which are both this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return ended(*(start(folder, "--nodes", "2", NODE_RANK=rank, **meeting) for rank in ("0", "1")))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process trains."""
    pytest.importorskip("lightning_fabric")
    folder = tmp_path_factory.mktemp("one") / "run"
    assert ended(start(folder))[0][0] == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("team", [lambda folder: ended(start(folder, "--devices", "2")), on_two_machines], ids=["devices", "nodes"])
def test_two_processes_follow_the_loss_curve_of_one_at_the_same_global_batch(
    one: Path, tmp_path: Path, team: Callable[[Path], list[tuple[int, str]]]
) -> None:
    done = team(tmp_path / "two")
    assert all(code == 0 for code, _ in done), done
    (alone, state), (both, other_state) = (
        (read_json(folder / "base" / "base.json")["meta"], load_tensors(folder / "base" / "base.safetensors"))
        for folder in (one, tmp_path / "two")
    )
    assert alone["images"] == both["images"] == 24
    assert [step for step, _ in alone["curve"]] == [1, 6]  # later, roundings decide which boxes survive
    losses = [(loss, other) for (_, loss), (_, other) in zip(alone["curve"], both["curve"], strict=True)]
    assert losses[0][1] == pytest.approx(losses[0][0], rel=1e-6)  # norms that saw half of the batch would be far off
    # Norms over few pixels leave half a percent of rounding in float32 gradients (tests/models/test_global_batch.py has them in float64).
    assert losses[1][1] == pytest.approx(losses[1][0], rel=3e-3)
    for name, tensor in state.items():
        if tensor.is_floating_point():
            assert (tensor - other_state[name]).norm() <= 1e-2 * tensor.norm() + 1e-3, name


def test_what_cannot_be_shared_is_said_before_anything_is_written(tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric")
    [(code, said)] = ended(start(tmp_path / "run", "--devices", "3"))
    assert code == 2 and not (tmp_path / "run").exists()
    assert said.strip() == "error: a batch of 4 cannot be shared by 3 devices; give a multiple: --set base_train.batch=N"


def test_impossible_teams(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--devices is 0 and --nodes 1; both must be at least 1"):
        check_team(0, 1)
    for name in ("lightning.fabric", "lightning_fabric"):
        monkeypatch.setitem(sys.modules, name, None)
    check_team(1, 1)
    with pytest.raises(MissingExtraError, match=r"jdnas\[distributed\]"):
        check_team(2, 1)


class Echo:
    """Stands for two processes that hold the same gradients."""

    def all_reduce(self, tensor: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "sum"
        return 2 * tensor


def test_gradients_are_summed_in_any_memory_layout_and_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_BUCKET_BYTES", 100)
    parameters = [torch.zeros(4, 3, 3, 3).requires_grad_() for _ in range(3)] + [torch.zeros(5).requires_grad_()]
    values = [torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) for i, p in enumerate(parameters)]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = value.clone()
    parameters[1].grad = values[1].contiguous(memory_format=torch.channels_last).clone()
    parameters[2].grad = None
    distributed.Team(0, 2, Echo()).add_up_gradients(parameters)
    for index in (0, 1, 3):
        assert torch.equal(parameters[index].grad, 2 * values[index])  # type: ignore[arg-type]
    assert parameters[2].grad is None
    ALONE.add_up_gradients(parameters)
    assert torch.equal(parameters[0].grad, 2 * values[0])  # type: ignore[arg-type]
