"""The kinds of events: how each is drawn and how it sounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from crossguard.data.events import impacts, noises, tones
from crossguard.data.events.happening import Happening
from crossguard.data.figures.raster import Strokes


@dataclass(frozen=True)
class Kind:
    """`seen(event, since, half)` are strokes in picture sides, k x F pictures of `half` an exposure to each side of
    `since`; `heard(event, since)` is a wave (k, S) of at most about 1."""

    seen: Callable[[Happening, Tensor, float], Strokes]
    heard: Callable[[Happening, Tensor], Tensor]


KINDS = {
    "bounce": Kind(impacts.bounce_seen, impacts.bounce_heard),
    "hammer": Kind(impacts.hammer_seen, impacts.hammer_heard),
    "rotor": Kind(tones.rotor_seen, tones.rotor_heard),
    "rise": Kind(tones.rise_seen, tones.rise_heard),
    "fall": Kind(tones.fall_seen, tones.fall_heard),
    "siren": Kind(tones.siren_seen, tones.siren_heard),
    "sparks": Kind(noises.sparks_seen, noises.sparks_heard),
    "burst": Kind(noises.burst_seen, noises.burst_heard),
    "rain": Kind(noises.rain_seen, noises.rain_heard),
    "swing": Kind(noises.swing_seen, noises.swing_heard),
}
CLASSES = tuple(KINDS)
