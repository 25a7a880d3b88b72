"""How hard each modality is to read: everything in which the regimes differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Regime = Literal["balanced", "rgb-weak", "audio-weak"]


@dataclass(frozen=True)
class Sight:
    """What spoils the pictures: `unseen` (the chance that an event is out of view), `idle` (that a free place shows a
    thing at rest, which is no event), `clutter` (each spot on the wall), `fade` (largest loss of contrast), `noise`
    (largest pixel noise, a share of full intensity)."""

    unseen: float
    idle: float
    clutter: float
    fade: float
    noise: float


@dataclass(frozen=True)
class Hearing:
    """What spoils the sound: `unheard` (the chance that an event makes no sound), `faint` (largest loss of loudness),
    `noise` (largest height of the noise in the room), `hum` (the chance of a tone that is no event)."""

    unheard: float
    faint: float
    noise: float
    hum: float


_CLEAR = Sight(unseen=0.12, idle=0.4, clutter=0.3, fade=0.2, noise=0.04)
_MURKY = Sight(unseen=0.4, idle=0.8, clutter=0.7, fade=0.6, noise=0.16)
_QUIET = Hearing(unheard=0.12, faint=0.4, noise=0.04, hum=0.2)
_LOUD = Hearing(unheard=0.4, faint=0.8, noise=0.2, hum=0.6)

# An event is never both unseen and unheard: the two chances of a regime add up to less than 1.
REGIMES: dict[Regime, tuple[Sight, Hearing]] = {
    "balanced": (_CLEAR, _QUIET),
    "rgb-weak": (_MURKY, _QUIET),
    "audio-weak": (_CLEAR, _LOUD),
}
