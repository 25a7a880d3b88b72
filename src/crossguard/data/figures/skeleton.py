"""The body: 25 joints in the order of NTU RGB+D (Shahroudy et al., CVPR 2016), its proportions and how a pose bends it.

Limbs are posed by where hands and feet are, with two-bone inverse kinematics in between: an action then reads as
what the hands and feet do, and bone lengths hold exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

JOINTS = (
    *("spine base", "spine mid", "neck", "head"),
    *("left shoulder", "left elbow", "left wrist", "left hand"),
    *("right shoulder", "right elbow", "right wrist", "right hand"),
    *("left hip", "left knee", "left ankle", "left foot"),
    *("right hip", "right knee", "right ankle", "right foot"),
    *("spine shoulder", "left hand tip", "left thumb", "right hand tip", "right thumb"),
)
BONES = (
    *((0, 1), (1, 20), (20, 2), (2, 3)),
    *((20, 4), (4, 5), (5, 6), (6, 7), (7, 21), (6, 22)),
    *((20, 8), (8, 9), (9, 10), (10, 11), (11, 23), (10, 24)),
    *((0, 12), (12, 13), (13, 14), (14, 15)),
    *((0, 16), (16, 17), (17, 18), (18, 19)),
)


@dataclass(frozen=True)
class Body:
    """A performer's proportions, (n, 1) each: `height` in metres, limbs, breadth and girth as factors of the usual."""

    height: Tensor
    arm: Tensor
    leg: Tensor
    breadth: Tensor
    girth: Tensor

    @property
    def arm_lengths(self) -> tuple[Tensor, Tensor]:
        """Upper arm and forearm in metres (shares of the height after Drillis and Contini, 1966)."""
        return 0.180 * self.height * self.arm, 0.150 * self.height * self.arm

    @property
    def leg_lengths(self) -> tuple[Tensor, Tensor]:
        """Thigh and shin in metres."""
        return 0.245 * self.height * self.leg, 0.246 * self.height * self.leg


@dataclass(frozen=True)
class Pose:
    """Where a body is at each moment, (n, T, 3) each, in its own frame (left, up, forward).

    `pelvis` is its displacement in leg lengths; `torso` and `head` are (pitch forward, roll left, twist) in radians;
    hands are (outward, up, forward) from their shoulder in arm lengths, turning with the torso; feet are
    (outward, up, forward) from where they stand, in leg lengths.
    """

    pelvis: Tensor
    torso: Tensor
    head: Tensor
    left_hand: Tensor
    right_hand: Tensor
    left_foot: Tensor
    right_foot: Tensor

    def mirrored(self, where: Tensor) -> Pose:
        """The same pose with left and right exchanged in the samples at `where` (n,)."""
        at = where[:, None, None]
        outward = torch.tensor((-1.0, 1.0, 1.0), dtype=torch.float64)
        turned = torch.tensor((1.0, -1.0, -1.0), dtype=torch.float64)
        swapped = Pose(
            self.pelvis * outward,
            self.torso * turned,
            self.head * turned,
            self.right_hand,
            self.left_hand,
            self.right_foot,
            self.left_foot,
        )
        both = ((f.name, getattr(swapped, f.name), getattr(self, f.name)) for f in fields(self))
        return replace(self, **{name: torch.where(at, b, a) for name, b, a in both})


def vector(x: Tensor | float, y: Tensor | float, z: Tensor | float) -> Tensor:
    """Three coordinates that broadcast against each other, as (…, 3) float64."""
    parts = [torch.as_tensor(p, dtype=torch.float64) for p in (x, y, z)]
    return torch.stack(torch.broadcast_tensors(*parts), dim=-1)


def rotate(v: Tensor, angles: Tensor) -> Tensor:
    """Turn `v` (…, 3) by (pitch forward, roll left, twist), in that order."""
    (x, y, z), (sin, cos) = v.unbind(-1), (angles.sin().unbind(-1), angles.cos().unbind(-1))
    y, z = y * cos[0] - z * sin[0], y * sin[0] + z * cos[0]
    x, y = x * cos[1] + y * sin[1], y * cos[1] - x * sin[1]
    x, z = x * cos[2] + z * sin[2], z * cos[2] - x * sin[2]
    return torch.stack((x, y, z), dim=-1)


