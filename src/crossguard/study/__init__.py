"""Studies: a folder of recipes x seeds x folds, run side by side, and the tables that follow from their Records."""

from crossguard.study.export import EXPORTS, export
from crossguard.study.page import page
from crossguard.study.plan import Run, Study, read_study
from crossguard.study.records import Repeated, pooled, repeated
from crossguard.study.results import Difference, Results, Row, results
from crossguard.study.runner import Failure, run_study

__all__ = [
    "EXPORTS",
    "Difference",
    "Failure",
    "Repeated",
    "Results",
    "Row",
    "Run",
    "Study",
    "export",
    "page",
    "pooled",
    "read_study",
    "repeated",
    "results",
    "run_study",
]
