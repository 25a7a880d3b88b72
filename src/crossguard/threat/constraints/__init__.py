"""What an attacker may not do although the norm allows it: which entries move, bones, frames, codes. One file each."""

from crossguard.threat.constraints.acceleration import Acceleration
from crossguard.threat.constraints.bone_lengths import BoneLengths
from crossguard.threat.constraints.codes import AUDIO16, PIXELS8, YOUTUBE8M, Codes
from crossguard.threat.constraints.constraint import CONSTRAINTS, Constraint, Still
from crossguard.threat.constraints.fixed_joints import FixedJoints
from crossguard.threat.constraints.frames import Frames
from crossguard.threat.constraints.joint_weights import JointWeights
from crossguard.threat.constraints.region import Region

__all__ = [
    "AUDIO16",
    "CONSTRAINTS",
    "PIXELS8",
    "YOUTUBE8M",
    "Acceleration",
    "BoneLengths",
    "Codes",
    "Constraint",
    "FixedJoints",
    "Frames",
    "JointWeights",
    "Region",
    "Still",
]
