"""Numbers that say why a model is robust or not."""

from crossguard.diagnostics.convexity import convexity
from crossguard.diagnostics.density import density
from crossguard.diagnostics.failures import Failure, failures
from crossguard.diagnostics.reliance import contribution, shapley, without

__all__ = ["Failure", "contribution", "convexity", "density", "failures", "shapley", "without"]