def _norm(v: Tensor) -> Tensor:
    return (v * v).sum(dim=-1, keepdim=True).clamp_min(1e-12).sqrt()


def _bend(root: Tensor, target: Tensor, hint: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two bones from `root` towards `target`, bending towards `hint`: the middle joint and the end."""
    first, second = first[..., None], second[..., None]
    reach = _norm(target - root)
    along = (target - root) / reach
    span = torch.minimum(torch.maximum(reach, (first - second).abs() + 1e-3), 0.998 * (first + second))
    side = hint - along * (hint * along).sum(dim=-1, keepdim=True)
    side = side / _norm(side)
    shadow = (first * first - second * second + span * span) / (2 * span)
    middle = root + along * shadow + side * (first * first - shadow * shadow).clamp_min(0).sqrt()
    return middle, root + along * span


def articulate(body: Body, pose: Pose) -> Tensor:
    """(n, T, 25, 3) joints in metres in the performer's frame (left, up, forward), the floor at height 0."""
    height = body.height
    arm, leg = body.arm_lengths, body.leg_lengths
    ankle = 0.042 * height
    stand = vector(0.0, ankle + 0.985 * (leg[0] + leg[1]), 0.0)
    base = stand + pose.pelvis * (leg[0] + leg[1])[..., None]
    half, whole = 0.5 * pose.torso, pose.torso
    joints: dict[int, Tensor] = {0: base}
    joints[1] = base + rotate(vector(0.0, 0.145 * height, 0.0), half)
    joints[20] = joints[1] + rotate(vector(0.0, 0.150 * height, 0.0), whole)
    joints[2] = joints[20] + rotate(vector(0.0, 0.045 * height, 0.0), whole)
    joints[3] = joints[2] + rotate(vector(0.0, 0.085 * height, 0.012 * height), whole + pose.head)
    for side, shoulder, hip, hand, foot in (
        (1.0, 4, 12, pose.left_hand, pose.left_foot),
        (-1.0, 8, 16, pose.right_hand, pose.right_foot),
    ):
        flip = torch.tensor((side, 1.0, 1.0), dtype=torch.float64)
        tip, thumb = (21, 22) if shoulder == 4 else (23, 24)
        top = joints[20] + rotate(vector(side * 0.108 * height * body.breadth, -0.020 * height, 0.0), whole)
        goal = top + rotate(hand * flip * (arm[0] + arm[1])[..., None], whole)
        elbow, wrist = _bend(top, goal, rotate(vector(side * 0.45, -0.75, -0.5), whole), *arm)
        fingers = (wrist - elbow) / _norm(wrist - elbow)
        inward = rotate(vector(-side * 0.6, 0.3, 0.7), whole)
        inward = inward - fingers * (inward * fingers).sum(dim=-1, keepdim=True)
        joints |= {shoulder: top, shoulder + 1: elbow, shoulder + 2: wrist}
        joints[shoulder + 3] = wrist + fingers * (0.045 * height)[..., None]
        joints[tip] = wrist + fingers * (0.095 * height)[..., None]
        joints[thumb] = wrist + (0.8 * fingers + 0.6 * inward / _norm(inward)) * (0.045 * height)[..., None]
        joints[hip] = base + vector(side * 0.055 * height * body.breadth, -0.010 * height, 0.0)
        ground = vector(side * 0.062 * height * body.breadth, ankle, 0.0)
        goal = ground + foot * flip * (leg[0] + leg[1])[..., None]
        knee, end = _bend(joints[hip], goal, vector(side * 0.25, 0.0, 1.0), *leg)
        joints |= {hip + 1: knee, hip + 2: end}
        joints[hip + 3] = end + vector(side * 0.03 * height, -0.022 * height, 0.075 * height)
    shape = torch.broadcast_shapes(*(j.shape for j in joints.values()))
    return torch.stack([joints[j].expand(shape) for j in range(len(JOINTS))], dim=-2)
