"""Conditions, metrics, statistics and checks of an evaluation, and the Record that it writes."""

from crossguard.evaluation import metrics
from crossguard.evaluation.evaluate import evaluate
from crossguard.evaluation.protocol import Protocol
from crossguard.evaluation.record import Estimate, Flag, Record

__all__ = ["Estimate", "Flag", "Protocol", "Record", "evaluate", "metrics"]
