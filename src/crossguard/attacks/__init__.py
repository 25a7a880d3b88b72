"""Attacks on any number of inputs at once: `attack(model, inputs, targets, threat, *, …) -> AttackResult`."""

from collections.abc import Callable

from crossguard.attacks.apgd import apgd, apgd_t
from crossguard.attacks.attention import attention_drift
from crossguard.attacks.bpda import BPDA, Preprocessed
from crossguard.attacks.cw import cw
from crossguard.attacks.expectation import Expectation
from crossguard.attacks.fgsm import fgsm
from crossguard.attacks.fmn import fmn
from crossguard.attacks.judge import judge
from crossguard.attacks.mi_fgsm import mi_fgsm
from crossguard.attacks.noise import noise
from crossguard.attacks.perturbation import Perturbation
from crossguard.attacks.pgd import pgd
from crossguard.attacks.plan import Plan
from crossguard.attacks.result import AttackResult, Trace
from crossguard.attacks.search import search
from crossguard.attacks.square import square
from crossguard.attacks.transfer import transfer
from crossguard.attacks.universal import universal
from crossguard.attacks.worst_case import WorstCase, worst_case

ATTACKS: dict[str, Callable[..., AttackResult]] = {
    "apgd": apgd,
    "apgd_t": apgd_t,
    "cw": cw,
    "fgsm": fgsm,
    "mi_fgsm": mi_fgsm,
    "noise": noise,
    "pgd": pgd,
    "square": square,
}

__all__ = [
    "ATTACKS",
    "BPDA",
    "AttackResult",
    "Expectation",
    "Perturbation",
    "Plan",
    "Preprocessed",
    "Trace",
    "WorstCase",
    "apgd",
    "apgd_t",
    "attention_drift",
    "cw",
    "fgsm",
    "fmn",
    "judge",
    "mi_fgsm",
    "noise",
    "pgd",
    "search",
    "square",
    "transfer",
    "universal",
    "worst_case",
]
