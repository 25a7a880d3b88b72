"""What every kind of event is made of: when it happens, strokes to draw it and waves to hear it.

Only operations that IEEE 754 rounds alike everywhere, each on its own; sines come from a table of 16-bit numbers. So
the same codes come out on any machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from crossguard.data.figures.chance import Chance
from crossguard.data.figures.raster import Strokes

FLOOR = 0.88  # the height of the floor, in picture sides from the top
_SINE = torch.tensor([round(32767 * math.sin(math.tau * i / 16384)) / 32768 for i in range(16384)], dtype=torch.float64)

Point = tuple["Tensor | float", "Tensor | float"]


@dataclass(frozen=True)
class Happening:
    """k events of one kind, or things of that kind at rest where not `happens` (k, 1).

    `lasts` (k, 1) in seconds, `x` (k, 1) in picture sides, `colour` (k, 3), `pitch` (k, 1) a factor. Times in the kinds
    are `since` (k, S): seconds since each began.
    """

    chance: Chance
    happens: Tensor
    lasts: Tensor
    x: Tensor
    colour: Tensor
    pitch: Tensor

    def on(self, since: Tensor) -> Tensor:
        """(k, S) bool: whether it is happening."""
        return self.happens & (since >= 0) & (since < self.lasts)

    def over(self, since: Tensor) -> Tensor:
        """(k, S) bool: whether it is over."""
        return self.happens & (since >= self.lasts)

    def share(self, since: Tensor) -> Tensor:
        """(k, S): how much of it has passed, 0 before and 1 after."""
        return (since / self.lasts).clamp(0, 1) * self.happens


def sine(turns: Tensor) -> Tensor:
    """The sine of an angle in turns, from the table."""
    return _SINE[(torch.remainder(turns, 1.0) * len(_SINE)).long()]


def decay(since: Tensor, lasts: Tensor | float) -> Tensor:
    """From 1 at 0 down to 0 at `lasts`, as (1 - t)^4; 0 before."""
    left = (1 - since / lasts).clamp(0, 1) * (since >= 0)
    left = left * left
    return left * left


def swell(event: Happening, since: Tensor, edge: float = 0.08) -> Tensor:
    """1 while it happens, with edges of `edge` seconds, 0 else."""
    return torch.minimum(since / edge, (event.lasts - since) / edge).clamp(0, 1) * event.happens


def noise(event: Happening, since: Tensor, name: str, width: int = 1) -> Tensor:
    """(k, S) in [-1, 1]: random numbers, each the mean of `width` neighbours; the sums are of whole numbers."""
    return smooth(event.chance, name, since.shape[1], width)


def smooth(chance: Chance, name: str, count: int, width: int) -> Tensor:
    """(n, count) such noise, drawn by a name."""
    raw = 2 * chance.bytes(name, count + width).to(torch.float64)  # odd numbers from -255 to 255
    total = raw.cumsum(dim=1)
    return (total[:, width:] - total[:, :-width]) / (255 * width)


def stroke(
    since: Tensor,
    order: int,
    a: Point,
    b: Point,
    radius: Tensor | float,
    colour: Tensor | tuple[float, float, float],
    *,
    end: Tensor | float | None = None,
    opacity: Tensor | float = 1.0,
) -> Strokes:
    """One stroke in each of the k x F pictures, in picture sides; a larger `order` covers a smaller one."""
    shape = since.shape
    numbers = [torch.as_tensor(v, dtype=torch.float64).expand(shape) for v in (*a, *b)]
    ax, ay, bx, by = (v.reshape(-1, 1) for v in numbers)
    ra, rb, seen = (
        torch.as_tensor(v, dtype=torch.float64).expand(shape).reshape(-1, 1)
        for v in (radius, radius if end is None else end, opacity)
    )
    paint = torch.as_tensor(colour, dtype=torch.float64)
    paint = (paint if paint.dim() == 3 else paint.reshape(-1, 1, 3)).expand(*shape, 3).reshape(-1, 1, 3)
    return Strokes(
        a=torch.stack((ax, ay), dim=-1),
        b=torch.stack((bx, by), dim=-1),
        ra=ra,
        rb=rb,
        depth=torch.full_like(ra, -float(order)),
        colour=paint,
        opacity=seen,
        shade=torch.full_like(ra, 0.15),
    )
