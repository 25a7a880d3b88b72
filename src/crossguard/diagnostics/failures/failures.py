"""Attack failures are found out: indicators of a failed attack, by modality, and what helps against each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from crossguard.attacks import AttackResult, judge
from crossguard.attacks.arguments import check_arguments
from crossguard.core import Task, borrowed, forward, settle_task
from crossguard.core.batch import Inputs
from crossguard.core.random import sample_keys
from crossguard.diagnostics.failures import indicators
from crossguard.diagnostics.failures.remedies import TREATMENTS
from crossguard.diagnostics.failures.study import Study
from crossguard.threat import ThreatModel

# An indicator counts where it speaks up for more than one sample and for more than this share (our choice).
SHARE = 0.1
STRICTER = {"silent_success": 0.02, "square_beats_attack": 0.02, "unbounded_attack_fails": 0.01}
# I2 speaks up for a sample of whose change more than this share is unexplained (our choice).
ROUGH = 0.3
# Honest attacks can be unfinished without consequence; these count only where a remedy fools more samples.
CONSEQUENTIAL = ("attack_not_converged",)
DETAILS = {
    "probabilities": "the model returns probabilities, so that the gradients of losses on logits vanish",
    "random_predictions": "asked again, the model answers {k} of {n} samples differently: an attack follows the "
    "gradient of one draw and is judged by another",
    "optimizes_at_test_time": "the model takes gradients while it answers; an attack that does not unroll them is "
    "blind to what they do",
    "no_gradient": "the model looks at {where}, but the gradient is exactly zero in {k} of {n} samples before they "
    "fall: an attack by gradients stops there, so its figures say little about robustness",
    "vanishing_gradient": "the gradient of the cross-entropy on {where} underflows to zero in {k} of {n} samples, that "
    "of the margin does not: attacks on the cross-entropy stop there",
    "unstable_predictions": "right next to {k} of {n} samples the model jumps along {where}: most of its change is not "
    "what the gradient foretells, so gradients lead astray",
    "transfer_failure": "on {where}, {k} of {n} samples fool the surrogate that gradients are taken from and not the "
    "model itself",
    "silent_success": "the attack on {where} passed points that fool {k} of {n} samples and handed back others",
    "attack_not_converged": "the attack on {where} was still getting better when it ended in {k} of {n} samples, and a "
    "longer one fools more",
    "square_beats_attack": "random search without gradients fooled {k} of {n} samples through {where} that gradients "
    "could not: they lead the attack astray",
    "unbounded_attack_fails": "with no budget to hold it back the attack on {where} still leaves {k} of {n} samples "
    "right: it is blind to something",
}


@dataclass(frozen=True)
class Failure:
    """A reason to doubt that the attack did what it could, in plain words. `modality` None: all of them together.

    `affected` of `samples` show it, all of them right when clean; `remedies`: what was tried on those that withstood,
    and how many more fell.
    """

    name: str
    modality: str | None
    detail: str
    affected: int
    samples: int
    remedies: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def remedy(self) -> str | None:
        """What helped most; None where nothing did."""
        best = max(self.remedies, key=lambda name: self.remedies[name], default=None)
        return best if best is not None and self.remedies[best] else None


def failures(
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    threat: ThreatModel,
    *,
    task: Task | None = None,
    mask: Mapping[str, Tensor] | None = None,
    ids: Sequence[str | int] | Tensor | None = None,
    seed: int = 0,
    steps: int = 30,
    surrogate: nn.Module | None = None,
    unbounded: bool = True,
) -> list[Failure]:
    """Attack each modality alone and all together, and say where gradients fail the attack and what helps.

    The attacks are APGD on the cross-entropy and on the margin, of `steps` steps and with a trace; `surrogate` is the
    model whose gradients are taken, where that is not `model` itself; without `unbounded` the attack with no budget to
    speak of is left out, for callers who have a curve over budgets. Samples that are wrong already say nothing and
    are left out; a few dozen are enough. Empty for an honest model. Raises InputError, ThreatError or ModelError as
    attacks do.
    """
    check_arguments(inputs, targets, threat, mask, ids, task)
    with borrowed(model, seed, targets.device) as net:
        with torch.no_grad():
            logits = forward(net, inputs, mask).logits
        task = settle_task(task, targets, logits)
        keys = sample_keys(ids, inputs)
        threat = threat.settled(inputs)
        study = Study(net, dict(inputs), targets, dict(mask or {}), keys, threat, task, seed, steps)
        study = study.at((task.margin(logits, targets) > 0).nonzero().squeeze(1))
        study = study.only(*threat.names)
        if not len(study) or not threat.names:
            return []
        study = replace(study, random=_enough("random_predictions", indicators.random_predictions(study)))
        slopes = study.slopes()[1]
        seen = tuple(m for m in threat.names if (g := slopes[m]) is not None and bool(g.any()))
        used = tuple(m for m in threat.names if m in seen or study.matters(m))
        found = _whole(study, task.looks_like_probabilities(logits), seen, used)
        for name in used:
            found += _single(study.only(name), name, surrogate)
        return found + _together(study, seen, used, unbounded)


def _enough(name: str, speaks: Tensor) -> bool:
    return int(speaks.sum()) > max(1.0, STRICTER.get(name, SHARE) * len(speaks))


def _raised(study: Study, name: str, modality: str | None, speaks: Tensor, fooled: Tensor) -> list[Failure]:
    """The failure, if the indicator speaks up for enough samples, with what its remedies gain on those not `fooled`."""
    if not _enough(name, speaks):
        return []
    gains = {remedy: study.gain(remedy, ~fooled) for remedy in TREATMENTS[name]}
    k, n = int(speaks.sum()), len(study)
    if name in CONSEQUENTIAL and max(gains.values()) <= max(1.0, 0.02 * n):
        return []
    where = modality or "all modalities together"
    return [Failure(name, modality, DETAILS[name].format(k=k, n=n, where=where), k, n, gains)]


def _whole(study: Study, probabilities: bool, seen: tuple[str, ...], used: tuple[str, ...]) -> list[Failure]:
    """What concerns the model, not a modality."""
    every = torch.ones_like(study.targets[..., 0] if study.targets.dim() == 2 else study.targets, dtype=torch.bool)
    said = {
        "probabilities": every & probabilities,
        "random_predictions": every & study.random,
        "optimizes_at_test_time": every & indicators.optimizes_at_test_time(study),
    }
    if not any(bool(speaks.any()) for speaks in said.values()):
        return []
    part = study.only(*used)
    fooled = part.fooled(study.only(*seen).climb("margin")) if seen else ~every
    return [f for name, speaks in said.items() for f in _raised(part, name, None, speaks, fooled)]


def _single(study: Study, name: str, surrogate: nn.Module | None) -> list[Failure]:
    """What concerns one modality that the model looks at."""
    if not len(study):
        return []
    margin, slopes = study.slopes()
    slope = slopes[name]
    everywhere = torch.ones_like(margin, dtype=torch.bool)
    if slope is None:
        return _raised(study, "no_gradient", name, everywhere, ~everywhere)
    entropy, gap = study.climb("cross_entropy"), study.climb("margin")
    assert entropy.trace is not None
    assert gap.trace is not None
    fooled = study.fooled(entropy) | study.fooled(gap)
    blocked = indicators.unavailable_gradients(gap.trace, name)
    vanished = indicators.unavailable_gradients(entropy.trace, name) & ~blocked
    found = _raised(study, "no_gradient", name, blocked, fooled)
    found += _raised(study, "vanishing_gradient", name, vanished, entropy.success)
    if not study.random:  # what changes by itself is no cliff
        rough = indicators.unexplained(study, name, margin, slope) > ROUGH
        found += _raised(study, "unstable_predictions", name, rough, fooled)
    if surrogate is not None:
        found += _transferred(study, name, surrogate)
    return found + _course(study, name, gap, fooled)


def _transferred(study: Study, name: str, surrogate: nn.Module) -> list[Failure]:
    """I5: what fools the model that gradients are taken from does not fool the model in question."""
    there = replace(study, net=surrogate).climb("margin")
    points = {name: there.inputs[name]}
    here = judge(study.net, study.inputs, study.targets, study.threat, found=points, **study.options)
    return _raised(study, "transfer_failure", name, there.success & ~here.success, here.success)


def _course(study: Study, name: str | None, gap: AttackResult, fooled: Tensor) -> list[Failure]:
    """What the attack's own course says, and whether random search does better."""
    found: list[Failure] = []
    if gap.trace is not None:
        found += _raised(study, "silent_success", name, indicators.silent_success(gap), fooled)
        found += _raised(study, "attack_not_converged", name, indicators.incomplete_optimization(gap.trace), fooled)
    if not study.random:  # luck in one draw is no success
        found += _raised(study, "square_beats_attack", name, indicators.square_beats_attack(study, fooled), fooled)
    return found


def _together(study: Study, seen: tuple[str, ...], used: tuple[str, ...], unbounded: bool) -> list[Failure]:
    """What concerns all modalities together, as far as gradients reach them."""
    if not seen:
        return []
    part, found = study.only(*seen), list[Failure]()
    if len(seen) > 1:
        gap = part.climb("margin")
        found += _course(part, None, gap, part.fooled(gap))
    # With something out of reach an attack without bounds need not succeed.
    reached = set(used) == set(study.inputs) and (study.threat.at_most is None or study.threat.at_most >= len(used))
    if unbounded and reached and part.threat.grows and not study.random:
        left = indicators.unbounded_attack_fails(part)
        found += _raised(part, "unbounded_attack_fails", None, left, torch.zeros_like(left))
    return found
