"""Exact nearest neighbours, in blocks: matrix products and the best k, so that memory does not grow with N squared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crossguard.core.errors import InputError

# A block of distances is at most this large: 16 MiB in float32, which fits caches and allocators.
_ROWS, _COLUMNS = 1024, 4096


@dataclass(frozen=True)
class Neighbours:
    """By point the `distance` (N, k), rising, and the `index` (N, k) of its nearest; inf and -1 where there are fewer
    than k."""

    distance: Tensor
    index: Tensor


@torch.no_grad()
def nearest(points: Tensor, k: int, *, groups: Tensor | None = None) -> Neighbours:
    """The k nearest of (N, D) `points` to each of them, by Euclidean distance, itself left out.

    With `groups` (N,) of whole numbers, all of its own group are left out. A distance serves both of its ends, so only
    half of the products are made. Raises InputError for what is no table of points.
    """
    _check(points, points, k)
    count, tiles = len(points), _Tiles(points, points)
    best, places = _Best(count, k, points), torch.arange(count, device=points.device)
    codes = places if groups is None else groups
    for row in range(0, count, _ROWS):
        rows = slice(row, row + _ROWS)
        for column in range(row, count, _COLUMNS):
            columns = slice(column, column + _COLUMNS)
            found = tiles.squares(rows, columns)
            if groups is not None or column < row + _ROWS:
                found.masked_fill_(codes[rows, None] == codes[None, columns], torch.inf)
            best.see(places[rows], found, column)
            # The same block for the points that it is about on its other side, where any comes nearer than before.
            later = max(column, row + found.shape[0])
            across = found[:, later - column :]
            if across.shape[1]:
                nearer = (across.amin(dim=0) < best.worst(slice(later, columns.stop))).nonzero().squeeze(1)
                best.see(nearer + later, across.index_select(1, nearer).T.contiguous(), row)
    return best.done(points, points)


@torch.no_grad()
def nearest_in(bank: Tensor, points: Tensor, k: int) -> Neighbours:
    """The k nearest of (B, D) `bank` to each of (N, D) `points`."""
    _check(points, bank, k)
    best = _Best(len(points), k, points)
    tiles, everyone = _Tiles(points, bank), torch.arange(len(points), device=points.device)
    for row in range(0, len(points), _ROWS):
        rows = slice(row, row + _ROWS)
        for column in range(0, len(bank), _COLUMNS):
            columns = slice(column, column + _COLUMNS)
            best.see(everyone[rows], tiles.squares(rows, columns), column)
    return best.done(points, bank)


class _Best:
    """The k smallest seen so far by point, in no order."""

    def __init__(self, count: int, k: int, like: Tensor) -> None:
        self.k = k
        self.square = torch.full((count, k), torch.inf, dtype=like.dtype, device=like.device)
        self.index = torch.full((count, k), -1, dtype=torch.int64, device=like.device)

    def worst(self, rows: slice) -> Tensor:
        return self.square[rows].amax(dim=1)

    def see(self, rows: Tensor, squares: Tensor, first: int) -> None:
        """Squared distances (R, C) of points `rows` to those numbered from `first` on."""
        if not squares.numel():
            return
        value, index = _lowest(squares, min(self.k, squares.shape[1]))
        values = torch.cat([self.square[rows], value], dim=1)
        indices = torch.cat([self.index[rows], index + first], dim=1)
        kept, place = values.topk(self.k, dim=1, largest=False, sorted=False)
        self.square[rows], self.index[rows] = kept, indices.gather(1, place)

    def done(self, points: Tensor, bank: Tensor) -> Neighbours:
        """Distances anew from differences: products lose the digits of what is close."""
        distance = torch.full_like(self.square, torch.inf)
        for row in range(0, len(points) if len(bank) else 0, _ROWS):
            rows = slice(row, row + _ROWS)
            exact = (points[rows, None] - bank[self.index[rows].clamp_min(0)]).norm(dim=2)
            distance[rows] = exact.where(self.square[rows] < torch.inf, torch.inf)
        distance, order = distance.sort(dim=1)
        index = self.index.where(self.square < torch.inf, -1).gather(1, order)
        return Neighbours(distance, index)


class _Tiles:
    """Squared distances of one table to another, a block at a time, each in the memory of the one before."""

    def __init__(self, points: Tensor, bank: Tensor) -> None:
        # (-2 x, |x|^2, 1) . (y, 1, |y|^2) is all of it in one product.
        own, theirs = ((x * x).sum(dim=1, keepdim=True) for x in (points, bank))
        self.points = torch.cat([-2 * points, own, torch.ones_like(own)], dim=1)
        self.bank = torch.cat([bank, torch.ones_like(theirs), theirs], dim=1)
        self.room = points.new_empty(min(_ROWS, len(points)) * min(_COLUMNS, len(bank)))

    def squares(self, rows: slice, columns: slice) -> Tensor:
        """(R, C), good until the next call."""
        points, bank = self.points[rows], self.bank[columns]
        out = self.room[: len(points) * len(bank)].view(len(points), len(bank))
        return torch.mm(points, bank.T, out=out)


def _lowest(squares: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row and where they are, in no order.

    They all lie in the k groups of columns with the smallest minima, and minima are quick: of 4096 columns a few
    hundred are left to choose from.
    """
    size = int((squares.shape[1] / k) ** 0.5)
    if size < 2:
        return squares.topk(k, dim=1, largest=False, sorted=False)
    groups = squares.shape[1] // size
    whole = size * groups
    minima = squares[:, :whole].view(len(squares), size, groups).amin(dim=1)
    chosen = minima.topk(k, dim=1, largest=False, sorted=False).indices
    members = torch.arange(0, whole, groups, device=squares.device)[:, None] + chosen[:, None]
    rest = torch.arange(whole, squares.shape[1], device=squares.device).expand(len(squares), -1)
    places = torch.cat([members.flatten(1), rest], dim=1)
    values, place = squares.gather(1, places).topk(k, dim=1, largest=False, sorted=False)
    return values, places.gather(1, place)


def _check(points: Tensor, bank: Tensor, k: int) -> None:
    if points.dim() != 2 or bank.dim() != 2 or points.shape[1] != bank.shape[1] or not points.is_floating_point():
        raise InputError(
            f"found points {tuple(points.shape)} of {points.dtype} and a bank {tuple(bank.shape)}, expected floating "
            f"point tables (N, D) of one width"
        )
    if k < 1:
        raise InputError(f"k is {k}, expected a whole number >= 1")
