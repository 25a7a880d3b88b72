"""Several processes that train one model: started by torchrun, or alone.

Gradients (and the buffers of batch normalisation) are averaged in one flat all-reduce after the backward pass, each
rank weighing as many samples as it had: exactly the gradient of the whole batch for a loss that is a mean over its
samples. What is a mean over fewer of them (auxiliary losses and terms, where modalities are absent) is one over those
of each rank first, and statistics of batch normalisation are each rank's own. Against DistributedDataParallel this
gives up overlapping one of the k + 2 passes of a step with communication, and gains a model that stays bare: attacks,
several forward passes a step and unused heads need no special care.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from crossguard.core.errors import RunError


@dataclass(frozen=True)
class Ranks:
    """This process's `rank` of `world`."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009, it is immutable

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0

    def total(self, *counts: int) -> list[int]:
        """The sums over all ranks, exact."""
        if self.world == 1:
            return list(counts)
        tensor = torch.tensor(counts, dtype=torch.int64, device=self.device)
        distributed.all_reduce(tensor)
        return tensor.tolist()

    def begin_together(self, model: nn.Module) -> None:
        """Every rank starts from the first one's weights and buffers."""
        if self.world > 1:
            for tensor in [*model.parameters(), *model.buffers()]:
                distributed.broadcast(tensor.detach(), 0)

    def average(self, model: nn.Module, samples: int, whole: int) -> None:
        """Average gradients and floating-point buffers over ranks, weighed by `samples` of `whole`; in place.

        A gradient that this rank lacks counts as 0, one that every rank lacks is left None.
        """
        if self.world == 1:
            return
        parameters = [p for p in model.parameters() if p.requires_grad]
        device = parameters[0].device
        has = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=device)
        distributed.all_reduce(has)
        for parameter, ranks in zip(parameters, has.tolist(), strict=True):
            if ranks and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        tensors: list[Tensor] = [p.grad for p in parameters if p.grad is not None]  # pyright: ignore[reportUnnecessaryComparison]
        tensors += [b for b in model.buffers() if b.is_floating_point()]
        for dtype in sorted({t.dtype for t in tensors}, key=str):
            _reduce([t for t in tensors if t.dtype == dtype], samples / whole)

    def agree(self, work: Callable[[], None], *, everyone: bool = False) -> None:
        """Do `work` on the first rank, or on every one; all raise where it fails, those where it did not RunError, so
        that none waits for ever."""
        error: Exception | None = None
        if self.first or everyone:
            try:
                work()
            except Exception as caught:  # whatever it is, the others must hear of it
                error = caught
        if self.total(int(error is not None))[0]:
            raise error or RunError("another process could not go on; its message says why")


def _reduce(tensors: list[Tensor], weight: float) -> None:
    flat = torch.cat([t.detach().reshape(-1) for t in tensors]).mul_(weight)
    distributed.all_reduce(flat)
    for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.detach().copy_(mean.view_as(tensor))


@contextmanager
def ranks(device: torch.device) -> Generator[Ranks]:
    """The processes that torchrun started (WORLD_SIZE in the environment), or this one alone.

    Joins them (gloo on the CPU, nccl on CUDA, one device a process) and leaves them at the end; a process group that
    exists already is used as it is. Raises RunError where torchrun's variables are incomplete.
    """
    if distributed.is_available() and distributed.is_initialized():
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), device)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks(device=device)
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise RunError(f"WORLD_SIZE is set but {', '.join(missing)} is not; start with torchrun, or unset WORLD_SIZE")
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """This process's device: under torchrun "cuda" means the one of its local rank."""
    if str(device) == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device
