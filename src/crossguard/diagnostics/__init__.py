"""Numbers that say why a model is robust or not."""

from crossguard.diagnostics.reliance import contribution, without

__all__ = ["contribution", "without"]
