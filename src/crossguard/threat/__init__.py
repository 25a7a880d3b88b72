"""Budgets by modality, in physical units, what constrains them, and the threat models made of them."""

from crossguard.threat.aligned import AlignedFrames
from crossguard.threat.ball import Ball
from crossguard.threat.budget import Budget
from crossguard.threat.constraints import (
    AUDIO16,
    CONSTRAINTS,
    PIXELS8,
    YOUTUBE8M,
    Acceleration,
    BoneLengths,
    Codes,
    Constraint,
    FixedJoints,
    Frames,
    JointWeights,
    Region,
)
from crossguard.threat.l0 import L0
from crossguard.threat.l1 import L1
from crossguard.threat.l2 import L2
from crossguard.threat.linf import Linf
from crossguard.threat.model import NORMS, ThreatModel
from crossguard.threat.snr import SNR

__all__ = [
    "AUDIO16",
    "CONSTRAINTS",
    "L0",
    "L1",
    "L2",
    "NORMS",
    "PIXELS8",
    "SNR",
    "YOUTUBE8M",
    "Acceleration",
    "AlignedFrames",
    "Ball",
    "BoneLengths",
    "Budget",
    "Codes",
    "Constraint",
    "FixedJoints",
    "Frames",
    "JointWeights",
    "Linf",
    "Region",
    "ThreatModel",
]
