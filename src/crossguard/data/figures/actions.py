"""The actions, each a short script of what hands, feet and torso do over the clip.

Some pairs differ only where one modality is blind: `drink` and `phone` by the object in the hand, `bow` and
`lean_back` mostly in depth; `sit_down` and `stand_up` are told apart only by the order of frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from crossguard.data.figures.skeleton import Pose, vector


@dataclass(frozen=True)
class Clock:
    """How a clip runs: `time` (n, T) is 0 to 1 over the clip; `amplitude`, `tempo`, `phase` (n, 1) vary by clip.

    `aim` (n, 1, 3) in [-1, 1] shifts where a hand goes.
    """

    time: Tensor
    amplitude: Tensor
    tempo: Tensor
    phase: Tensor
    aim: Tensor

    def swing(self, cycles: float) -> Tensor:
        """A sine of about `cycles` periods a clip."""
        return (2 * math.pi * (cycles * self.tempo * self.time + self.phase)).sin()

    def ramp(self, start: float, length: float) -> Tensor:
        """0 before, 1 after, smooth in between; the clip's phase shifts the start."""
        x = ((self.time - start - 0.12 * (self.phase - 0.5)) * self.tempo / length).clamp(0, 1)
        return x * x * (3 - 2 * x)

    def bump(self, start: float, length: float) -> Tensor:
        """0, up to 1 and back to 0 within `length`."""
        x = ((self.time - start - 0.12 * (self.phase - 0.5)) * self.tempo / length).clamp(0, 1)
        return (math.pi * x).sin() ** 2


def rest(clock: Clock, habit: Tensor) -> Pose:
    """Standing, breathing and swaying a little, as is the performer's `habit` (n, 1, 6) in [-1, 1]."""
    sway = clock.swing(0.7)
    out, forward, stoop, stance = (habit[..., i] for i in range(4))
    hand = vector(0.16 + 0.06 * out, -0.93 + 0.03 * sway, 0.08 + 0.08 * forward)
    other = vector(0.16 + 0.06 * out, -0.93 - 0.03 * sway, 0.10 + 0.08 * forward + 0.03 * sway)
    foot = vector(0.03 + 0.03 * stance + 0 * sway, 0.0, 0.0)
    return Pose(
        pelvis=vector(0.008 * sway, -0.012, 0.0),
        torso=vector(0.04 + 0.05 * stoop + 0.015 * sway, 0.02 * sway, 0.03 * sway),
        head=vector(0.02 * sway, 0.0, 0.08 * habit[..., 4]),
        left_hand=other,
        right_hand=hand,
        left_foot=foot,
        right_foot=foot,
    )


def _toward(start: Tensor, goal: Tensor, weight: Tensor) -> Tensor:
    return start + (goal - start) * weight[..., None]


def _wave(c: Clock, p: Pose) -> Pose:
    side = 0.30 + 0.26 * c.amplitude * c.swing(2.6)
    goal = vector(side, 0.58, 0.22) + 0.06 * c.aim
    return replace(p, right_hand=_toward(p.right_hand, goal, c.ramp(-0.05, 0.20)))


def _clap(c: Clock, p: Pose) -> Pose:
    out = -0.29 + 0.22 * c.amplitude * (1 + c.swing(2.6))
    goal = vector(out, -0.12, 0.52) + 0.05 * c.aim
    up = c.ramp(-0.05, 0.18)
    return replace(p, left_hand=_toward(p.left_hand, goal, up), right_hand=_toward(p.right_hand, goal, up))


def _punch(c: Clock, p: Pose) -> Pose:
    hit = (0.5 + 0.5 * c.swing(2.2)) ** 2
    guard, reach = vector(-0.12, 0.0, 0.42), vector(-0.26, 0.08, 0.60 + 0.36 * c.amplitude) + 0.05 * c.aim
    up = c.ramp(-0.05, 0.15)
    return replace(
        p,
        torso=p.torso + vector(0.10 * up, 0.0, 0.45 * hit * up),
        left_hand=_toward(p.left_hand, guard, up),
        right_hand=_toward(p.right_hand, _toward(guard, reach, hit), up),
        left_foot=p.left_foot + vector(0.0, 0.0, 0.14 * up),
        right_foot=p.right_foot - vector(0.0, 0.0, 0.14 * up),
        pelvis=p.pelvis - vector(0.0, 0.02 * up, -0.04 * hit * up),
    )


def _throw(c: Clock, p: Pose) -> Pose:
    wind, fling = c.ramp(0.0, 0.30), c.ramp(0.42, 0.16)
    back = vector(0.42, 0.50, -0.42) + 0.06 * c.aim
    front = vector(-0.18, 0.10 + 0.1 * c.amplitude, 0.88)
    hand = _toward(_toward(p.right_hand, back, wind), front, fling)
    return replace(
        p,
        torso=p.torso + vector(-0.15 * wind + 0.45 * fling * c.amplitude, 0.0, -0.5 * wind + 0.9 * fling),
        right_hand=hand,
        left_hand=_toward(p.left_hand, vector(0.25, -0.25, 0.70), wind * (1 - fling)),
        left_foot=p.left_foot + vector(0.0, 0.0, 0.22 * fling),
    )


