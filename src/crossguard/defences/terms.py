"""`TERMS`: what may be added to a training loss, by the name that a recipe says."""

from __future__ import annotations

from crossguard.defences.consistency import CONSISTENCY
from crossguard.defences.odd_one_out import ODD_ONE_OUT
from crossguard.defences.reweighting import EVEN_WEIGHTS, FOLLOW_ATTACK
from crossguard.defences.similarity import SIMILARITY
from crossguard.defences.term import Term

TERMS: dict[str, Term] = {
    "similarity": SIMILARITY,
    "consistency": CONSISTENCY,
    "even_weights": EVEN_WEIGHTS,
    "follow_attack": FOLLOW_ATTACK,
    "odd_one_out": ODD_ONE_OUT,
}
