"""Numbers that say why a model is robust or not."""

from crossguard.diagnostics.failures import Failure, failures
from crossguard.diagnostics.reliance import contribution, without

__all__ = ["Failure", "contribution", "failures", "without"]
