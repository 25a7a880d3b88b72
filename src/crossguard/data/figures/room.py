"""The room: wall, floor, things on the wall, a chair, what moves about and what stands in the way."""

from __future__ import annotations

import torch
from torch import Tensor

from crossguard.data.figures.actions import CLASSES
from crossguard.data.figures.chance import Chance
from crossguard.data.figures.raster import Strokes, join, paint
from crossguard.data.figures.regimes import Pictures
from crossguard.data.figures.scene import View, hsv, project
from crossguard.data.figures.skeleton import Body

# Two ends (metres to the left, share of the seat's height, metres forward of the seat) and a radius in metres.
CHAIR = (
    ((-0.17, 0.9, 0.10), (0.17, 0.9, 0.10), 0.05),
    ((-0.17, 0.9, -0.06), (0.17, 0.9, -0.06), 0.05),
    ((-0.17, 1.85, -0.15), (0.17, 1.85, -0.15), 0.06),
    *(((x, 0.0, 0.12), (x, 0.9, 0.12), 0.022) for x in (-0.18, 0.18)),
    *(((x, 0.0, -0.15), (x, 1.85, -0.15), 0.022) for x in (-0.18, 0.18)),
)


def solid(a: Tensor, b: Tensor, radius: Tensor | float, colour: Tensor, opacity: Tensor, size: int) -> Strokes:
    """Things in the room: ends (F, P, 3) in camera coordinates, radius in metres, opacity (F, P)."""
    (start, scale), (end, other) = project(a, size), project(b, size)
    depth = 0.5 * (a[..., 2] + b[..., 2])
    return Strokes(
        a=start,
        b=end,
        ra=radius * scale,
        rb=radius * other,
        depth=depth,
        colour=colour.expand(*depth.shape, 3),
        opacity=opacity.to(torch.float64).expand(depth.shape),
        shade=torch.full_like(depth, 0.2),
    )


def flat(a: Tensor, b: Tensor, radius: Tensor, colour: Tensor, opacity: Tensor, size: int) -> Strokes:
    """Things by their place in the picture: ends (F, P, 2) and radius (F, P) in shares of its width."""
    depth = torch.full_like(radius, 50.0)
    visible, shade = opacity.to(torch.float64).expand(depth.shape), torch.full_like(depth, 0.12)
    return Strokes(
        a * size, b * size, radius * size, radius * size, depth, colour.expand(*depth.shape, 3), visible, shade
    )


def wall_colour(chance: Chance) -> Tensor:
    """(n, 3)."""
    return hsv(chance.unit("wall hue"), chance.between("wall dye", 0.02, 0.22), chance.between("wall", 0.72, 0.98))


def _walls(chance: Chance, view: View, look: Pictures, size: int) -> Tensor:
    """Wall, floor and stripes: (n, 3, S, S)."""
    wall = wall_colour(chance)[:, :, None, None]
    dye, value = chance.between("floor dye", 0.1, 0.4), chance.between("floor", 0.5, 0.8)
    floor = hsv(chance.between("floor hue", 0.04, 0.14), dye, value)[:, :, None, None]
    foot = view.tilt(torch.zeros_like(view.aside), torch.zeros_like(view.aside), view.distance + 1.6)
    edge = project(foot, size)[0][..., 1]
    place = torch.arange(size, dtype=torch.float64) + 0.5
    below = (place - edge + 0.5).clamp(0, 1)[:, None, :, None]
    stripes = (place * (0.25 + 0.25 * chance.unit("stripes")) * 48 / size).floor().remainder(2)
    depth = 0.14 * chance.unit("stripe depth") * chance.happens("striped", look.clutter)
    shadow = (1.06 - 0.2 * place / size)[:, None]
    wall = wall * (1 - depth * stripes)[:, None, None, :] * shadow
    return (wall + (floor * (shadow + 0.05) - wall) * below).to(torch.float32).contiguous()


