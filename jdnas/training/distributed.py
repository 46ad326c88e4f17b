"""Several processes that train one detector: launched by Lightning Fabric, adding up the gradients of a state's tensors.

A state is a plain dict of tensors, so no module is wrapped: after the last backward pass of a step, gradients are summed in buckets.
Each process computes its share of the loss of the global batch (`jdnas.models.global_batch`), so sums need no average.
"""

import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jdnas.errors import ConfigError, MissingExtraError
from jdnas.models.global_batch import Share

_BUCKET_BYTES = 1 << 25


@dataclass(frozen=True)
class Team:
    """The processes of a training, of which this one is number `rank` of `world`; without `fabric` it is alone."""

    rank: int = 0
    world: int = 1
    fabric: Any = None

    def share(self, *, synchronized_norms: bool) -> Share | None:
        """Return what losses and norms need to know; nothing where this process holds the whole batch."""
        if self.world == 1:
            return None
        return Share(self.rank, self.world, self.add_up, synchronized_norms)

    def add_up(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.world == 1:
            return tensor
        result: Tensor = self.fabric.all_reduce(tensor.detach().clone(), reduce_op="sum")
        return result

    @torch.no_grad()
    def add_up_gradients(self, parameters: list[Tensor]) -> None:
        """Sum the gradients of all processes in place; each must have them for the same parameters."""
        if self.world == 1:
            return
        for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
            summed = self.add_up(torch.cat([gradient.reshape(-1) for gradient in bucket]))
            for gradient, values in zip(bucket, torch.split(summed, [gradient.numel() for gradient in bucket]), strict=True):
                gradient.copy_(values.reshape(gradient.shape))

    def largest(self, value: int, device: torch.device) -> int:
        """Return the largest of the processes' values."""
        if self.world == 1:
            return value
        places = torch.zeros(self.world, dtype=torch.int64, device=device)
        places[self.rank] = value
        return int(self.add_up(places).max())

    def from_first(self, value: float) -> float:
        """Return the value that the first process has."""
        return value if self.world == 1 else float(self.fabric.broadcast(value, src=0))

    def leave(self) -> None:
        """End the connections to the other processes, once all of them come to it."""
        if self.world > 1:
            self.wait()
            torch.distributed.destroy_process_group()

    def tensor_from_first(self, tensor: Tensor) -> Tensor:
        """Return the tensor that the first process has, for all that have one of its shape."""
        return tensor if self.world == 1 else self.add_up(tensor if self.rank == 0 else torch.zeros_like(tensor))

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            self.fabric.barrier()


ALONE = Team()


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        bucket.append(gradient)
        size += gradient.numel() * gradient.element_size()
        if size >= _BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def is_first_process() -> bool:
    """Whether this process leads: it writes the run folder, and is the one that a user started (on the first machine)."""
    return all(int(os.environ.get(name, "0")) == 0 for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK"))


def check_team(devices: int, nodes: int) -> None:
    """Raise the error that `launch` would end in."""
    if devices < 1 or nodes < 1:
        raise ConfigError(f"--devices is {devices} and --nodes {nodes}; both must be at least 1")
    if devices * nodes > 1:
        _fabric_class()


def launch(devices: int, nodes: int, device: torch.device) -> Team:
    """Start the other processes of this machine, meet those of the other machines, and return the team.

    The command line is run again in each of them. On more than one machine the user (or torchrun) starts the command on each
    with MASTER_ADDR, MASTER_PORT and NODE_RANK set, and the run folder is one that all of them see.
    """
    if devices * nodes == 1:
        return ALONE
    accelerator = "cuda" if device.type == "cuda" else "cpu"
    if accelerator == "cuda" and torch.cuda.device_count() < devices:
        raise ConfigError(f"--devices {devices} was asked for, but PyTorch finds {torch.cuda.device_count()}; give at most that many")
    fabric = _fabric_class()(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy="ddp")
    fabric.launch()
    return Team(fabric.global_rank, fabric.world_size, fabric)


def _fabric_class() -> Any:
    for name in ("lightning.fabric", "lightning_fabric"):
        try:
            return importlib.import_module(name).Fabric
        except ModuleNotFoundError:
            continue
    raise MissingExtraError("lightning-fabric", "distributed")
