"""At most k moments of a sample change, the same in every modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from crossguard.core.batch import Inputs
from crossguard.core.errors import ThreatError
from crossguard.threat.ball import Ball, flat_norm, largest, spread
from crossguard.threat.constraints.constraint import check_axis
from crossguard.threat.constraints.frames import along, by_frame


@dataclass(frozen=True)
class AlignedFrames:
    """At most `k` time steps change, the same in all modalities of `axes` (modality -> its time axis).

    Where lengths differ, time is counted in S `steps`, as many as the shortest of them has frames if not given: frame
    t of T belongs to step floor(t S / T). A modality that is not named is not limited.
    Raises ThreatError for a negative k or an axis that is not there.
    """

    k: int
    axes: Mapping[str, int]
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.k < 0 or not self.axes:
            raise ThreatError(
                f"AlignedFrames: found k={self.k} and axes {dict(self.axes)}, expected k >= 0 and the time axis of at "
                f"least one modality"
            )
        if self.steps is not None and self.steps < 1:
            raise ThreatError(f"AlignedFrames: steps is {self.steps}, expected a whole number >= 1, or None")

    def __hash__(self) -> int:
        return hash((self.k, self.steps, *sorted(self.axes.items())))

    def check(self, inputs: Inputs) -> None:
        """Raise ThreatError unless the inputs have these modalities and axes."""
        for name, axis in self.axes.items():
            if name not in inputs:
                raise ThreatError(f"the aligned frames name {name!r}, but the inputs are {sorted(inputs)}")
            check_axis("aligned_frames", axis, name, inputs[name])

    def settled(self, inputs: Inputs) -> AlignedFrames:
        """The same with the `steps` that these inputs have, however few of them are looked at afterwards."""
        return replace(self, steps=self.steps or self._count(inputs))

    def only(self, names: tuple[str, ...]) -> AlignedFrames | None:
        """The same limit on these modalities alone; None where it limits none of them."""
        axes = {n: axis for n, axis in self.axes.items() if n in names}
        return AlignedFrames(self.k, axes, self.steps) if axes else None

    def led(self, point: Inputs, balls: Mapping[str, Ball], gradient: Inputs) -> Inputs:
        """`gradient`, 0 at all but the `k` steps that gain most, so that those get the whole of each budget."""
        names = [n for n in self.axes if n in gradient]
        kept = self._kept(self._gain(names, point, balls, gradient), balls)
        zero = {n: torch.zeros_like(gradient[n]) for n in names}
        return {**gradient, **{n: torch.where(self._frames(kept, n, z), gradient[n], z) for n, z in zero.items()}}

    def couple(self, point: Inputs, balls: Mapping[str, Ball], gradient: Inputs | None) -> Inputs:
        """`point` with all but the `k` best steps taken back to the clean samples."""
        names = [n for n in self.axes if n in point]
        if not names:
            return point
        if gradient is None:
            # Shares of each modality's own change, since units do not compare (our choice).
            change = {n: point[n] - balls[n].x for n in names}
            gain = {n: d.square() / spread(flat_norm(d).square() + 1e-30, d) for n, d in change.items()}
        else:
            gain = self._gain(names, point, balls, gradient)
        kept = self._kept(gain, balls)
        coupled = {n: torch.where(self._frames(kept, n, point[n]), point[n], balls[n].x) for n in names}
        return {**point, **coupled}

    def _gain(self, names: Sequence[str], point: Inputs, balls: Mapping[str, Ball], gradient: Inputs) -> Inputs:
        """Of each entry to first order, where it stands or where the budget alone would lead it (our choice: by where
        it stands, steps that are clean would never come in)."""
        gain: Inputs = {}
        for n in names:
            g, x = torch.nan_to_num(gradient[n], nan=0.0), balls[n].x
            gain[n] = torch.maximum((point[n] - x) * g, (balls[n].ascend(x, g, 1.0) - x) * g)
        return gain

    def _kept(self, gain: Inputs, balls: Mapping[str, Ball]) -> Tensor:
        """(N, S) the `k` steps of the largest gain, over all modalities together."""
        total = torch.stack(list(self._steps(gain, {n: balls[n].x for n in gain}).values())).sum(dim=0)
        return largest(total, total.new_full((total.shape[0],), self.k))

    def contains(self, adversarial: Inputs, inputs: Inputs) -> Tensor:
        """(N,) whether at most `k` steps changed, over all modalities together."""
        changed = {n: (adversarial[n] != inputs[n]).double() for n in self.axes if n in inputs}
        steps = self._steps(changed, {n: inputs[n] for n in changed})
        return (torch.stack(list(steps.values())).sum(dim=0) > 0).sum(dim=1) <= self.k

    def to_dict(self) -> dict[str, Any]:
        """As JSON: the arguments."""
        return {"k": self.k, "axes": dict(self.axes), "steps": self.steps}

    def _step(self, name: str, x: Tensor, count: int) -> Tensor:
        """(T,) the step to which each frame of a modality belongs."""
        size = x.shape[self.axes[name]]
        return torch.arange(size, device=x.device) * count // size

    def _steps(self, values: Mapping[str, Tensor], x: Inputs) -> Inputs:
        """Modality -> (N, S) sums of `values` by step, float64."""
        count = self.steps or self._count(x)
        sums: Inputs = {}
        for n, v in values.items():
            frames = by_frame(v, self.axes[n]).double()
            sums[n] = frames.new_zeros(len(frames), count).index_add(1, self._step(n, v, count), frames)
        return sums

    def _count(self, inputs: Inputs) -> int:
        return min(inputs[n].shape[axis] for n, axis in self.axes.items() if n in inputs)

    def _frames(self, kept: Tensor, name: str, x: Tensor) -> Tensor:
        """Bool, broadcastable to `x`: the frames of the steps that are kept."""
        return along(kept.index_select(1, self._step(name, x, kept.shape[1])), self.axes[name], x)
