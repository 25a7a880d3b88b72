"""Records -> one self-contained HTML page."""

from crossguard.report.page import report

__all__ = ["report"]
