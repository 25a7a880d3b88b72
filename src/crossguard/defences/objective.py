"""What a defence is to the training loop: batches in, losses out, with its own state in the checkpoint."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from crossguard.core.batch import Batch
from crossguard.core.random import combine
from crossguard.core.task import Task
from crossguard.data.base import Dataset
from crossguard.threat import ThreatModel


@dataclass
class Work:
    """Sample-forwards and sample-backwards paid so far."""

    forwards: int = 0
    backwards: int = 0


@dataclass(frozen=True)
class Losses:
    """One step's answer: the scalar `total` to descend, its `parts` by name (detached), and the fused `logits`."""

    total: Tensor
    parts: dict[str, Tensor]
    logits: Tensor


@dataclass(frozen=True)
class Context:
    """Where training stands: `epoch` of `epochs`, global `step` of `steps`; `work` is added to by whoever pays it.

    `amp` is the type of mixed precision, None for full precision. `total` sums counts over all processes that train the
    model, by which they decide alike; all must call it.
    """

    task: Task
    threat: ThreatModel | None = None
    epoch: int = 0
    epochs: int = 1
    step: int = 0
    steps: int = 1
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    amp: torch.dtype | None = None
    work: Work = field(default_factory=Work)
    total: Callable[..., list[int]] = lambda *counts: list(counts)

    def draw(self, *parts: int) -> int:
        """A random whole number in [0, 2^31), a function of (seed, step, parts): the same after a resume."""
        return int(combine(torch.tensor([self.seed]), self.step, *parts)) & 0x7FFFFFFF

    def precision(self, *, weights: bool) -> AbstractContextManager[Any]:
        """Mixed precision, if it is on, for one pass; `weights` says whether weight gradients will be wanted of it.

        Those stay in full precision on the CPU: oneDNN's bf16 weight gradient of conv3d reads memory that nobody wrote
        (torch 2.13; e.g. 16 to 16 channels on two frames). One context a pass, because casts made without gradients
        must not outlive it.
        """
        on = self.amp is not None and not (weights and self.device.type == "cpu")
        return torch.autocast(self.device.type, dtype=self.amp or torch.bfloat16, enabled=on)


class Objective(Protocol):
    """How a model is trained; a subclass that keeps no state needs `step` alone.

    A frozen dataclass is the usual form: its fields are the options that a recipe may set, and what it keeps from step
    to step is a field that is not (`init=False`), filled in place. `robust` says whether the
    checkpoint is chosen by accuracy under attack: of a model that was never trained for it, that accuracy is near 0 and
    its best epoch an accident.
    """

    robust: ClassVar[bool] = True

    @abstractmethod
    def step(self, model: nn.Module, batch: Batch, context: Context) -> Losses:
        """The losses of one batch; gradients are the loop's business. The model comes in training mode."""

    def check(self, model: nn.Module, context: Context) -> None:
        """Raise before any work where the options cannot fit this model, task or threat model."""

    def epoch_start(self, model: nn.Module, dataset: Dataset, context: Context) -> None:
        """Called before an epoch's first batch with the training data; not again where a run resumes mid-epoch."""

    def begins(self, context: Context) -> bool:
        """Whether this step still trains on clean samples alone, before any attack; patience is not tried then."""
        return False

    def after_backward(self, model: nn.Module, context: Context) -> None:
        """Called between the backward pass and the optimizer's step."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know: a nest of dicts, lists, numbers, strings and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`; given {}, where a run begins, forget what another run left."""

    def describe(self) -> dict[str, Any]:
        """Name and options as JSON, by which a resumed run knows that it is the same one."""
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.init} if is_dataclass(self) else {}
        return {"name": type(self).__name__, **options}
