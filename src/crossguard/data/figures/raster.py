"""A rasteriser of round-ended, tapered strokes with soft edges, painted far to near, vectorised over pictures.

Only sums, products, quotients, square roots and comparisons of float32, each an operation of its own: IEEE 754 rounds
them alike everywhere, so the pixels are the same on any machine, for any chunking and number of threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Strokes:
    """P strokes in each of n pictures, in pixels: ends `a`, `b` (n, P, 2) as (u, v), radii `ra`, `rb` (n, P).

    Nearer strokes (smaller `depth` (n, P)) cover farther ones; `colour` (n, P, 3) and `opacity` (n, P) in [0, 1];
    `shade` (n, P) is how round a stroke looks (0 flat).
    """

    a: Tensor
    b: Tensor
    ra: Tensor
    rb: Tensor
    depth: Tensor
    colour: Tensor
    opacity: Tensor
    shade: Tensor

    def take(self, rows: Tensor) -> Strokes:
        """The strokes of some pictures."""
        return Strokes(*(getattr(self, f.name)[rows] for f in fields(self)))


def join(parts: list[Strokes]) -> Strokes:
    """Several sets of strokes in the same pictures."""
    return Strokes(*(torch.cat([getattr(p, f.name) for p in parts], dim=1) for f in fields(Strokes)))


def _sorted(strokes: Strokes) -> Strokes:
    """Far to near; what cannot be seen comes first."""
    depth = torch.where(strokes.opacity > 0, strokes.depth, torch.inf)
    order = depth.argsort(dim=1, descending=True, stable=True)

    def pick(x: Tensor) -> Tensor:
        return x.gather(1, order if x.dim() == 2 else order[..., None].expand(x.shape))

    return Strokes(*(pick(getattr(strokes, f.name)) for f in fields(strokes)))


def paint(canvas: Tensor, strokes: Strokes) -> None:
    """Paint onto `canvas` (n, 3, S, S) float32 in place; light falls from the upper left."""
    n, _, size, _ = canvas.shape
    strokes = Strokes(*(getattr(_sorted(strokes), f.name).to(torch.float32) for f in fields(strokes)))
    reach = torch.maximum(strokes.ra, strokes.rb) + 1
    low = (torch.minimum(strokes.a, strokes.b) - reach[..., None]).floor()
    high = (torch.maximum(strokes.a, strokes.b) + reach[..., None]).ceil()
    seen = (strokes.opacity > 0) & (high > 0).all(dim=-1) & (low < size).all(dim=-1)
    low = low.clamp(0, size)
    extent = (high.clamp(0, size) - low).amax(dim=-1)
    flat = canvas.view(n, 3, size * size)
    for k in range(seen.shape[1]):
        rows = seen[:, k].nonzero().flatten()
        if len(rows):
            width = max(1, math.ceil(float(extent[rows, k].max())))
            corner = low[rows, k].clamp(max=size - width)
            _stroke(flat, size, rows, corner, width, strokes, k)


def _stroke(flat: Tensor, size: int, rows: Tensor, corner: Tensor, width: int, s: Strokes, k: int) -> None:
    """Paint stroke `k` of the pictures `rows` within windows of `width` pixels at `corner`."""
    steps = torch.arange(width, dtype=torch.float32) + 0.5
    u = (corner[:, 0, None] + steps)[:, None, :]
    v = (corner[:, 1, None] + steps)[:, :, None]
    ax, ay = s.a[rows, k, 0, None, None], s.a[rows, k, 1, None, None]
    dx, dy = s.b[rows, k, 0, None, None] - ax, s.b[rows, k, 1, None, None] - ay
    ra, rb = s.ra[rows, k, None, None], s.rb[rows, k, None, None]
    length = (dx * dx + dy * dy).clamp_min(1e-6)
    px, py = u - ax, v - ay
    along = (px * (dx / length) + py * (dy / length)).clamp(0, 1)
    px, py = px - along * dx, py - along * dy
    radius = ra + along * (rb - ra)
    distance = (px * px + py * py).sqrt()
    cover = (radius - distance + 0.5).clamp(0, 1) * s.opacity[rows, k, None, None]
    light = 1 - (px + py + 0.5 * distance) / radius * s.shade[rows, k, None, None]
    index = (corner[:, 1].long() * size + corner[:, 0].long())[:, None, None]
    index = (index + torch.arange(width)[:, None] * size + torch.arange(width)).view(len(rows), 1, -1)
    cover, light = cover.view(len(rows), 1, -1), light.reshape(len(rows), 1, -1).clamp(0, 1.4)
    everywhere = len(rows) == len(flat)
    target = flat if everywhere else flat[rows]
    where = index.expand(-1, 3, -1)
    patch = target.gather(2, where)
    colour = (s.colour[rows, k, :, None] * light).clamp(0, 1)
    target.scatter_(2, where, patch + cover * (colour - patch))
    if not everywhere:
        flat[rows] = target


def blur(canvas: Tensor, strength: Tensor) -> Tensor:
    """Mix (n, 3, S, S) with itself smoothed by a (1 2 1) kernel along rows and columns, by `strength` (n,)."""
    soft = canvas
    for axis in (2, 3):
        last = soft.shape[axis] - 1
        before = torch.cat((soft.narrow(axis, 0, 1), soft.narrow(axis, 0, last)), dim=axis)
        after = torch.cat((soft.narrow(axis, 1, last), soft.narrow(axis, last, 1)), dim=axis)
        soft = (before + after) * 0.25 + soft * 0.5
    return canvas + (soft - canvas) * strength.to(canvas.dtype)[:, None, None, None]
