"""Budgets by modality, in physical units, and the threat models made of them."""

from crossguard.threat.budget import Ball, Budget
from crossguard.threat.l2 import L2
from crossguard.threat.linf import Linf
from crossguard.threat.model import NORMS, ThreatModel

__all__ = ["L2", "NORMS", "Ball", "Budget", "Linf", "ThreatModel"]
