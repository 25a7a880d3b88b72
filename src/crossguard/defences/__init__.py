"""How models are trained: an `Objective` a file; `OBJECTIVES` names them for recipes."""

from collections.abc import Callable

from crossguard.defences.adversarial import Adversarial
from crossguard.defences.objective import Context, Losses, Objective, Work
from crossguard.defences.standard import Standard
from crossguard.defences.supervision import AuxiliaryWeight, supervise, supervised_losses

OBJECTIVES: dict[str, Callable[..., Objective]] = {"standard": Standard, "adversarial": Adversarial}

__all__ = [
    "OBJECTIVES",
    "Adversarial",
    "AuxiliaryWeight",
    "Context",
    "Losses",
    "Objective",
    "Standard",
    "Work",
    "supervise",
    "supervised_losses",
]
