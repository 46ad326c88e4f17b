"""One process of a team that trains a pool: python -m tests.teacher.team_member RANK FOLDER."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from jdnas.data.types import Batch
from jdnas.distill.settings import DistillSettings
from jdnas.models.detector import build
from jdnas.models.weights import State
from jdnas.teacher.settings import PhaseSettings, PoolSettings
from jdnas.teacher.shrink import PhaseReport, train_pool
from jdnas.teacher.space import make_space
from jdnas.training.checkpoint import save_tensors, write_json
from jdnas.training.distributed import Team
from jdnas.training.settings import TrainSettings
from tests.teacher.conftest import small_spec
from tests.teacher.test_shrink import make_batch

WORLD = 2
PHASES = (PhaseSettings(epochs=1, depth_share=1.0, widths=(1.0, 1.5), subnets=1),)


class Gloo:
    """What a team asks of Lightning Fabric, on gloo."""

    def all_reduce(self, tensor: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "sum"
        dist.all_reduce(tensor)
        return tensor

    def broadcast(self, value: Any, src: int) -> Any:
        values = [value]
        dist.broadcast_object_list(values, src)
        return values[0]

    def barrier(self) -> None:
        dist.barrier()


def settings_of(norm: str) -> PoolSettings:
    """Return the settings of the small pool."""
    train = TrainSettings(batch=WORLD, optimizer="sgd", lr=1e-2, norm=norm)  # type: ignore[arg-type]
    return PoolSettings(widths=(1.0, 1.5), phases=PHASES, train=train)


def fresh_state(settings: PoolSettings) -> State:
    """Return weights of the largest net in which no subnet computes what it does."""
    torch.manual_seed(0)
    return build(make_space(small_spec(), settings).largest).state_dict()


def train(folder: Path, norm: str, team: Team) -> tuple[State, list[PhaseReport]]:
    """Train the small pool on its part of every batch."""
    settings = settings_of(norm)
    # Not grown: subnets that compute what the largest net does stand where the localization term has no gradient of its own.
    space, state = make_space(small_spec(), settings), fresh_state(settings)
    rows = slice(team.rank, team.rank + 1) if team.world > 1 else slice(None)

    def batches(seed: int, start: int) -> Iterator[Batch]:
        step = start
        while True:
            whole = make_batch(seed * 100 + step)
            yield replace(whole, **{name: getattr(whole, name)[rows] for name in Batch.__dataclass_fields__})
            step += 1

    distill = DistillSettings(feature=0.1)
    return train_pool(
        state, space, settings, distill, images=6, batches=batches, device=torch.device("cpu"), seed=1, folder=folder, team=team
    )


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=WORLD)
    state, reports = train(folder / "pool", "sync", Team(rank, WORLD, Gloo()))
    save_tensors(folder / f"state_{rank}.safetensors", state)
    write_json(folder / f"visits_{rank}.json", {"visited": [report.visited for report in reports]})
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
