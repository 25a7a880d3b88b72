"""How hard each modality is to read: everything in which the regimes differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Regime = Literal["balanced", "rgb-weak", "skeleton-weak"]


@dataclass(frozen=True)
class Pictures:
    """What spoils the pictures: chances in [0, 1], the rest as shares of full intensity.

    `clutter` (each thing on the wall), `distractor` (something that moves about), `occluder` (something in front),
    `camouflage` (largest share of the wall's colour in clothes and skin), `fade` (largest loss of contrast),
    `noise` (largest pixel noise), `blur` (largest share of smoothing).
    """

    clutter: float
    distractor: float
    occluder: float
    camouflage: float
    fade: float
    noise: float
    blur: float


@dataclass(frozen=True)
class Tracking:
    """What spoils the skeleton: `jitter` (standard deviation in metres, per frame), `bias` (per joint, the whole clip),
    and chances a clip: `limb` (each limb loses its track for a while), `swap` (left taken for right for a while),
    `lost` (no track at all for a while; masked)."""

    jitter: float
    bias: float
    limb: float
    swap: float
    lost: float


_CLEAR = Pictures(clutter=0.2, distractor=0.15, occluder=0.05, camouflage=0.1, fade=0.1, noise=0.02, blur=0.2)
_MURKY = Pictures(clutter=0.5, distractor=0.4, occluder=0.25, camouflage=0.75, fade=0.4, noise=0.08, blur=1.0)
_STEADY = Tracking(jitter=0.04, bias=0.04, limb=0.2, swap=0.15, lost=0.2)
_SHAKY = Tracking(jitter=0.16, bias=0.14, limb=0.6, swap=0.5, lost=0.6)

REGIMES: dict[Regime, tuple[Pictures, Tracking]] = {
    "balanced": (_CLEAR, _STEADY),
    "rgb-weak": (_MURKY, _STEADY),
    "skeleton-weak": (_CLEAR, _SHAKY),
}
