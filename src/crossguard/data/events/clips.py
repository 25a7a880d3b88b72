"""One chunk of clips: what happens when and where, drawn and heard."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from crossguard.core.random import combine, text_key
from crossguard.data.events.happening import FLOOR, Happening, sine, smooth, stroke
from crossguard.data.events.kinds import CLASSES, KINDS
from crossguard.data.events.regimes import REGIMES, Hearing, Regime, Sight
from crossguard.data.figures.chance import Chance, keys
from crossguard.data.figures.raster import Strokes, paint
from crossguard.data.figures.scene import hsv

RATE = 16000
PLACES = 4  # side by side in a picture
MOST = 3  # events a clip
# Scenes of each split: the first of them and how many. A scene has its colours and its pitch.
SCENES = {"train": (0, 24), "validation": (24, 8), "test": (32, 12)}
_REST = 0.2  # seconds before the end of a clip by which all is over, so that the last sound can be heard


@dataclass(frozen=True)
class Plan:
    """What is in each of n clips, by place (n, 4): `kind`, whether it `happens` (else it is a thing at rest, or, where
    not `shown`, nothing), is `heard`, `start` and `lasts` in samples, `x`; and the clip's `length` (n,) in frames."""

    kind: Tensor
    happens: Tensor
    shown: Tensor
    heard: Tensor
    start: Tensor
    lasts: Tensor
    x: Tensor
    length: Tensor

    @property
    def targets(self) -> Tensor:
        """(n, classes) of zeros and ones: what happens, seen or heard."""
        return torch.zeros(len(self.kind), len(CLASSES)).scatter_(1, self.kind, self.happens.float())


@dataclass(frozen=True)
class Clips:
    """rgb (n, 3, F, S, S) uint8 and audio (n, samples) int16 codes, 0 beyond each clip's end; and the plan of both."""

    rgb: Tensor
    audio: Tensor
    plan: Plan


def scene_of(index: Tensor, split: str) -> Tensor:
    """(n,) int64: in which scene a clip lies."""
    first, count = SCENES[split]
    return first + index % count


