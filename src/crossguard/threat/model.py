"""What an attacker may do to a whole sample: a budget a modality, and how many modalities at once."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from crossguard.core.batch import Inputs, flat
from crossguard.core.errors import ThreatError
from crossguard.threat.aligned import AlignedFrames
from crossguard.threat.ball import Ball
from crossguard.threat.budget import Budget
from crossguard.threat.l0 import L0
from crossguard.threat.l1 import L1
from crossguard.threat.l2 import L2
from crossguard.threat.linf import Linf
from crossguard.threat.snr import SNR

NORMS: dict[str, type[Budget]] = {budget.norm: budget for budget in (Linf, L2, L1, L0, SNR)}


class ThreatModel:
    """Modality -> Budget; `at_most=k` lets the attacker touch k modalities of a sample (None: all of them), `frames`
    only some moments, the same in several modalities.

    Budgets come as keywords or as one mapping (for names that are no identifiers). A budget of 0 is the same as
    not naming the modality. Raises ThreatError for what is not a Budget and for an impossible `at_most`.
    """

    def __init__(
        self,
        budgets: Mapping[str, Budget] | None = None,
        /,
        *,
        at_most: int | None = None,
        frames: AlignedFrames | None = None,
        **named: Budget,
    ) -> None:
        declared = {**(budgets or {}), **named}
        for name, budget in declared.items():
            if not isinstance(budget, Budget):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ThreatError(f"modality {name!r}: found {budget!r}, expected a budget such as cg.Linf(0.03)")
        if at_most is not None and at_most < 1:
            raise ThreatError(f"at_most is {at_most}, expected a whole number >= 1, or None for all modalities")
        self.declared: dict[str, Budget] = declared
        self.budgets: dict[str, Budget] = {name: b for name, b in declared.items() if b.active}
        self.at_most = at_most
        self.frames = frames
        unknown = [] if frames is None else sorted(set(frames.axes) - set(declared))
        if unknown:
            raise ThreatError(
                f"the aligned frames name {unknown[0]!r}, which has no budget; there are {list(declared)}"
            )

    def __repr__(self) -> str:
        parts = [f"{name}={budget!r}" for name, budget in self.declared.items()]
        if self.at_most is not None:
            parts.append(f"at_most={self.at_most}")
        if self.frames is not None:
            parts.append(f"frames={self.frames!r}")
        return f"ThreatModel({', '.join(parts)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ThreatModel) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities that may be attacked."""
        return tuple(self.budgets)

    def only(self, *names: str) -> ThreatModel:
        """The same budgets on these modalities alone, and `at_most` of them at once where that limits them still."""
        missing = [name for name in names if name not in self.declared]
        if missing:
            raise ThreatError(f"the threat model has no modality {missing[0]!r}; it has {sorted(self.declared)}")
        frames = None if self.frames is None else self.frames.only(names)
        limited = self.at_most is not None and self.at_most < len(set(names) & set(self.budgets))
        budgets = {name: self.declared[name] for name in names}
        return ThreatModel(budgets, at_most=self.at_most if limited else None, frames=frames)

    def settled(self, inputs: Inputs) -> ThreatModel:
        """The same for these inputs alone: moments of aligned `frames` are counted over all modalities, so that they
        stay what they are when `only` leaves some out."""
        if self.frames is None:
            return self
        return ThreatModel(self.declared, at_most=self.at_most, frames=self.frames.settled(inputs))

    @property
    def grows(self) -> bool:
        """Whether, large enough, it holds nobody back: whoever withstands it then is no wonder, but not attacked."""
        return self.frames is None and all(budget.grows for budget in self.budgets.values())

    def scaled(self, scale: float) -> ThreatModel:
        """Every budget `scale` times as large."""
        budgets = {n: b.scaled(scale) for n, b in self.declared.items()}
        return ThreatModel(budgets, at_most=self.at_most, frames=self.frames)

    def subsets(self) -> list[ThreatModel]:
        """The largest sets of modalities that may be attacked at once: one, unless `at_most` couples them."""
        if self.at_most is None or self.at_most >= len(self.budgets):
            return [self.only(*self.budgets)] if self.budgets else []
        return [self.only(*names) for names in combinations(self.budgets, self.at_most)]

    def check(self, inputs: Inputs, mask: Mapping[str, Tensor] | None = None) -> None:
        """Raise ThreatError for a modality that the inputs lack, and for bounds that do not hold what is real."""
        for name, budget in self.declared.items():
            if name not in inputs:
                raise ThreatError(f"the threat model names {name!r}, but the inputs are {sorted(inputs)}")
            budget.check(name, inputs[name], (mask or {}).get(name))
        if self.frames is not None:
            self.frames.check(inputs)

    def balls(self, inputs: Inputs, mask: Mapping[str, Tensor] | None = None) -> dict[str, Ball]:
        """Modality -> the ball of allowed inputs around these samples, for those that may be attacked."""
        return {n: b.around(inputs[n], (mask or {}).get(n)) for n, b in self.budgets.items()}

    def led(self, point: Inputs, balls: Mapping[str, Ball], gradient: Inputs) -> Inputs:
        """`gradient` where a move along it will stay: 0 at the moments that `couple` would take back."""
        return gradient if self.frames is None or not gradient else self.frames.led(point, balls, gradient)

    def couple(self, point: Inputs, balls: Mapping[str, Ball], gradient: Inputs | None = None) -> Inputs:
        """`point` as what holds between modalities allows it: the moments of aligned `frames` that gain most stay.

        The gain is to first order along `gradient`; without one, the size of the change in each modality's measure.
        Points in the balls stay there, but constraints along time may want another repair: see `repair`.
        """
        return point if self.frames is None else self.frames.couple(point, balls, gradient)

    def repair(self, point: Inputs, balls: Mapping[str, Ball]) -> Inputs:
        """Inputs near any `point` that `contains` accepts, but for `at_most`."""
        repaired = {n: balls[n].repair(x) for n, x in point.items()}
        if self.frames is None:
            return repaired
        # Moments taken back bend what is left beside them (Acceleration); a second repair leaves them clean.
        return {n: balls[n].repair(x) for n, x in self.couple(repaired, balls).items()}

    def contains(self, adversarial: Inputs, inputs: Inputs, mask: Mapping[str, Tensor] | None = None) -> Tensor:
        """(N,) whether a sample stays in every budget, with un-attacked and masked parts untouched."""
        samples = next(iter(inputs.values()))
        inside = torch.ones(samples.shape[0], dtype=torch.bool, device=samples.device)
        touched = torch.zeros(samples.shape[0], dtype=torch.long, device=samples.device)
        for name, x in inputs.items():
            y = adversarial[name]
            changed = flat(y != x).any(dim=1)
            touched += changed
            if name in self.budgets:
                inside &= self.budgets[name].contains(y, x, (mask or {}).get(name))
            else:
                inside &= ~changed
        if self.frames is not None:
            inside &= self.frames.contains(adversarial, inputs)
        return inside if self.at_most is None else inside & (touched <= self.at_most)

    def distance(
        self, adversarial: Inputs, inputs: Inputs, mask: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Modality -> (N,) distance in its budget's norm and unit."""
        return {n: b.distance(adversarial[n], inputs[n], (mask or {}).get(n)) for n, b in self.declared.items()}

    def to_dict(self) -> dict[str, Any]:
        """As JSON; the inverse of `from_dict`. Aligned frames only where there are any."""
        budgets = {n: b.to_dict() for n, b in self.declared.items()}
        frames = {} if self.frames is None else {"frames": self.frames.to_dict()}
        return {"budgets": budgets, "at_most": self.at_most, **frames}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ThreatModel:
        """From JSON; the inverse of `to_dict`."""
        budgets: dict[str, Budget] = {}
        for name, fields in data["budgets"].items():
            kind = NORMS.get(fields["norm"])
            if kind is None:
                raise ThreatError(f"modality {name!r}: unknown norm {fields['norm']!r}; known: {sorted(NORMS)}")
            budgets[name] = kind.from_dict(fields)
        frames = AlignedFrames(**data["frames"]) if data.get("frames") else None
        return cls(budgets, at_most=data["at_most"], frames=frames)
