"""Random numbers of the figures by name: each is a function of (key, name), so that adding one shifts no other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crossguard.core import random


@dataclass(frozen=True)
class Chance:
    """Draws for n things, a key (n,) int64 each."""

    keys: Tensor

    def _named(self, name: str) -> Tensor:
        return random.combine(self.keys, random.text_key(name))

    def signed(self, name: str, count: int = 1) -> Tensor:
        """(n, count) float64 uniform on [-1, 1)."""
        return random.uniform(self._named(name), count)

    def unit(self, name: str, count: int = 1) -> Tensor:
        """(n, count) float64 uniform on [0, 1)."""
        return 0.5 * (self.signed(name, count) + 1)

    def between(self, name: str, low: float, high: float, count: int = 1) -> Tensor:
        """(n, count) float64 uniform on [low, high)."""
        return low + (high - low) * self.unit(name, count)

    def happens(self, name: str, chance: float, count: int = 1) -> Tensor:
        """(n, count) bool, true with probability `chance`."""
        return self.unit(name, count) < chance

    def bell(self, name: str, count: int) -> Tensor:
        """(n, count) float64, near normal of variance 1: three uniforms of variance 1/3 summed."""
        parts = self.signed(name, 3 * count).view(-1, 3, count)
        return parts[:, 0] + parts[:, 1] + parts[:, 2]

    def bytes(self, name: str, count: int) -> Tensor:
        """(n, count) float32 uniform over -127.5 … 127.5 in steps of 1, eight from each random word."""
        words = random.bits(self._named(name), -(-count // 8))
        parts = [((words >> shift) & 0xFF).to(torch.float32) for shift in range(0, 64, 8)]
        return torch.cat(parts, dim=1)[:, :count] - 127.5


def keys(numbers: Tensor, *parts: int | str) -> Chance:
    """Draws keyed by `numbers` (n,) and what they are for."""
    coded = (random.text_key(p) if isinstance(p, str) else p for p in parts)
    return Chance(random.combine(numbers.to(torch.int64), *coded))
