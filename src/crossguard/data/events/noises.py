"""Events that are heard as noise: sparks, a burst, rain, a pendulum that swings."""

from __future__ import annotations

import torch
from torch import Tensor

from crossguard.data.events.happening import FLOOR, Happening, decay, noise, sine, stroke, swell
from crossguard.data.figures.raster import Strokes, join

_SPARKS = 6
_PERIOD = 0.8  # of the pendulum, seconds


def sparks(event: Happening) -> Tensor:
    """(k, 6): when it sparks."""
    return event.lasts * event.chance.unit("sparks", _SPARKS)


def sparks_seen(event: Happening, since: Tensor, half: float) -> Strokes:
    """A box with a rod, and a white star on it in frames in which it sparks."""
    y = FLOOR - 0.3
    lit = torch.zeros_like(since)
    for moment in sparks(event).split(1, dim=1):
        lit = torch.maximum(lit, ((moment >= since - half) & (moment < since + half) & event.happens).to(lit.dtype))
    x, white = event.x, (1.0, 1.0, 0.8)
    return join(
        [
            stroke(since, 0, (x - 0.05, FLOOR - 0.05), (x + 0.05, FLOOR - 0.05), 0.05, event.colour),
            stroke(since, 1, (x, FLOOR - 0.1), (x, y), 0.014, (0.2, 0.2, 0.2)),
            stroke(since, 2, (x - 0.08, y - 0.05), (x + 0.08, y + 0.05), 0.018, white, opacity=lit),
            stroke(since, 3, (x - 0.08, y + 0.05), (x + 0.08, y - 0.05), 0.018, white, opacity=lit),
        ]
    )


def sparks_heard(event: Happening, since: Tensor) -> Tensor:
    """A short crackle of high frequencies at each spark."""
    height = torch.zeros_like(since)
    for moment in sparks(event).split(1, dim=1):
        height = torch.maximum(height, decay(since - moment, 0.06))
    raw = noise(event, since, "crackle")
    high = raw - torch.cat((raw[:, :1], raw[:, :-1]), dim=1)
    return 0.4 * high * height * event.happens


def bursting(event: Happening) -> Tensor:
    """(k, 1): how long the burst itself lasts."""
    return event.lasts.clamp_max(0.7)


def burst_seen(event: Happening, since: Tensor, half: float) -> Strokes:
    """A barrel, and a ball of fire that grows and fades."""
    share = (since / bursting(event)).clamp(0, 1)
    radius, y = 0.05 + 0.13 * share * (2 - share), FLOOR - 0.14
    seen = event.happens * (since + half >= 0) * (1 - share)
    fire = event.colour.new_tensor((1.0, 0.5, 0.1))
    return join(
        [
            stroke(since, 0, (event.x, FLOOR - 0.12), (event.x, FLOOR - 0.04), 0.05, event.colour),
            stroke(since, 1, (event.x, y), (event.x, y), radius, fire.expand(len(since), 3), opacity=seen),
        ]
    )


def burst_heard(event: Happening, since: Tensor) -> Tensor:
    """A bang of low frequencies that dies away."""
    return 1.2 * noise(event, since, "bang", 10) * decay(since, bursting(event)) * event.happens


def rain_seen(event: Happening, since: Tensor, half: float) -> Strokes:
    """A cloud, and four drops under it that fall and fall again."""
    on, y = event.on(since), 0.16
    parts = [stroke(since, 9, (event.x - 0.06, y), (event.x + 0.06, y), 0.06, (0.62, 0.64, 0.7))]
    for drop in range(4):
        fallen = torch.remainder(event.chance.unit(f"drop {drop}") + 2.1 * since, 1.0) * (FLOOR - 0.32)
        x, top = event.x - 0.09 + 0.06 * drop, y + 0.07 + fallen
        parts.append(stroke(since, drop, (x, top), (x, top + 0.08), 0.014, (0.55, 0.75, 1.0), opacity=on))
    return join(parts)


def rain_heard(event: Happening, since: Tensor) -> Tensor:
    """A steady hiss."""
    return 0.16 * noise(event, since, "hiss") * swell(event, since, 0.15)


def swing(event: Happening, since: Tensor) -> tuple[Tensor, Tensor]:
    """(k, S) each: where the pendulum is, -1 to 1, and how fast it moves, 0 to 1; it hangs where nothing happens."""
    turns, on = since / _PERIOD, event.on(since)
    return sine(turns) * on, sine(turns + 0.25).abs() * on


def swing_seen(event: Happening, since: Tensor, half: float) -> Strokes:
    """A weight on a string from the ceiling."""
    aside, _ = swing(event, since)
    x, y = event.x + 0.14 * aside, 0.55 - 0.1 * aside * aside
    return join(
        [
            stroke(since, 0, (event.x, 0.02), (x, y), 0.012, (0.3, 0.25, 0.2)),
            stroke(since, 1, (x, y), (x, y), 0.06, event.colour),
        ]
    )


def swing_heard(event: Happening, since: Tensor) -> Tensor:
    """A whoosh as loud as the weight is fast."""
    _, speed = swing(event, since)
    band = noise(event, since, "whoosh", 4) - noise(event, since, "whoosh", 16)
    return 0.6 * band * speed * speed
