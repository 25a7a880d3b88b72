"""Fusions: how branches meet."""

from crossguard.models.fusion.amr import AMR
from crossguard.models.fusion.concat import Concat
from crossguard.models.fusion.fusion import Fusion, Gates
from crossguard.models.fusion.insert import Inserted, insert
from crossguard.models.fusion.mean import Mean
from crossguard.models.fusion.mmtm import MMTM

FUSIONS: dict[str, type[Fusion]] = {"concat": Concat, "mean": Mean, "mmtm": MMTM, "amr": AMR}

__all__ = ["AMR", "FUSIONS", "MMTM", "Concat", "Fusion", "Gates", "Inserted", "Mean", "insert"]