def planned(chance: Chance, regime: Regime, frames: int, samples: int) -> Plan:
    """What is in the clips of `chance`: one to three events of different kinds in a clip that lasts at least 3/4."""
    sight, hearing = REGIMES[regime]
    kind = chance.unit("kinds", len(CLASSES)).argsort(dim=1, stable=True)[:, :PLACES]
    column = chance.unit("columns", PLACES).argsort(dim=1, stable=True)
    draw = chance.unit("count")
    happens = torch.arange(PLACES) < 1 + (draw >= 0.25).long() + (draw >= 0.65).long()
    missed = chance.unit("missed", PLACES)
    rest = ~happens & chance.happens("idle", sight.idle, PLACES)
    least = -(-3 * frames // 4)
    length = least + (chance.unit("length")[:, 0] * (frames - least + 1)).long()
    room = (length * (samples // frames))[:, None] - round(_REST * RATE)
    lasts = (room * chance.between("lasts", 0.45, 0.75, PLACES)).long()
    start = ((room - lasts) * chance.unit("start", PLACES)).long()
    return Plan(
        kind=kind,
        happens=happens,
        shown=(happens & (missed < 1 - sight.unseen)) | rest,
        heard=happens & (missed >= hearing.unheard),
        start=start,
        lasts=lasts,
        x=(column + 0.5) / PLACES + 0.02 * chance.signed("x", PLACES),
        length=length,
    )


def make(index: Tensor, split: str, regime: Regime, size: int, frames: int, samples: int, seed: int) -> Clips:
    """The clips `index` (n,) of a split: each a function of its index and the other arguments alone."""
    sight, hearing = REGIMES[regime]
    chance = keys(index, seed, "event clip", split)
    scene = keys(scene_of(index, split), seed, "event scene")
    plan = planned(chance, regime, frames, samples)
    canvas = _room(chance, scene, sight, size, frames)
    wave = _background(chance, hearing, samples)
    half = 0.5 * samples / frames / RATE
    heard_at = torch.arange(samples, dtype=torch.float64)
    seen_at = (torch.arange(frames, dtype=torch.float64) + 0.5) * (samples // frames)
    loudness = 1 - hearing.faint * chance.unit("faint")
    for number, kind in enumerate(KINDS.values()):
        for part, at in (("heard", heard_at), ("shown", seen_at)):
            here = (plan.kind == number) & getattr(plan, part)
            rows, place = here.nonzero(as_tuple=True)  # a kind is in one place of a clip
            if not len(rows):
                continue
            event = _happening(chance, scene, plan, rows, place)
            since = (at - plan.start[rows, place][:, None]) / RATE
            if part == "heard":
                wave[rows] = wave[rows] + loudness[rows] * kind.heard(event, since)
            else:
                pictures = (rows[:, None] * frames + torch.arange(frames)).flatten()
                drawn = canvas[pictures]
                paint(drawn, _in_pixels(kind.seen(event, since, half), size))
                canvas[pictures] = drawn
    codes = (wave * 32767 + 0.5).floor().clamp(-32767, 32767).to(torch.int16)
    over = heard_at >= (plan.length * (samples // frames))[:, None]
    rgb = _exposed(chance, canvas, sight, frames)
    gone = torch.arange(frames) >= plan.length[:, None]
    return Clips(rgb.masked_fill(gone[:, None, :, None, None], 0), codes.masked_fill(over, 0), plan)


def _happening(chance: Chance, scene: Chance, plan: Plan, rows: Tensor, place: Tensor) -> Happening:
    own = Chance(combine(chance.keys[rows], text_key("event"), place))
    return Happening(
        chance=own,
        happens=plan.happens[rows, place][:, None],
        lasts=plan.lasts[rows, place][:, None] / RATE,
        x=plan.x[rows, place][:, None],
        colour=hsv(own.unit("hue"), own.between("dye", 0.4, 0.9), own.between("value", 0.5, 0.9)),
        pitch=Chance(scene.keys[rows]).between("pitch", 0.9, 1.1),
    )


def _in_pixels(strokes: Strokes, size: int) -> Strokes:
    return replace(strokes, **{name: getattr(strokes, name) * size for name in ("a", "b", "ra", "rb")})


def _room(chance: Chance, scene: Chance, sight: Sight, size: int, frames: int) -> Tensor:
    """(n x F, 3, S, S): a wall with spots on it, and a floor."""
    n = len(chance.keys)
    wall = hsv(scene.unit("wall hue"), scene.between("wall dye", 0.0, 0.4), scene.between("wall", 0.55, 0.95))
    floor = hsv(scene.unit("floor hue"), scene.between("floor dye", 0.1, 0.5), scene.between("floor", 0.25, 0.5))
    below = (torch.arange(size) + 0.5 > FLOOR * size).double()[:, None]
    canvas = wall[:, :, None, None] * (1 - below) + floor[:, :, None, None] * below
    canvas = canvas.expand(n, 3, size, size).to(torch.float32).contiguous()
    for spot in range(3):
        x, y = chance.unit(f"spot x {spot}"), chance.between(f"spot y {spot}", 0.05, 0.8)
        colour = hsv(chance.unit(f"spot hue {spot}"), chance.unit(f"spot dye {spot}"), chance.unit(f"spot {spot}"))
        there = chance.happens(f"spot there {spot}", sight.clutter).double() * 0.6
        radius = chance.between(f"spot size {spot}", 0.02, 0.09)
        paint(canvas, _in_pixels(stroke(x, 0, (x, y), (x, y), radius, colour, opacity=there), size))
    return canvas.repeat_interleave(frames, dim=0)


def _background(chance: Chance, hearing: Hearing, samples: int) -> Tensor:
    """(n, samples): the noise of a room, and in some a tone that is no event."""
    level = hearing.noise * chance.between("noise level", 0.25, 1.0)
    hum = chance.happens("hum", hearing.hum) * level
    time = torch.arange(samples, dtype=torch.float64) / RATE
    tone = sine(chance.between("hum pitch", 150.0, 900.0) * time)
    return level * smooth(chance, "room", samples, 2) + hum * tone


def _exposed(chance: Chance, canvas: Tensor, sight: Sight, frames: int) -> Tensor:
    """(n, 3, F, S, S) uint8, after a loss of contrast and pixel noise."""
    n, size = len(chance.keys), canvas.shape[-1]
    clip = torch.arange(n).repeat_interleave(frames)
    gain = (1 - sight.fade * chance.unit("fade")).to(torch.float32)
    canvas = canvas * gain[clip, :, None, None] + (0.5 * (1 - gain))[clip, :, None, None]
    level = (sight.noise * chance.between("grain level", 0.25, 1.0) / 127.5).to(torch.float32)
    grain = chance.bytes("grain", frames * 3 * size * size).view(n * frames, 3, size, size)
    canvas = canvas + grain * level[clip, :, None, None]
    codes = (canvas * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8)
    return codes.view(n, frames, 3, size, size).transpose(1, 2).contiguous()
