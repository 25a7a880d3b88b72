"""Fusions: how branches meet."""

from crossguard.models.fusion.amr import AMR
from crossguard.models.fusion.concat import Concat
from crossguard.models.fusion.early import Early, Mid
from crossguard.models.fusion.exfmem import ExFMem
from crossguard.models.fusion.fusion import Fusion, Gates
from crossguard.models.fusion.insert import Inserted, insert
from crossguard.models.fusion.joint_transformer import JointTransformer
from crossguard.models.fusion.late import Late
from crossguard.models.fusion.mean import Mean
from crossguard.models.fusion.mmtm import MMTM
from crossguard.models.fusion.odd_one_out import OddOneOut

FUSIONS: dict[str, type[Fusion]] = {
    "concat": Concat,
    "mean": Mean,
    "mmtm": MMTM,
    "amr": AMR,
    "exfmem": ExFMem,
    "odd_one_out": OddOneOut,
    "transformer": JointTransformer,
    "early": Early,
    "mid": Mid,
    "late": Late,
}

__all__ = [
    "AMR",
    "FUSIONS",
    "MMTM",
    "Concat",
    "Early",
    "ExFMem",
    "Fusion",
    "Gates",
    "Inserted",
    "JointTransformer",
    "Late",
    "Mean",
    "Mid",
    "OddOneOut",
    "insert",
]
