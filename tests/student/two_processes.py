"""What each of two processes does in the test of the penalty under DDP; imports little, since both import it anew."""

import os

import torch
from torch import Tensor, nn

from jdnas.student.penalty import sparsity_penalty

DATA = torch.tensor([[1.0, 2.0], [3.0, -4.0], [0.5, 6.0], [7.0, 1.0]])


class Scale(nn.Module):
    """One layer whose gammas are penalized."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.tensor([0.5, -1.5]))

    def forward(self, x: Tensor) -> Tensor:
        return (self.gamma * x).mean() + sparsity_penalty({"gamma": self.gamma}, ["gamma"], 0.25)


def work(rank: int, folder: str) -> None:
    """Go back from the loss of half the data and leave the averaged gradient in a file."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(Scale())
    model(DATA[2 * rank : 2 * rank + 2]).backward()
    torch.save(model.module.gamma.grad, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