def _clutter(chance: Chance, look: Pictures, size: int) -> Strokes:
    """Pictures, shelves and lamps on the wall."""
    count = 7
    start = torch.stack((chance.unit("clutter u", count), 0.75 * chance.unit("clutter v", count)), dim=-1)
    along = torch.stack((chance.signed("clutter du", count), chance.signed("clutter dv", count)), dim=-1)
    across = chance.happens("clutter across", 0.5, count)[..., None]
    kept = torch.where(across, torch.tensor((0.25, 0.0)), torch.tensor((0.0, 0.35)))
    hue, dye = chance.unit("clutter hue", count), 0.8 * chance.unit("clutter dye", count)
    tint = hsv(hue[..., None], dye[..., None], chance.between("clutter value", 0.2, 0.95, count)[..., None])
    radius = chance.between("clutter width", 0.012, 0.055, count)
    return flat(start, start + along * kept, radius, tint, chance.happens("clutter", look.clutter, count), size)


def _chair(chance: Chance, view: View, body: Body, action: Tensor, size: int) -> Strokes:
    """A chair behind the performer: always for sitting, now and then for other actions."""
    thigh, shin = body.leg_lengths
    seat, back = 0.032 * body.height + 0.42 * (thigh + shin), -0.36 * (thigh + shin)

    def ends(which: int) -> Tensor:
        left, up, forward = torch.tensor([part[which] for part in CHAIR], dtype=torch.float64).unbind(-1)
        return view.place(torch.stack((left.expand(len(seat), -1), up * seat, forward + back), dim=-1))

    sits = (action == CLASSES.index("sit_down")) | (action == CLASSES.index("stand_up"))
    dye, value = chance.between("wood dye", 0.2, 0.7), chance.between("wood", 0.25, 0.7)
    wood = hsv(chance.between("wood hue", 0.03, 0.12), dye, value)[:, None]
    radius = torch.tensor([part[2] for part in CHAIR], dtype=torch.float64)
    return solid(ends(0), ends(1), radius, wood, sits[:, None] | chance.happens("chair", 0.25), size)


def room(chance: Chance, view: View, body: Body, action: Tensor, look: Pictures, size: int) -> Tensor:
    """The room behind each clip, (n, 3, S, S) float32."""
    canvas = _walls(chance, view, look, size)
    paint(canvas, join([_clutter(chance, look, size), _chair(chance, view, body, action, size)]))
    return canvas


def passing(chance: Chance, time: Tensor, look: Pictures, size: int) -> Strokes:
    """Something that bounces through the picture behind the performer, one stroke in n x T pictures."""
    u = chance.unit("distractor u") + 1.2 * chance.signed("distractor speed") * time
    bounce = (2 * (time * chance.between("bounces", 0.5, 2.5) + chance.unit("distractor v"))).remainder(2) - 1
    v = chance.between("distractor height", 0.2, 0.8) - 0.3 * chance.unit("distractor bounce") * (1 - bounce * bounce)
    start = torch.stack((u, v), dim=-1).reshape(-1, 1, 2)
    lean = 0.10 * chance.signed("distractor lean", 2)[:, None].expand(*time.shape, 2).reshape(-1, 1, 2)
    tint = hsv(chance.unit("distractor hue"), chance.between("distractor dye", 0.3, 0.9), chance.unit("distractor"))
    radius = chance.between("distractor size", 0.02, 0.05).expand(time.shape).reshape(-1, 1)
    visible = chance.happens("distracts", look.distractor).expand(time.shape).reshape(-1, 1)
    return flat(start, start + lean, radius, tint[:, None].expand(*time.shape, 3).reshape(-1, 1, 3), visible, size)


def in_front(chance: Chance, look: Pictures, size: int) -> Strokes:
    """A post or a rail between the camera and the performer, one stroke a clip."""
    upright = chance.happens("occluder upright", 0.6)[..., None]
    u, v = chance.between("occluder u", 0.25, 0.75), chance.between("occluder v", 0.35, 0.85)
    start = torch.where(upright, torch.stack((u, u * 0 - 0.1), dim=-1), torch.stack((u * 0 - 0.1, v), dim=-1))
    lean = 0.15 * chance.signed("occluder lean")
    end = torch.where(upright, torch.stack((u + lean, u * 0 + 1.1), dim=-1), torch.stack((v * 0 + 1.1, v + lean), -1))
    tint = hsv(chance.unit("occluder hue"), 0.6 * chance.unit("occluder dye"), chance.between("occluder", 0.15, 0.8))
    radius = chance.between("occluder size", 0.025, 0.07)
    return flat(start, end, radius, tint[:, None], chance.happens("occluded", look.occluder), size)
