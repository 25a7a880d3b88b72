"""One perturbation for all samples, as it is kept and added."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossguard.attacks.judge import judge
from crossguard.attacks.result import AttackResult
from crossguard.core.batch import Inputs
from crossguard.core.errors import InputError, RunError, ThreatError
from crossguard.core.files import read_json, read_safetensors, write_json, write_safetensors
from crossguard.threat import ThreatModel


@dataclass(frozen=True, eq=False)
class Perturbation:
    """What is added to any sample: `values` by modality, without the sample axis, in the modality's unit.

    `threat` is what every sample is projected into. `time` is the position of a modality's time axis, the sample axis
    counted: there a perturbation is repeated, or cut off, to the length of the sample.
    """

    values: Inputs
    threat: ThreatModel
    time: Mapping[str, int]

    def apply(self, inputs: Inputs, mask: Mapping[str, Tensor] | None = None) -> Inputs:
        """The inputs with the perturbation added, each sample in its budgets; what is masked out is untouched.

        Raises ThreatError for a modality that is not there, InputError where samples have another shape.
        """
        self.threat.check(inputs, mask)
        balls = self.threat.balls(inputs, mask)
        added = {n: ball.x + self.fitted(n, ball.x) for n, ball in balls.items()}
        return {**inputs, **self.threat.repair(added, balls)}

    def attack(
        self,
        model: nn.Module,
        inputs: Inputs,
        targets: Tensor,
        threat: ThreatModel | None = None,
        *,
        mask: Mapping[str, Tensor] | None = None,
        **search_options: Any,
    ) -> AttackResult:
        """The perturbation judged as any attack is, within `threat` (None: its own); see `crossguard.attacks.judge`."""
        found = self.apply(inputs, mask)
        return judge(model, inputs, targets, threat or self.threat, found=found, mask=mask, **search_options)

    def fitted(self, name: str, x: Tensor) -> Tensor:
        """(1, …) the values of modality `name` in the shape of the samples `x`."""
        v = self.values[name].to(x)[None]
        axis = self.time.get(name)
        if axis is not None and axis < x.dim() and v.shape[axis] != x.shape[axis]:
            v = v.index_select(axis, torch.arange(x.shape[axis], device=x.device) % v.shape[axis])
        if v.shape[1:] != x.shape[1:]:
            raise InputError(
                f"modality {name!r}: the perturbation is {tuple(v.shape[1:])}, the samples are {tuple(x.shape[1:])}; "
                f"only along a time axis may they differ, and modalities= says at fitting which axis that is"
            )
        return v

    def save(self, path: str | Path) -> None:
        """A folder: `perturbation.safetensors`, and `perturbation.json`, which is written last and names its digest."""
        folder = Path(path)
        write_safetensors(folder / "perturbation.safetensors", self.values)
        said = {"threat": self.threat.to_dict(), "time": dict(self.time), "digest": _digest(folder)}
        write_json(folder / "perturbation.json", said)

    @classmethod
    def load(cls, path: str | Path) -> Perturbation:
        """The inverse of `save`, on the CPU; raises RunError where files are missing or do not belong together."""
        folder = Path(path)
        said = read_json(folder / "perturbation.json")
        values = read_safetensors(folder / "perturbation.safetensors")
        try:
            if said["digest"] != _digest(folder):
                raise RunError(
                    f"{folder}: the tensors are not those that perturbation.json was written for; save again"
                )
            return cls(
                values, ThreatModel.from_dict(said["threat"]), {n: int(axis) for n, axis in said["time"].items()}
            )
        except (KeyError, TypeError, AttributeError, ValueError, ThreatError) as error:
            raise RunError(f"{folder}/perturbation.json is not what Perturbation.save writes: {error!r}") from error


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "perturbation.safetensors").read_bytes()).hexdigest()
