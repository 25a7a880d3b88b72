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


def nearest(points: Tensor, k: int, *, groups: Tensor | None = None) -> Neighbours:
    """The k nearest of (N, D) `points` to each of them, by Euclidean distance, itself left out.

    With `groups` (N,) of whole numbers, all of its own group are left out. A distance serves both of its ends, so only
    half of the products are made. Raises InputError for what is no table of points.
    """
    _check(points, points, k)
    count, square = len(points), (points * points).sum(dim=1)
    best, places = _Best(count, k, points), torch.arange(count, device=points.device)
    codes = places if groups is None else groups
    for row in range(0, count, _ROWS):
        rows = slice(row, row + _ROWS)
        for column in range(row, count, _COLUMNS):
            columns = slice(column, column + _COLUMNS)
            found = _squares(points[rows], points[columns], square[rows], square[columns])
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


def nearest_in(bank: Tensor, points: Tensor, k: int) -> Neighbours:
    """The k nearest of (B, D) `bank` to each of (N, D) `points`."""
    _check(points, bank, k)
    best = _Best(len(points), k, points)
    square, banked = (points * points).sum(dim=1), (bank * bank).sum(dim=1)
    everyone = torch.arange(len(points), device=points.device)
    for row in range(0, len(points), _ROWS):
        rows = slice(row, row + _ROWS)
        for column in range(0, len(bank), _COLUMNS):
            columns = slice(column, column + _COLUMNS)
            best.see(everyone[rows], _squares(points[rows], bank[columns], square[rows], banked[columns]), column)
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
        value, index = squares.topk(min(self.k, squares.shape[1]), dim=1, largest=False, sorted=False)
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


def _squares(points: Tensor, bank: Tensor, own: Tensor, theirs: Tensor) -> Tensor:
    return torch.addmm(theirs[None], points, bank.T, alpha=-2).add_(own[:, None])


def _check(points: Tensor, bank: Tensor, k: int) -> None:
    if points.dim() != 2 or bank.dim() != 2 or points.shape[1] != bank.shape[1] or not points.is_floating_point():
        raise InputError(
            f"found points {tuple(points.shape)} of {points.dtype} and a bank {tuple(bank.shape)}, expected floating "
            f"point tables (N, D) of one width"
        )
    if k < 1:
        raise InputError(f"k is {k}, expected a whole number >= 1")
