"""How models are trained: an `Objective` a file, named in `OBJECTIVES`, and a term of the loss a file, in `TERMS`."""

from collections.abc import Callable

from crossguard.defences.adversarial import Adversarial
from crossguard.defences.attention_regularization import AttentionRegularization
from crossguard.defences.fast import Fast
from crossguard.defences.free import Free
from crossguard.defences.mixup import Mixup
from crossguard.defences.mixup_adversarial import MixupAdversarial
from crossguard.defences.noise import Noise
from crossguard.defences.objective import Context, Losses, Objective, Work
from crossguard.defences.standard import Standard
from crossguard.defences.supervision import AuxiliaryWeight, Supervised, supervised_losses
from crossguard.defences.term import Given, Term
from crossguard.defences.terms import TERMS
from crossguard.defences.trades import Trades

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "standard": Standard,
    "adversarial": Adversarial,
    "trades": Trades,
    "attention_regularization": AttentionRegularization,
    "mixup": Mixup,
    "mixup_adversarial": MixupAdversarial,
    "fast": Fast,
    "free": Free,
    "noise": Noise,
}

__all__ = [
    "OBJECTIVES",
    "TERMS",
    "Adversarial",
    "AttentionRegularization",
    "AuxiliaryWeight",
    "Context",
    "Fast",
    "Free",
    "Given",
    "Losses",
    "Mixup",
    "MixupAdversarial",
    "Noise",
    "Objective",
    "Standard",
    "Supervised",
    "Term",
    "Trades",
    "Work",
    "supervised_losses",
]
