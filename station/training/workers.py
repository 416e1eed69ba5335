"""The processes of one training: this one alone, or as many as `torchrun` starts, a GPU each."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from station.vision.engine import EngineError


@dataclass(frozen=True)
class Workers:
    """This process among those that train together.

    Gradients are summed here and not by `DistributedDataParallel`, so that the pictures of a batch need not divide evenly: a step descends
    the same batch's gradient whatever the number of processes, up to the order of the sums.
    """

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """One of them speaks, validates and writes."""
        return self.rank == 0

    def share(self, index: Tensor) -> Tensor:
        """This process' part of index (n,): every one is some process', none is two's."""
        return index[self.rank :: self.count]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Every process holds the sum of all processes' gradients afterwards; a process without pictures adds none."""
        if self.count == 1:
            return
        trained = list(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])  # channels-last ones have no view
        dist.all_reduce(flat)
        for parameter, gradient in zip(trained, torch.split(flat, [p.numel() for p in trained]), strict=True):
            parameter.grad = gradient.view_as(parameter)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of all processes' values."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def workers(device: torch.device) -> Iterator[Workers]:
    """Joins those that `torchrun` started, each on a device of its own; alone without it.

    Raises:
        EngineError: there are more processes than GPUs.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Workers()
        return
    cuda = device.type == "cuda"
    if cuda:
        own = int(os.environ["LOCAL_RANK"])
        if own >= torch.cuda.device_count():
            raise EngineError(f"torchrun: process {own} finds no GPU of its own; start at most {torch.cuda.device_count()}")
        torch.cuda.set_device(own)
    # The others wait while one validates or writes.
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=2))
    try:
        yield Workers(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
