"""One chunk of clips: who does what, filmed and tracked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crossguard.data.figures.actions import CLASSES, Clock, perform, rest
from crossguard.data.figures.chance import Chance, keys
from crossguard.data.figures.picture import film
from crossguard.data.figures.regimes import REGIMES, Regime
from crossguard.data.figures.scene import Performer, View, beside, performers, views
from crossguard.data.figures.skeleton import articulate
from crossguard.data.figures.tracking import track

# Performers of each split: the first of them and how many.
CAST = {"train": (0, 24), "validation": (24, 8), "test": (32, 12)}


@dataclass(frozen=True)
class Clips:
    """rgb (n, 3, T, S, S) uint8; skeleton (n, 2, T, 25, 3) float32 in metres with mask (n, 2, T).

    `true` (n, T, 25, 3) float64 are the performer's joints that the pictures show.
    """

    rgb: Tensor
    skeleton: Tensor
    mask: Tensor
    true: Tensor


def action_of(index: Tensor) -> Tensor:
    """(n,) int64: the classes in turn, so that any number of clips is balanced."""
    return index % len(CLASSES)


def performer_of(index: Tensor, split: str) -> Tensor:
    """(n,) int64: who acts in a clip; everyone does every action before anyone repeats one."""
    first, count = CAST[split]
    return first + (index // len(CLASSES)) % count


def _clock(chance: Chance, who: Performer, frames: int) -> Clock:
    time = (torch.arange(frames, dtype=torch.float64) + 0.5) / frames
    return Clock(
        time=time.expand(len(chance.keys), frames),
        amplitude=who.reach * chance.between("amplitude", 0.8, 1.15),
        tempo=who.tempo * chance.between("tempo", 0.85, 1.2),
        phase=chance.unit("phase"),
        aim=chance.signed("aim", 3)[:, None, :],
    )


def _bystander(chance: Chance, view: View, frames: int) -> tuple[Tensor, Tensor, Performer]:
    """Which clips have someone else in them, that one's joints (k, T, 25, 3), and who it is."""
    there = chance.happens("bystander", 0.15)[:, 0]
    rows = there.nonzero().flatten()
    own, seen = keys(chance.keys[rows], "bystander"), beside(view, chance)
    who = performers(own)
    pose = rest(_clock(own, who, frames), who.habit)
    joints = articulate(who.body, pose)
    at = View(*(x[rows] for x in (seen.yaw, seen.aside, seen.distance, seen.height, seen.pitch)))
    return there, at.place(joints.reshape(len(rows), frames * 25, 3)).view(joints.shape), who


def make(index: Tensor, split: str, regime: Regime, size: int, frames: int, seed: int) -> Clips:
    """The clips `index` (n,) of a split: each a function of its index and the other arguments alone."""
    look, fault = REGIMES[regime]
    action, n = action_of(index), len(index)
    chance = keys(index, seed, "clip", split)
    who = performers(keys(performer_of(index, split), seed, "performer"))
    clock, view = _clock(chance, who, frames), views(chance)
    pose = perform(action, clock, who.habit).mirrored(who.left_handed)
    joints = articulate(who.body, pose)
    joints = view.place(joints.reshape(n, frames * 25, 3)).view(joints.shape)
    there, others, second = _bystander(chance, view, frames)
    rgb = film(chance, joints, who, view, (there, others, second), action, clock, look, size)

    skeleton, mask = torch.zeros(n, 2, frames, 25, 3), torch.zeros(n, 2, frames, dtype=torch.bool)
    skeleton[:, 0], mask[:, 0] = track(chance, joints, fault)
    rows = there.nonzero().flatten()
    if len(rows):
        skeleton[rows, 1], mask[rows, 1] = track(keys(chance.keys[rows], "second"), others, fault)
    first = chance.happens("bystander first", 0.5)[:, 0] & there
    skeleton = torch.where(first.view(n, 1, 1, 1, 1), skeleton.flip(1), skeleton)
    return Clips(rgb, skeleton, torch.where(first.view(n, 1, 1), mask.flip(1), mask), joints)
