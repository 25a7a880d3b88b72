"""Attacks on any number of inputs at once: `attack(model, inputs, targets, threat, *, …) -> AttackResult`."""

from collections.abc import Callable

from crossguard.attacks.apgd import apgd
from crossguard.attacks.fgsm import fgsm
from crossguard.attacks.mi_fgsm import mi_fgsm
from crossguard.attacks.noise import noise
from crossguard.attacks.pgd import pgd
from crossguard.attacks.search import AttackResult, Plan, search
from crossguard.attacks.square import square

ATTACKS: dict[str, Callable[..., AttackResult]] = {
    "apgd": apgd,
    "fgsm": fgsm,
    "mi_fgsm": mi_fgsm,
    "noise": noise,
    "pgd": pgd,
    "square": square,
}

__all__ = ["ATTACKS", "AttackResult", "Plan", "apgd", "fgsm", "mi_fgsm", "noise", "pgd", "search", "square"]
