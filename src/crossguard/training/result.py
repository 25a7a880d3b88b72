"""What a training run says about itself: while it goes on, and at its end."""

from __future__ import annotations

import math
import resource
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from crossguard.defences.objective import Work
from crossguard.training.validation import Accuracy


@dataclass(frozen=True)
class Price:
    """What training cost, over all resumes and processes: seconds, sample-forwards and -backwards (validation apart).

    `cpu_seconds` are those that the first process computed, on all its threads: what other programs on the machine take
    is not in them. `peak_memory_mb` is the device's, on the CPU the whole process's.
    """

    seconds: float
    cpu_seconds: float
    forwards: int
    backwards: int
    validation_seconds: float
    validation_forwards: int
    validation_backwards: int
    peak_memory_mb: float
    parameters: int


@dataclass(frozen=True)
class Progress:
    """Said after every step (`loss`) and every validation (`accuracy`)."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float | None = None
    accuracy: Accuracy | None = None


@dataclass(frozen=True)
class TrainResult:
    """`model` with its best weights, in eval mode; `history` has one entry an epoch (losses, rate, accuracies)."""

    model: nn.Module
    history: list[dict[str, Any]]
    best_epoch: int
    accuracy: Accuracy
    epochs: int
    steps: int
    price: Price

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without the model."""
        fields = {name: getattr(self, name) for name in ("best_epoch", "epochs", "steps", "history")}
        return {**fields, "accuracy": asdict(self.accuracy), "price": asdict(self.price)}


@dataclass
class Means:
    """Running means of named losses, each step weighing its samples; `counts`: those that each name was seen on, since
    not every step has every part."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    samples: int = 0
    seconds: float = 0.0

    def add(self, values: dict[str, float], samples: int, seconds: float) -> None:
        """One step."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * samples
            self.counts[name] = self.counts.get(name, 0) + samples
        self.samples += samples
        self.seconds += seconds

    def take(self) -> dict[str, float]:
        """The means so far and the throughput; begins anew."""
        means = {name: value / self.counts[name] for name, value in self.sums.items()}
        means["samples_per_second"] = round(self.samples / max(self.seconds, 1e-9), 1)
        self.sums, self.counts, self.samples, self.seconds = {}, {}, 0, 0.0
        return means


@dataclass
class State:
    """Where a run stands; all of it goes into a checkpoint. `epoch` epochs and `batch` batches of the next are done."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    waited: int = 0
    best_epoch: int = 0
    best: Accuracy | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    validation_seconds: float = 0.0
    training: Work = field(default_factory=Work)
    validation: Work = field(default_factory=Work)
    peak_memory_mb: float = 0.0
    since_line: Means = field(default_factory=Means)
    since_epoch: Means = field(default_factory=Means)

    def to_dict(self) -> dict[str, Any]:
        """As JSON; the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> State:
        """From JSON; the inverse of `to_dict`."""
        nested: dict[str, Any] = {"training": Work, "validation": Work, "since_line": Means, "since_epoch": Means}
        fields: dict[str, Any] = {**data, **{name: kind(**data[name]) for name, kind in nested.items()}}
        fields["best"] = None if data["best"] is None else Accuracy(**data["best"])
        return cls(**fields)

    def see_memory(self, device: torch.device) -> None:
        """Note the peak so far."""
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device) / 2**20
        else:
            unit = 2**20 if sys.platform == "darwin" else 2**10
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        self.peak_memory_mb = max(self.peak_memory_mb, round(peak, 1))

    def price(self, model: nn.Module) -> Price:
        """What has been paid so far."""
        return Price(
            seconds=self.seconds,
            cpu_seconds=self.cpu_seconds,
            forwards=self.training.forwards,
            backwards=self.training.backwards,
            validation_seconds=self.validation_seconds,
            validation_forwards=self.validation.forwards,
            validation_backwards=self.validation.backwards,
            peak_memory_mb=self.peak_memory_mb,
            parameters=sum(math.prod(p.shape) for p in model.parameters()),
        )
