"""Transfer: what fools one model, shown to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from crossguard.attacks.judge import judge
from crossguard.attacks.mi_fgsm import mi_fgsm
from crossguard.attacks.result import AttackResult
from crossguard.core.batch import Inputs
from crossguard.threat import ThreatModel

# What is about the samples, and so is said to both models; the rest is about the attack on the surrogate.
SHARED = ("task", "mask", "ids", "seed", "targeted")


def transfer(
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    threat: ThreatModel,
    *,
    surrogate: nn.Module,
    attack: Callable[..., AttackResult] = mi_fgsm,
    stop: Literal["success", "never"] = "success",
    **options: Any,
) -> AttackResult:
    """Attack `surrogate` to the last step, then show what was found to `model` (Papernot et al., 2016).

    No gradient of `model` is asked for and none can mislead, which makes this a test for masked gradients. `options`
    are those of `attack`; momentum is the default because its directions transfer better (Dong et al., CVPR 2018).
    The point shown is the one of lowest margin on the surrogate (our choice; often the last is taken). `stop` is how
    `judge` treats samples that `model` gets wrong already. `forwards` and `backwards` count both models together; the
    backwards are all the surrogate's, and `model` is asked at most three times a sample.
    """
    shared = {name: options[name] for name in SHARED if name in options}
    there = attack(surrogate, inputs, targets, threat, stop="never", **options)
    found = {name: there.inputs[name] for name in threat.names}
    here = judge(model, inputs, targets, threat, found=found, stop=stop, **shared)
    return replace(
        here, steps=there.steps, forwards=here.forwards + there.forwards, backwards=here.backwards + there.backwards
    )
