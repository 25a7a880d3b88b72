"""What all fusions share: where branches exchange something, and how their features become logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeAlias

import torch
from torch import Tensor, nn

from crossguard.core.errors import ModelError

At: TypeAlias = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class Gates:
    """What an exchange yields: by modality a `scale` of its channels, (N, C) or (N, 1), and its weight (N,);
    `odd_one_out` is as in `Output`."""

    scale: dict[str, Tensor]
    weights: dict[str, Tensor] | None = None
    odd_one_out: Tensor | None = None


class Fusion(nn.Module):
    """From the features of M branches to logits.

    `at` names by modality the stages after which branches exchange something (as many for each modality); None is
    the fusion's default: the last `depths` stages. `FusionModel` calls `build` once, since layers depend on the
    encoders. Tokens and features are (N, C_m) by modality, zero where absent; `real` is (N, M) in the order of the
    encoders, or None where nothing is absent. One with `maps` exchanges nothing on the way: `join` is given the last
    feature maps themselves.
    """

    depths: int = 0
    maps: bool = False

    def __init__(self, at: At | None = None) -> None:
        super().__init__()
        self.at = at
        self.built = False

    def places(self, stages: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], ...]:
        """By depth, the stage of each modality after which branches exchange; raises ModelError for unknown names."""
        if self.at is None:
            depths = min(self.depths, *(len(s) for s in stages.values()))
            chosen = {name: tuple(s[len(s) - depths :]) for name, s in stages.items()}
        else:
            chosen = {name: (s,) if isinstance(s, str) else tuple(s) for name, s in self.at.items()}
            _check_places(chosen, stages)
        return tuple(
            {name: chosen[name][depth] for name in stages} for depth in range(len(next(iter(chosen.values()))))
        )

    def build(self, exchanged: Sequence[Mapping[str, int]], last: Mapping[str, int], classes: int) -> None:
        """Make the layers: `exchanged` has the channels at each exchange, `last` those of the last features."""
        if self.built:
            raise ModelError(f"this {type(self).__name__} already belongs to a model; make a new one for each model")
        self.built = True
        self.make(exchanged, last, classes)

    def make(self, exchanged: Sequence[Mapping[str, int]], last: Mapping[str, int], classes: int) -> None:
        """The layers of one fusion."""
        raise NotImplementedError

    def gates(self, depth: int, tokens: dict[str, Tensor], real: Tensor | None) -> Gates:
        """What the exchange at `depth` multiplies the branches' channels by."""
        raise NotImplementedError

    def widths(self, last: Mapping[str, int]) -> dict[str, int]:
        """The channels of what `refine` makes of features of `last` channels."""
        return dict(last)

    def refine(self, name: str, x: Tensor) -> Tensor:
        """What is made of one branch's last features (N, C_m) alone, 0 of 0; latents and auxiliary heads see it.

        Only asked of a fusion whose branches exchange nothing on their way.
        """
        return x

    def forward(self, features: dict[str, Tensor], real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The fused latent (N, D) and the logits (N, classes) of the refined last features."""
        raise NotImplementedError

    def join(self, maps: Mapping[str, Tensor], real: Mapping[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        """`forward` of feature maps (N, C_m, T) of the modalities that are there; `real` (N, T) says which frames are,
        None: all."""
        raise NotImplementedError

    def attack_view(self) -> Fusion:
        """The same function, on the same tensors, with the gradient that an attack should follow; by default itself."""
        return self


def mean_of_present(x: Tensor, real: Tensor | None) -> Tensor:
    """(N, C) mean of (N, M, C) over the modalities that are there; 0 where none is."""
    if real is None:
        return x.mean(dim=1)
    weight = real.to(x.dtype)
    return (x * weight[..., None]).sum(dim=1) / weight.sum(dim=1, keepdim=True).clamp_min(1)


def concatenated(features: Mapping[str, Tensor]) -> Tensor:
    """The features side by side, (N, sum of C_m)."""
    return torch.cat(list(features.values()), dim=1)


def scale_channels(x: Tensor, gate: Tensor) -> Tensor:
    """(N, C, …) times a gate of (N, C) or (N, 1)."""
    return x * gate.reshape(gate.shape + (1,) * (x.dim() - 2))


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint at what an unknown name may have meant."""
    close = get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(repr(c) for c in close)}?" if close else f"known: {', '.join(known)}"


def _check_places(chosen: Mapping[str, tuple[str, ...]], stages: Mapping[str, Sequence[str]]) -> None:
    if set(chosen) != set(stages):
        raise ModelError(f"at names the modalities {sorted(chosen)}, the encoders are {sorted(stages)}; name each once")
    if len({len(s) for s in chosen.values()}) != 1 or not all(chosen.values()):
        counts = {name: len(s) for name, s in chosen.items()}
        raise ModelError(f"at must name as many stages (one or more) for each modality, found {counts}")
    for name, picked in chosen.items():
        known = list(stages[name])
        for stage in picked:
            if stage not in known:
                raise ModelError(f"at: {name!r} has no stage {stage!r}; {nearest(stage, known)}")
        order = [known.index(stage) for stage in picked]
        if order != sorted(set(order)):
            raise ModelError(f"at: the stages of {name!r} must go from shallow to deep, found {picked} of {known}")
