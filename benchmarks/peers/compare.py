"""Attacks in turn on the same samples: what they take, whom they leave standing, and ratios of neighbouring runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

Attack: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Runs:
    """By round: seconds, and robust accuracy in percent; what stopped the attack, if anything did."""

    seconds: list[float] = field(default_factory=list)
    robust: list[float] = field(default_factory=list)
    failed: str = ""


def standing(net: nn.Module, x: Tensor, y: Tensor, points: Tensor, eps: float) -> Tensor:
    """(N,) whether the class stays right at x and at the point returned, one judge for all.

    A point further than eps (Linf) from x, outside [0, 1] or not a number fools nobody; 1e-6 is granted for rounding.
    """
    near = (points - x).abs().flatten(1).amax(dim=1) <= eps + 1e-6
    inside = ((points >= -1e-6) & (points <= 1 + 1e-6)).flatten(1).all(dim=1)
    with torch.no_grad():
        right, fooled = net(x).argmax(dim=1) == y, net(points).argmax(dim=1) != y
    return right & ~(fooled & near & inside)


def race(
    attacks: Mapping[str, Attack], net: nn.Module, x: Tensor, y: Tensor, eps: float, rounds: int, warm_up: bool
) -> dict[str, Runs]:
    """All attacks in turn, `rounds` times; every run of a round starts from the same global seed."""
    runs = {name: Runs() for name in attacks}
    for turn in range(-1 if warm_up else 0, rounds):
        for name, attack in attacks.items():
            if runs[name].failed:
                continue
            torch.manual_seed(max(turn, 0))
            start = time.perf_counter()
            try:
                points = attack(x, y)
            except Exception as error:  # a library may refuse a model in any way it likes; the table says so
                runs[name].failed = f"{type(error).__name__}: {error}".partition("\n")[0]
                continue
            taken = time.perf_counter() - start
            if turn >= 0:
                runs[name].seconds.append(taken)
                left = standing(net, x, y, points.detach(), eps)
                runs[name].robust.append(100 * left.to(torch.float64).mean().item())
    return runs


def ratio(ours: Runs, theirs: Runs) -> tuple[float, float]:
    """Median over rounds of ours / theirs, and the interquartile range (0 of one round)."""
    found = [a / b for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
    low, median, high = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else found * 3
    return median, high - low


def above(ours: Runs, theirs: Runs) -> float:
    """By how many points our robust accuracy is above theirs, in the worst round; negative where it is lower."""
    return max(a - b for a, b in zip(ours.robust, theirs.robust, strict=True))
