"""Exact nearest neighbours, in blocks: matrix products and the best k, so that memory does not grow with N squared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from crossguard.core.errors import InputError
from crossguard.diagnostics.tiles import Best, Tiles, whole_products

# A block of distances is at most this large: 16 MiB in float32, which fits caches and allocators.
_ROWS, _COLUMNS = 1024, 4096
# So many more than k are kept by products, for distances to choose from.
_SPARE = 4
_Block: TypeAlias = Callable[[slice, slice], Tensor]
# Makes what is no neighbour inf, of a block of rows (numbers or a slice) and columns.
_Hide: TypeAlias = Callable[[Tensor, Tensor | slice, slice], object]


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
    points, _ = _tables(points, points, k)
    count, places = len(points), torch.arange(len(points), device=points.device)
    codes = places if groups is None else groups

    def hide(found: Tensor, rows: Tensor | slice, columns: slice) -> None:
        found.masked_fill_(codes[rows][:, None] == codes[None, columns], torch.inf)

    best, tiles = Best(count, k + _SPARE, points), Tiles(points, points, _ROWS * _COLUMNS, points.dtype)
    with whole_products():
        for row in range(0, count, _ROWS):
            rows = slice(row, row + _ROWS)
            for column in range(row, count, _COLUMNS):
                columns = slice(column, column + _COLUMNS)
                found = tiles.bounds(rows, columns)
                if groups is not None or column < row + _ROWS:
                    hide(found, rows, columns)
                best.see(places[rows], found, column)
                # The same block for the points that it is about on its other side, where any comes nearer than before.
                later = max(column, row + found.shape[0])
                across = found[:, later - column :]
                if across.shape[1]:
                    nearer = (across.amin(dim=0) < best.worst(slice(later, columns.stop))).nonzero().squeeze(1)
                    best.see(nearer + later, across.index_select(1, nearer).T.contiguous(), row)
    return _settled(best, points, points, k, hide)


@torch.no_grad()
def nearest_in(
    bank: Tensor,
    points: Tensor,
    k: int,
    *,
    groups: tuple[Tensor, Tensor] | None = None,
    first: Tensor | None = None,
) -> Neighbours:
    """The k nearest of (B, D) `bank` to each of (N, D) `points`.

    With `groups` of whole numbers, (N,) of the points and (B,) of the bank, all of a point's own group are left out;
    with `first` (N,), all of the bank but its first so many. Raises InputError for what is no table of points.
    """
    points, bank = _tables(points, bank, k)
    places, everyone = (torch.arange(len(x), device=x.device) for x in (bank, points))

    def hide(found: Tensor, rows: Tensor | slice, columns: slice) -> None:
        if groups is not None:
            found.masked_fill_(groups[0][rows][:, None] == groups[1][None, columns], torch.inf)
        if first is not None:
            found.masked_fill_(places[None, columns] >= first[rows][:, None], torch.inf)

    with whole_products():
        tiles = Tiles(points, bank, _ROWS * _COLUMNS, points.dtype)
        best = _scanned(tiles.bounds, everyone, bank, k + _SPARE, hide)
    return _settled(best, points, bank, k, hide)


def _scanned(block: _Block, numbers: Tensor, bank: Tensor, k: int, hide: _Hide) -> Best:
    """The k smallest values that the points `numbers` have in the blocks of a bank."""
    best, places = Best(len(numbers), k, bank), torch.arange(len(numbers), device=bank.device)
    for row in range(0, len(numbers), _ROWS):
        rows = slice(row, row + _ROWS)
        for column in range(0, len(bank), _COLUMNS):
            columns = slice(column, column + _COLUMNS)
            found = block(rows, columns)
            hide(found, numbers[rows], columns)
            best.see(places[rows], found, column)
    return best


def _settled(best: Best, points: Tensor, bank: Tensor, k: int, hide: _Hide) -> Neighbours:
    """The k nearest of what is kept; where another may be as near as these, of all: by products in float64, then,
    slowly, by differences."""
    distance, index, unsure = _by_distance(best, points, bank, k)
    if len(unsure) and points.dtype != torch.float64:
        own = points[unsure]
        tiles = Tiles(own, bank, _ROWS * _COLUMNS, torch.float64)
        best = _scanned(tiles.bounds, unsure, tiles.bank, k + _SPARE, hide)
        distance[unsure], index[unsure], still = _by_distance(best, own, bank, k)
        unsure = unsure[still]
    if len(unsure):
        own = points[unsure]

        def apart(rows: slice, columns: slice) -> Tensor:
            return torch.cdist(own[rows], bank[columns], compute_mode="donot_use_mm_for_euclid_dist")

        distance[unsure], index[unsure], _ = _by_distance(_scanned(apart, unsure, bank, k, hide), own, bank, k)
    return Neighbours(distance, index)


def _by_distance(best: Best, points: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, k) distances, rising, of what is kept, anew from differences, whose they are, and which points may have
    nearer ones: nothing else is nearer than the largest bound that is kept."""
    distance = torch.full(best.value.shape, torch.inf, dtype=points.dtype, device=points.device)
    for row in range(0, len(points) if len(bank) else 0, _ROWS):
        rows = slice(row, row + _ROWS)
        exact = bank[best.index[rows].clamp_min(0)].sub_(points[rows, None]).norm(dim=2)
        distance[rows] = exact.where(best.index[rows] >= 0, torch.inf)
    distance, order = distance.sort(dim=1)
    distance, index = distance[:, :k], best.index.gather(1, order[:, :k])
    # Distances are no surer than this themselves; where many are equal, it leaves them be.
    least = best.worst(slice(None)).clamp_min(0) * (1 + 32 * torch.finfo(points.dtype).eps)
    return distance, index, (distance[:, -1].square() > least).nonzero().squeeze(1)


def _tables(points: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Both in float32 at least."""
    if points.dim() != 2 or bank.dim() != 2 or points.shape[1] != bank.shape[1] or not points.is_floating_point():
        raise InputError(
            f"found points {tuple(points.shape)} of {points.dtype} and a bank {tuple(bank.shape)}, expected floating "
            f"point tables (N, D) of one width"
        )
    if k < 1:
        raise InputError(f"k is {k}, expected a whole number >= 1")
    points, bank = (x if x.dtype == torch.float64 else x.float() for x in (points, bank))
    return points, bank
