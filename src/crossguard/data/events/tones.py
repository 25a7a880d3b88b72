"""Events that are heard as tones: a rotor, a rocket that rises, a whistling drop that falls, a siren."""

from __future__ import annotations

from torch import Tensor

from crossguard.data.events.happening import FLOOR, Happening, sine, stroke, swell
from crossguard.data.figures.raster import Strokes, join

_TOP = 0.1
_BLINK = 0.25  # seconds a colour of the siren lasts


def rotor_seen(event: Happening, since: Tensor, half: float) -> Strokes:
    """Two blades on a mast, blurred to a disc while they turn."""
    on, y = event.on(since), 0.42
    turns = event.chance.unit("angle") + 2.3 * event.share(since) * event.lasts
    dx, dy = 0.11 * sine(turns + 0.25), 0.11 * sine(turns)
    grey = (0.35, 0.35, 0.38)
    blade = 1 - 0.45 * on
    return join(
        [
            stroke(since, 0, (event.x, y), (event.x, FLOOR), 0.016, grey),
            stroke(since, 1, (event.x, y), (event.x, y), 0.13, event.colour, opacity=0.45 * on),
            stroke(since, 2, (event.x - dx, y - dy), (event.x + dx, y + dy), 0.026, event.colour, opacity=blade),
        ]
    )


def rotor_heard(event: Happening, since: Tensor) -> Tensor:
    """A hum of three harmonics that beats with the blades."""
    pitch = event.pitch * event.chance.between("hum", 85.0, 125.0)
    tone = 0.5 * sine(pitch * since) + 0.3 * sine(2 * pitch * since) + 0.2 * sine(3 * pitch * since)
    return 0.4 * tone * (0.75 + 0.25 * sine(9.2 * since)) * swell(event, since)


def height(event: Happening, since: Tensor, *, rising: bool) -> Tensor:
    """(k, S) from 0 at the floor to 1 at the top."""
    share = event.share(since)
    return share if rising else 1 - share


def rise_seen(event: Happening, since: Tensor, half: float) -> Strokes:
    """A rocket that stands, rises on a flame and is gone."""
    on, y = event.on(since), FLOOR - 0.08 - (FLOOR - _TOP) * height(event, since, rising=True)
    there = ~event.over(since)
    return join(
        [
            stroke(since, 0, (event.x, y + 0.08), (event.x, y + 0.22), 0.05, (1.0, 0.72, 0.2), end=0.01, opacity=on),
            stroke(since, 1, (event.x, y - 0.07), (event.x, y + 0.05), 0.012, event.colour, end=0.05, opacity=there),
        ]
    )


def fall_seen(event: Happening, since: Tensor, half: float) -> Strokes:
    """A drop that hangs under the ceiling, falls with a tail and lies on the floor."""
    on, y = event.on(since), FLOOR - 0.05 - (FLOOR - 0.05 - _TOP) * height(event, since, rising=False)
    return join(
        [
            stroke(since, 0, (event.x, y - 0.2), (event.x, y), 0.008, (0.85, 0.9, 1.0), end=0.04, opacity=0.8 * on),
            stroke(since, 1, (event.x, y), (event.x, y), 0.05, event.colour),
        ]
    )


def rise_heard(event: Happening, since: Tensor) -> Tensor:
    """A tone whose pitch is a linear function of the height."""
    return _sweep(event, since, 300.0, 1400.0)


def fall_heard(event: Happening, since: Tensor) -> Tensor:
    """The same on the way down."""
    return _sweep(event, since, 1400.0, 300.0)


def _sweep(event: Happening, since: Tensor, first: float, last: float) -> Tensor:
    pitch = event.pitch * event.chance.between("sweep", 0.85, 1.15)
    turns = since * (first + 0.5 * (last - first) * event.share(since))
    return 0.25 * sine(pitch * turns) * swell(event, since, 0.03)


def siren_seen(event: Happening, since: Tensor, half: float) -> Strokes:
    """A lamp on a post, dark, or red and blue in turn."""
    on, y = event.on(since), 0.4
    blue = (second(since) & on).to(event.x.dtype)[..., None]
    lit = event.colour.new_tensor((0.95, 0.12, 0.1)) * (1 - blue) + event.colour.new_tensor((0.15, 0.3, 1.0)) * blue
    return join(
        [
            stroke(since, 0, (event.x, y), (event.x, FLOOR), 0.02, event.colour),
            stroke(since, 1, (event.x, y), (event.x, y), 0.06, (0.25, 0.22, 0.25)),
            stroke(since, 2, (event.x, y), (event.x, y), 0.1, lit, opacity=0.9 * on),
        ]
    )


def siren_heard(event: Happening, since: Tensor) -> Tensor:
    """Two tones in turn, the higher one with the blue light."""
    pitch = event.pitch * event.chance.between("siren", 520.0, 640.0) * (1 + 0.35 * second(since))
    return 0.25 * sine(pitch * since) * swell(event, since, 0.02)


def second(since: Tensor) -> Tensor:
    """(k, S) bool: whether it is the second colour's turn."""
    return (since / _BLINK).floor() % 2 == 1
