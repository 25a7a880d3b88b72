"""A further term of a training loss: a function of what the model returns and of what it was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from crossguard.core.batch import Batch, Need, Output
from crossguard.core.errors import ModelError
from crossguard.core.task import Task


@dataclass(frozen=True)
class Given:
    """What a model was given: a batch, its task, and the modalities that were `attacked` in it."""

    batch: Batch
    task: Task
    attacked: tuple[str, ...] = ()

    def present(self, names: Sequence[str]) -> Tensor:
        """(N, M) bool: which modalities are there."""
        return torch.stack([self.batch.present(name) for name in names], dim=1)

    def hit(self, names: Sequence[str]) -> Tensor:
        """(N, M) bool: which modalities were attacked where they are there."""
        touched = torch.tensor([name in self.attacked for name in names], device=self.batch.targets.device)
        return self.present(names) & touched


@dataclass(frozen=True)
class Term:
    """`value(output, given)` is a scalar, to be descended; `need` is what the model must return for it."""

    need: Need
    value: Callable[[Output, Given], Tensor]


def asked(name: str, part: Mapping[str, Tensor] | None, what: str, least: int = 1) -> dict[str, Tensor]:
    """What the model returned for a term; raises ModelError where it is missing or has fewer than `least` entries."""
    if part is None or len(part) < least:
        found = "none" if part is None else f"those of {sorted(part)}"
        raise ModelError(
            f"the term {name!r} needs {what} of {least} modalities or more, the model returns {found}; leave the term "
            f"out, or take a model that has them"
        )
    return {key: full(x) for key, x in part.items()}


def full(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def mean_where(values: Tensor, where: Tensor) -> Tensor:
    """The mean of `values` (N,) over the samples in `where`; 0 where there is none."""
    weight = where.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp_min(1)


def mean_over_pairs(names: Sequence[str], given: Given, value: Callable[[str, str], Tensor]) -> Tensor:
    """The mean over pairs of modalities of (N,) values, each over the samples that have both."""
    there = dict(zip(names, given.present(names).unbind(1), strict=True))
    return torch.stack([mean_where(value(a, b), there[a] & there[b]) for a, b in combinations(names, 2)]).mean()
