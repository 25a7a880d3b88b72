"""What exact neighbours are made of: squared distances a block at a time, and the smallest of them kept by point."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor


class Tiles:
    """Lower bounds of the squared distances of one table to another, blocks of at most `room` numbers, each in the
    memory of the one before.

    Products, here of `dtype`, are quick, but lose the digits of what is close: bounds lie below the truth by at most
    twice the `slack` x (|x|^2 + |y|^2), x and y seen from the middle of the bank.
    """

    def __init__(self, points: Tensor, bank: Tensor, room: int, dtype: torch.dtype) -> None:
        width = points.shape[1]
        # A product of D + 2 terms, the norms among them and the centred points are off by 3 D + 14 half units at most.
        self.slack = 1.5 * (width + 8) * torch.finfo(dtype).eps
        centre = bank.mean(dim=0, dtype=dtype)
        # (-2 x, |x|^2, 1) . (y, 1, |y|^2) is all of it in one product.
        self.points, self.bank = self._table(points, centre, width), self._table(bank, centre, width + 1)
        self.points[:, :width] *= -2
        self.room = self.bank.new_empty(min(room, len(points) * len(bank)))

    def bounds(self, rows: slice, columns: slice) -> Tensor:
        """(R, C), good until the next call."""
        points, bank = self.points[rows], self.bank[columns]
        out = self.room[: len(points) * len(bank)].view(len(points), len(bank))
        return torch.mm(points, bank.T, out=out)

    def _table(self, x: Tensor, centre: Tensor, place: int) -> Tensor:
        width = x.shape[1]
        table = torch.ones(len(x), width + 2, dtype=centre.dtype, device=x.device)
        torch.sub(x, centre, out=table[:, :width])
        table[:, place] = (1 - self.slack) * torch.linalg.vector_norm(table[:, :width], dim=1).square()
        return table


class Best:
    """The k smallest seen so far by point, in no order; inf and -1 where there are fewer."""

    def __init__(self, count: int, k: int, like: Tensor) -> None:
        self.k = k
        self.value = torch.full((count, k), torch.inf, dtype=like.dtype, device=like.device)
        self.index = torch.full((count, k), -1, dtype=torch.int64, device=like.device)

    def worst(self, rows: slice) -> Tensor:
        """(R,) the largest that is kept."""
        return self.value[rows].amax(dim=1)

    def see(self, rows: Tensor, found: Tensor, first: int) -> None:
        """Values (R, C) of points `rows` and those numbered from `first` on."""
        if not found.numel():
            return
        value, index = _lowest(found, min(self.k, found.shape[1]))
        values = torch.cat([self.value[rows], value], dim=1)
        indices = torch.cat([self.index[rows], index + first], dim=1)
        kept, place = values.topk(self.k, dim=1, largest=False, sorted=False)
        self.value[rows], self.index[rows] = kept, indices.gather(1, place).where(kept < torch.inf, -1)


@contextmanager
def whole_products() -> Generator[None]:
    """Products of float32 in float32, whatever the caller allows (TF32, bfloat16): the slack counts on it."""
    kinds = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # pyright: ignore[reportAttributeAccessIssue]
    before = [kind.fp32_precision for kind in kinds]
    try:
        allowed = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch refuses to say where kinds of device were set apart
        allowed = "highest"
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(allowed)
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def _lowest(found: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row and where they are, in no order.

    They all lie in the k groups of columns with the smallest minima, and minima are quick: of 4096 columns a few
    hundred are left to choose from.
    """
    size = int((found.shape[1] / k) ** 0.5)
    if size < 2:
        return found.topk(k, dim=1, largest=False, sorted=False)
    groups = found.shape[1] // size
    whole = size * groups
    minima = found[:, :whole].view(len(found), size, groups).amin(dim=1)
    chosen = minima.topk(k, dim=1, largest=False, sorted=False).indices
    members = torch.arange(0, whole, groups, device=found.device)[:, None] + chosen[:, None]
    rest = torch.arange(whole, found.shape[1], device=found.device).expand(len(found), -1)
    places = torch.cat([members.flatten(1), rest], dim=1)
    values, place = found.gather(1, places).topk(k, dim=1, largest=False, sorted=False)
    return values, places.gather(1, place)
