"""Events that are heard where things meet: a ball that bounces, a hammer that strikes."""

from __future__ import annotations

import torch
from torch import Tensor

from crossguard.data.events.happening import FLOOR, Happening, decay, sine, stroke
from crossguard.data.figures.raster import Strokes, join

_KEPT = 0.65  # of its speed, at each bounce
_HOPS = 3
_RADIUS = 0.055
_STRIKES = 4


def bounces(event: Happening) -> tuple[Tensor, Tensor]:
    """(k, 3) each: when the ball leaves the floor, and when it is back on it, in seconds since it began."""
    lengths = [_KEPT**hop for hop in range(_HOPS)]
    unit = event.lasts / sum(lengths)
    left = [unit * sum(lengths[:hop]) for hop in range(_HOPS)]
    back = [unit * sum(lengths[: hop + 1]) for hop in range(_HOPS)]
    return torch.cat(left, dim=1), torch.cat(back, dim=1)


def ball_height(event: Happening, since: Tensor) -> Tensor:
    """(k, S): how far the ball is above the floor, in picture sides."""
    left, back = bounces(event)
    height = torch.zeros_like(since)
    for hop in range(_HOPS):
        u = (since - left[:, hop, None]) / (back[:, hop, None] - left[:, hop, None])
        height = height + 0.55 * _KEPT ** (2 * hop) * (4 * u * (1 - u)).clamp_min(0)
    return height * event.happens


def bounce_seen(event: Happening, since: Tensor, half: float) -> Strokes:
    """The ball, smeared along its way within a frame."""
    first, last = (FLOOR - _RADIUS - ball_height(event, since + d) for d in (-0.5 * half, 0.5 * half))
    return stroke(since, 0, (event.x, first), (event.x, last), _RADIUS, event.colour)


def bounce_heard(event: Happening, since: Tensor) -> Tensor:
    """A thud at each contact, the later the weaker."""
    pitch = event.pitch * event.chance.between("thud", 120.0, 180.0)
    sound = torch.zeros_like(since)
    for hop, contact in enumerate(bounces(event)[1].split(1, dim=1)):
        after = since - contact
        sound = sound + _KEPT**hop * sine(pitch * after) * decay(after, 0.22)
    return 0.6 * sound * event.happens


def strikes(event: Happening) -> Tensor:
    """(k, 4): when the hammer meets the anvil."""
    return event.lasts * (torch.arange(1, _STRIKES + 1, dtype=torch.float64) / _STRIKES)


def hammer_lift(event: Happening, since: Tensor) -> Tensor:
    """(k, S): how high the hammer is raised, 0 on the anvil to 1."""
    u = torch.remainder(event.share(since) * _STRIKES, 1.0)
    return 4 * u * (1 - u)


def hammer_seen(event: Happening, since: Tensor, half: float) -> Strokes:
    """A hammer on a handle above an anvil."""
    lift = hammer_lift(event, since)
    x, y = event.x - 0.05, FLOOR - 0.15 - 0.4 * lift
    pivot = event.x + 0.1
    dark = (0.18, 0.18, 0.22)
    return join(
        [
            stroke(since, 0, (event.x - 0.09, FLOOR - 0.05), (event.x + 0.02, FLOOR - 0.05), 0.045, dark),
            stroke(since, 1, (x, y), (pivot, FLOOR - 0.3), 0.018, (0.55, 0.38, 0.2)),
            stroke(since, 2, (x, y - 0.03), (x, y + 0.03), 0.045, event.colour),
        ]
    )


def hammer_heard(event: Happening, since: Tensor) -> Tensor:
    """A clang of three partials at each strike."""
    pitch = event.pitch * event.chance.between("clang", 800.0, 1100.0)
    sound = torch.zeros_like(since)
    for contact in strikes(event).split(1, dim=1):
        after = since - contact
        ring = 0.5 * sine(pitch * after) + 0.3 * sine(2.76 * pitch * after) + 0.2 * sine(5.4 * pitch * after)
        sound = sound + ring * decay(after, 0.35)
    return 0.5 * sound * event.happens
