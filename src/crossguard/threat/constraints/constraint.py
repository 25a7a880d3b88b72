"""What every constraint can say, and the registry in which each announces itself by its `kind`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from crossguard.core.errors import ThreatError

# Halvings on a segment to the clean sample: a point keeps all but 2^-10 of what is allowed of it.
HALVINGS = 10

CONSTRAINTS: dict[str, type[Constraint]] = {}


@dataclass(frozen=True)
class Constraint:
    """What holds besides a budget's norm; the clean sample always satisfies it.

    `mask` is the sample's own: what is real. Parameters are numbers and nested tuples, so that JSON can say them.
    """

    kind: ClassVar[str]
    # Whether one `project` reaches the constraint and keeps it through the projection on the ball that follows.
    exact: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        if "kind" in cls.__dict__:
            CONSTRAINTS[cls.kind] = cls

    @property
    def lets_grow(self) -> bool:
        """Whether a larger budget reaches further, until the bounds are all that holds."""
        return False

    def check(self, name: str, x: Tensor, mask: Tensor | None = None) -> None:
        """Raise ThreatError unless the constraint fits the shape of modality `name`."""

    def choose(self, y: Tensor, x: Tensor, gain: Tensor) -> Tensor:
        """`y` with what gains least taken back to `x`, where the constraint limits how much may change."""
        return y

    def project(self, y: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        """A point nearer to the constraint; `y` itself where it is satisfied."""
        return y

    def shrink(self, y: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        """`y` drawn towards `x`, part by part, until it satisfies the constraint where `project` only comes near."""
        return y

    def contains(self, y: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        """(N,) whether `y` satisfies the constraint."""
        return torch.ones(x.shape[0], dtype=torch.bool, device=x.device)

    def to_dict(self) -> dict[str, Any]:
        """As JSON; the inverse of `from_dict`."""
        return {"kind": self.kind, **{f.name: _listed(getattr(self, f.name)) for f in fields(self)}}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Constraint:
        """From JSON; raises ThreatError for an unknown kind."""
        kind = CONSTRAINTS.get(data["kind"])
        if kind is None:
            raise ThreatError(f"unknown constraint {data['kind']!r}; known: {sorted(CONSTRAINTS)}")
        return kind(**{k: frozen(v) for k, v in data.items() if k != "kind"})


class Still(Constraint, ABC):
    """A constraint that says which entries may move at all; budgets merge it into the mask, at no cost by step."""

    @abstractmethod
    def free(self, x: Tensor) -> Tensor:
        """Bool, broadcastable to `x`: where entries may move."""


def frozen(value: Any) -> Any:
    """Lists, nested as they may be, as tuples."""
    return tuple(frozen(v) for v in value) if isinstance(value, list | tuple) else value


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, tuple) else value


def check_axis(kind: str, axis: int, name: str, x: Tensor) -> None:
    """Raise ThreatError unless `axis` is one of `x` behind the sample axis."""
    if not 1 <= axis < x.dim():
        raise ThreatError(
            f"modality {name!r}: {kind} runs along axis {axis}, expected 1 to {x.dim() - 1} of shape {tuple(x.shape)}"
        )
