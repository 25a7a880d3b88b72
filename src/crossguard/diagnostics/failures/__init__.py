"""Whether an attack did what it could: indicators of its failure, and remedies (Pintor et al., NeurIPS 2022)."""

from crossguard.diagnostics.failures.failures import Failure, failures
from crossguard.diagnostics.failures.remedies import REMEDIES, treat
from crossguard.diagnostics.failures.smoothed import Smoothed
from crossguard.diagnostics.failures.straight_through import StraightThrough

__all__ = ["REMEDIES", "Failure", "Smoothed", "StraightThrough", "failures", "treat"]