def _kick(c: Clock, p: Pose) -> Pose:
    hit, lift = c.bump(0.22, 0.55), c.bump(0.05, 0.35)
    foot = vector(0.0, 0.08 * lift + 0.42 * c.amplitude * hit, -0.20 * lift + 0.78 * c.amplitude * hit)
    arms = 0.8 * c.bump(0.1, 0.75)
    return replace(
        p,
        torso=p.torso - vector(0.28 * hit, 0.0, 0.0),
        right_foot=p.right_foot + foot,
        left_hand=_toward(p.left_hand, vector(0.55, -0.45, 0.45), arms),
        right_hand=_toward(p.right_hand, vector(0.60, -0.55, -0.20), arms),
    )


def _jump(c: Clock, p: Pose) -> Pose:
    s = c.swing(1.7)
    air, crouch = s.clamp_min(0) * c.amplitude, (-s).clamp_min(0) * c.amplitude
    lift = vector(0.0, 0.22 * air, 0.0)
    hand = vector(0.30, -0.75 + 0.55 * air, 0.25 - 0.45 * crouch)
    return replace(
        p,
        pelvis=p.pelvis + lift - vector(0.0, 0.17 * crouch, 0.04 * crouch),
        torso=p.torso + vector(0.35 * crouch, 0.0, 0.0),
        left_foot=p.left_foot + lift,
        right_foot=p.right_foot + lift,
        left_hand=_toward(p.left_hand, hand, 0.9 * c.ramp(-0.1, 0.1)),
        right_hand=_toward(p.right_hand, hand, 0.9 * c.ramp(-0.1, 0.1)),
    )


def _seated(c: Clock, p: Pose, down: Tensor) -> Pose:
    moving = 4 * down * (1 - down)
    lap = vector(-0.02, -0.62, 0.45)
    return replace(
        p,
        pelvis=p.pelvis + vector(0.0, -0.46, -0.34) * down[..., None],
        torso=p.torso + vector(0.12 * down + 0.55 * c.amplitude * moving, 0.0, 0.0),
        left_hand=_toward(p.left_hand, lap, down),
        right_hand=_toward(p.right_hand, lap, down),
    )


def _sit_down(c: Clock, p: Pose) -> Pose:
    return _seated(c, p, c.ramp(0.22, 0.50))


def _stand_up(c: Clock, p: Pose) -> Pose:
    return _seated(c, p, 1 - c.ramp(0.22, 0.50))


def _raise_to_head(c: Clock, p: Pose, goal: Tensor) -> Pose:
    up = c.ramp(0.05, 0.35)
    nod = vector(0.06 * up * c.aim[..., 1], 0.0, 0.0)
    return replace(p, right_hand=_toward(p.right_hand, goal + 0.09 * c.aim, up), head=p.head + nod)


def _drink(c: Clock, p: Pose) -> Pose:
    return _raise_to_head(c, p, vector(-0.20, 0.24, 0.34))


def _phone(c: Clock, p: Pose) -> Pose:
    return _raise_to_head(c, p, vector(-0.13, 0.27, 0.26))


def _bow(c: Clock, p: Pose) -> Pose:
    down = c.bump(0.10, 0.80) * c.amplitude
    return replace(p, torso=p.torso + vector(0.85 * down, 0.0, 0.0), pelvis=p.pelvis - vector(0.0, 0.0, 0.08 * down))


def _lean_back(c: Clock, p: Pose) -> Pose:
    down = c.bump(0.10, 0.80) * c.amplitude
    hips = vector(0.16, -0.62, -0.16)
    return replace(
        p,
        torso=p.torso - vector(0.60 * down, 0.0, 0.0),
        head=p.head - vector(0.20 * down, 0.0, 0.0),
        pelvis=p.pelvis + vector(0.0, -0.02 * down, 0.12 * down),
        left_hand=_toward(p.left_hand, hips, 0.35 * down),
        right_hand=_toward(p.right_hand, hips, 0.35 * down),
    )


ACTIONS: dict[str, Callable[[Clock, Pose], Pose]] = {
    "wave": _wave,
    "clap": _clap,
    "punch": _punch,
    "throw": _throw,
    "kick": _kick,
    "jump": _jump,
    "sit_down": _sit_down,
    "stand_up": _stand_up,
    "drink": _drink,
    "phone": _phone,
    "bow": _bow,
    "lean_back": _lean_back,
}
CLASSES = tuple(ACTIONS)


def perform(action: Tensor, clock: Clock, habit: Tensor) -> Pose:
    """The pose of each clip's `action` (n,) over its time."""
    parts: list[tuple[Tensor, Pose]] = []
    for number, script in enumerate(ACTIONS.values()):
        rows = (action == number).nonzero().flatten()
        if len(rows):
            c = Clock(clock.time[rows], clock.amplitude[rows], clock.tempo[rows], clock.phase[rows], clock.aim[rows])
            parts.append((rows, script(c, rest(c, habit[rows]))))
    order = torch.cat([rows for rows, _ in parts]).argsort()
    shape = (*clock.time.shape, 3)

    def whole(name: str) -> Tensor:
        found = [getattr(pose, name) for _, pose in parts]
        return torch.cat([f.expand(len(rows), *shape[1:]) for f, (rows, _) in zip(found, parts, strict=True)])[order]

    names = ("pelvis", "torso", "head", "left_hand", "right_hand", "left_foot", "right_foot")
    return Pose(*(whole(name) for name in names))
