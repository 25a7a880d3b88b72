"""Attacks for where the plain one fails, and which failure calls for which of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from crossguard.attacks import AttackResult, Expectation, apgd, judge, square
from crossguard.core import ModelError, MultiLabel, Task
from crossguard.core.batch import Inputs, Output
from crossguard.core.model import bare, forward
from crossguard.diagnostics.failures.smoothed import Smoothed
from crossguard.diagnostics.failures.straight_through import StraightThrough
from crossguard.models.adapt import as_logits
from crossguard.threat import ThreatModel

# Draws of a randomised model that are climbed, and that judge what was found.
DRAWS, JUDGES = 16, 64
# How much longer "more_steps" is, and how many queries random search has for each step of the others.
LONGER, QUERIES = 4, 100


class Logarithm(nn.Module):
    """A model that returns probabilities, as one that returns logits."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.viewed = bare(model)
        self.several = isinstance(task, MultiLabel)

    def forward(self, inputs: Inputs, mask: Mapping[str, Tensor] | None = None) -> Output:
        """The logits that give the model's probabilities."""
        answer = forward(self.viewed, inputs, mask).logits
        return Output(as_logits(answer, "multilabel_probabilities" if self.several else "probabilities"))


def margin(model: nn.Module, inputs: Inputs, targets: Tensor, threat: ThreatModel, **options: Any) -> AttackResult:
    """APGD on the margin, which neither saturates nor underflows where the cross-entropy does."""
    return apgd(model, inputs, targets, threat, objective="margin", **options)


def more_steps(
    model: nn.Module, inputs: Inputs, targets: Tensor, threat: ThreatModel, *, steps: int, **options: Any
) -> AttackResult:
    """The same attack, longer, from another random start."""
    options["seed"] = options.get("seed", 0) + 1
    return margin(model, inputs, targets, threat, steps=LONGER * steps, **options)


def logarithm(model: nn.Module, inputs: Inputs, targets: Tensor, threat: ThreatModel, **options: Any) -> AttackResult:
    """APGD on the logarithm of the probabilities that the model returns, through their rounding to 0."""
    return margin(StraightThrough(Logarithm(model, options["task"])), inputs, targets, threat, **options)


def straight_through(
    model: nn.Module, inputs: Inputs, targets: Tensor, threat: ThreatModel, **options: Any
) -> AttackResult:
    """APGD with gradients through what blocks them, from two starts: what was blocked is often a staircase."""
    return margin(StraightThrough(model), inputs, targets, threat, **{"restarts": 2, **options})


def smoothed(model: nn.Module, inputs: Inputs, targets: Tensor, threat: ThreatModel, **options: Any) -> AttackResult:
    """APGD with such gradients, averaged over a neighbourhood."""
    return margin(Smoothed(StraightThrough(model), threat), inputs, targets, threat, **options)


def random_search(
    model: nn.Module, inputs: Inputs, targets: Tensor, threat: ThreatModel, *, steps: int, **options: Any
) -> AttackResult:
    """Square attack, which no gradient can mislead, from where straight-through gradients led if they led anywhere."""
    try:
        first: AttackResult | None = straight_through(model, inputs, targets, threat, steps=steps, **options)
    except ModelError:
        first = None
    start = None if first is None else {name: first.inputs[name] for name in threat.names}
    found = square(model, inputs, targets, threat, queries=QUERIES * steps, start=start, **options)
    if first is None:
        return found
    return replace(found, forwards=first.forwards + found.forwards, backwards=first.backwards + found.backwards)


REMEDIES: dict[str, Callable[..., AttackResult]] = {
    "margin": margin,
    "more_steps": more_steps,
    "logarithm": logarithm,
    "expectation": straight_through,  # of the mean of draws, as every remedy is where the model is a random one
    "straight_through": straight_through,
    "smoothed": smoothed,
    "random_search": random_search,
}

_BLOCKED = ("straight_through", "smoothed", "random_search")
# Failure -> what is tried against it, the most telling first.
TREATMENTS: dict[str, tuple[str, ...]] = {
    "probabilities": ("logarithm",),
    "random_predictions": ("expectation",),
    "optimizes_at_test_time": ("straight_through", "random_search"),
    "no_gradient": _BLOCKED,
    "vanishing_gradient": ("margin", "straight_through"),
    "unstable_predictions": _BLOCKED,
    "silent_success": ("expectation",),
    "attack_not_converged": ("more_steps",),
    "transfer_failure": ("margin", "straight_through"),
    "square_beats_attack": _BLOCKED,
    "unbounded_attack_fails": _BLOCKED,
}


def treat(
    name: str,
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    threat: ThreatModel,
    *,
    random: bool = False,
    **options: Any,
) -> AttackResult | None:
    """What the remedy `name` finds; None where the model yields no gradient to it either.

    `options`: task, steps, and those of every attack. A `random` model is climbed in the mean of its draws and judged
    by fresh ones, one a call since many draw once for a whole batch: luck in one draw fools nobody.
    """
    try:
        if not random:
            return REMEDIES[name](model, inputs, targets, threat, **options)
        climbed = Expectation(model, DRAWS, at_once=1)
        found = REMEDIES[name](climbed, inputs, targets, threat, **{**options, "stop": "never"})
    except ModelError:
        return None
    told = redrawn(model, inputs, targets, threat, found, **options)
    forwards, backwards = DRAWS * found.forwards + JUDGES * told.forwards, DRAWS * found.backwards
    return replace(told, forwards=forwards, backwards=backwards)


def redrawn(
    model: nn.Module, inputs: Inputs, targets: Tensor, threat: ThreatModel, found: AttackResult, **options: Any
) -> AttackResult:
    """What fresh draws of a random model say, in the mean, to points that were found."""
    shared = {k: v for k, v in options.items() if k in ("task", "mask", "ids", "seed")}
    points = {name: found.inputs[name] for name in threat.names}
    judging = Expectation(model, JUDGES, at_once=1)
    return judge(judging, inputs, targets, threat, found=points, stop="never", **shared)
