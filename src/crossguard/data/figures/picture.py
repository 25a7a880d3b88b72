"""The pictures: a figure that moves in a room, seen by a camera that is not perfect."""

from __future__ import annotations

import torch
from torch import Tensor

from crossguard.data.figures.actions import CLASSES, Clock
from crossguard.data.figures.chance import Chance
from crossguard.data.figures.raster import Strokes, blur, join, paint
from crossguard.data.figures.regimes import Pictures
from crossguard.data.figures.room import in_front, passing, room, solid, wall_colour
from crossguard.data.figures.scene import Performer, View, hsv, on_grid, project
from crossguard.data.figures.skeleton import Body

# Ends of each part (joints 0 to 24, or what `_with_head` adds), radii as shares of the height, and its colour.
PARTS = (
    *((12, 16, 0.056, 0.056, "trousers"), (0, 20, 0.072, 0.070, "shirt")),
    *((12, 4, 0.046, 0.038, "shirt"), (16, 8, 0.046, 0.038, "shirt"), (4, 8, 0.036, 0.036, "shirt")),
    *((20, 3, 0.028, 0.028, "skin"), (25, 26, 0.050, 0.053, "skin"), (27, 28, 0.052, 0.056, "hair")),
    *((4, 5, 0.036, 0.029, "shirt"), (5, 6, 0.027, 0.022, "forearm"), (6, 21, 0.027, 0.022, "skin")),
    *((8, 9, 0.036, 0.029, "shirt"), (9, 10, 0.027, 0.022, "forearm"), (10, 23, 0.027, 0.022, "skin")),
    *((6, 22, 0.012, 0.012, "skin"), (10, 24, 0.012, 0.012, "skin")),
    *((12, 13, 0.052, 0.038, "trousers"), (13, 14, 0.038, 0.027, "trousers"), (14, 15, 0.029, 0.027, "shoes")),
    *((16, 17, 0.052, 0.038, "trousers"), (17, 18, 0.038, 0.027, "trousers"), (18, 19, 0.029, 0.027, "shoes")),
)


def _forward(joints: Tensor) -> Tensor:
    """Unit vectors out of the chest, (F, 3): across the shoulders x up the spine, term by term, so that no kernel
    fuses a product with a sum."""
    (ax, ay, az), (bx, by, bz) = (joints[:, 4] - joints[:, 8]).unbind(-1), (joints[:, 20] - joints[:, 0]).unbind(-1)
    out = torch.stack((az * by - ay * bz, ax * bz - az * bx, ay * bx - ax * by), dim=-1)
    x, y, z = out.unbind(-1)
    return out / (x * x + y * y + z * z).clamp_min(1e-12).sqrt()[:, None]


def _with_head(joints: Tensor, height: Tensor) -> Tensor:
    """(F, 29, 3): the joints, two ends of the face, two of the hair."""
    up = (joints[:, 3] - joints[:, 20]) * 0.15
    ahead = _forward(joints) * height
    head = joints[:, 3]
    face, hair = 0.008 * ahead, -0.014 * ahead
    return torch.cat(
        (joints, torch.stack((head - up + face, head + up + face, head + hair, head + 2 * up + hair), 1)), 1
    )


def figure(joints: Tensor, body: Body, colours: dict[str, Tensor], size: int) -> Strokes:
    """The strokes of a body: `joints` (n, T, 25, 3) in camera coordinates; n x T pictures."""
    n, frames = joints.shape[:2]
    tall = body.height.expand(n, frames).reshape(-1, 1)
    thick = tall * body.girth.expand(n, frames).reshape(-1, 1)
    points = _with_head(joints.reshape(n * frames, 25, 3), tall)
    pixels, scale = project(points, size)
    first, second = [p[0] for p in PARTS], [p[1] for p in PARTS]
    ra, rb = (torch.tensor([p[i] for p in PARTS], dtype=torch.float64) for i in (2, 3))
    nearer = torch.tensor([0.05 if p[4] in ("skin", "forearm") else 0.0 for p in PARTS], dtype=torch.float64)
    colour = torch.stack([colours[p[4]] for p in PARTS], dim=1)
    depth = 0.5 * (points[:, first, 2] + points[:, second, 2]) - nearer
    return Strokes(
        a=pixels[:, first],
        b=pixels[:, second],
        ra=ra * thick * scale[:, first],
        rb=rb * thick * scale[:, second],
        depth=depth,
        colour=colour[:, None].expand(n, frames, len(PARTS), 3).reshape(n * frames, len(PARTS), 3),
        opacity=torch.ones_like(depth),
        shade=torch.full_like(depth, 0.22),
    )


def _shadow(joints: Tensor, view: View, size: int) -> Strokes:
    """A soft dark patch on the floor between the feet."""
    n, frames = joints.shape[:2]
    feet = joints[:, :, (15, 19)].reshape(n * frames, 2, 3)
    floor = view.tilt(view.aside, torch.zeros_like(view.aside), view.distance).expand(n, frames, 3).reshape(-1, 3)
    feet = torch.stack((feet[..., 0], floor[:, None, 1].expand(-1, 2), feet[..., 2]), dim=-1)
    return solid(feet[:, :1], feet[:, 1:], 0.10, torch.zeros(1, 1, 3), torch.full((1, 1), 0.35), size)


def _held(chance: Chance, joints: Tensor, action: Tensor, left: Tensor, clock: Clock, size: int) -> Strokes:
    """What the acting hand holds: a cup, a phone, or a ball that leaves the hand."""
    n, frames = joints.shape[:2]
    hand = torch.where(left[:, None, None], joints[:, :, 21], joints[:, :, 23])
    flung = clock.ramp(0.42, 0.16) > 0.6
    ahead = _forward(joints.reshape(-1, 25, 3)).view(n, frames, 3)
    release = flung.to(torch.int64).argmax(dim=1)
    start = hand.gather(1, release[:, None, None].expand(n, 1, 3))
    aim = ahead.gather(1, release[:, None, None].expand(n, 1, 3))
    flight = 2.0 * (clock.time - clock.time.gather(1, release[:, None])).clamp_min(0)[..., None]
    fall = torch.tensor((0.0, 1.0, 0.0), dtype=torch.float64) * (1.0 * flight - 4.9 * flight * flight)
    ball = torch.where(flung[..., None], start + 3.5 * aim * flight + fall, hand)

    throw, drink = action == CLASSES.index("throw"), action == CLASSES.index("drink")
    phone = action == CLASSES.index("phone")
    middle = on_grid(torch.where(throw[:, None, None], ball, hand)).view(-1, 1, 3)
    kind = torch.stack((throw, drink, phone), dim=1).to(torch.float64)
    half = (kind * torch.tensor((0.0, 0.060, 0.105), dtype=torch.float64)).amax(dim=1)
    radius = (kind * torch.tensor((0.075, 0.070, 0.032), dtype=torch.float64)).amax(dim=1)
    half, radius = (x[:, None].expand(n, frames).reshape(-1, 1) for x in (half, radius))
    rise = torch.tensor((0.0, 1.0, 0.0), dtype=torch.float64) * half[..., None]
    bright = hsv(chance.unit("thing hue"), chance.between("thing dye", 0.1, 0.95), chance.between("thing", 0.7, 1.0))
    colour = torch.where(phone[:, None], 0.15 * bright, bright)[:, None].expand(n, frames, 3).reshape(-1, 1, 3)
    seen = (throw | drink | phone)[:, None].expand(n, frames).reshape(-1, 1) & (middle[..., 2] > 0.8)
    strokes = solid(middle - rise, middle + rise, radius, colour, seen, size)
    return Strokes(**{**{f: getattr(strokes, f) for f in strokes.__dataclass_fields__}, "depth": strokes.depth - 0.12})


def _camouflaged(colours: dict[str, Tensor], wall: Tensor, share: Tensor) -> dict[str, Tensor]:
    return {name: colour + (wall - colour) * share for name, colour in colours.items()}


def film(
    chance: Chance,
    joints: Tensor,
    who: Performer,
    view: View,
    bystander: tuple[Tensor, Tensor, Performer],
    action: Tensor,
    clock: Clock,
    look: Pictures,
    size: int,
) -> Tensor:
    """(n, 3, T, S, S) uint8: the clips as the camera took them.

    `joints` (n, T, 25, 3) are true; `bystander` is which clips have one, their joints, and who they are.
    """
    n, frames = joints.shape[:2]
    wall = wall_colour(chance)
    hidden = look.camouflage * chance.unit("camouflage")
    canvas = room(chance, view, who.body, action, look, size)[:, None].repeat(1, frames, 1, 1, 1)
    canvas = canvas.view(n * frames, 3, size, size)
    paint(canvas, passing(chance, clock.time, look, size))
    there, others, second = bystander
    rows = there.nonzero().flatten()
    if len(rows):
        pictures = (rows[:, None] * frames + torch.arange(frames)).flatten()
        behind = canvas[pictures]
        paint(behind, figure(others, second.body, _camouflaged(second.colours, wall[rows], hidden[rows]), size))
        canvas[pictures] = behind
    paint(canvas, _shadow(joints, view, size))
    body = figure(joints, who.body, _camouflaged(who.colours, wall, hidden), size)
    paint(canvas, join([body, _held(chance, joints, action, who.left_handed, clock, size)]))
    front = in_front(chance, look, size)
    paint(canvas, front.take(torch.arange(n).repeat_interleave(frames)))
    return _exposed(chance, canvas, look, n, frames)


def _exposed(chance: Chance, canvas: Tensor, look: Pictures, n: int, frames: int) -> Tensor:
    """Smoothing, loss of contrast and pixel noise, then 8 bits."""
    clip = torch.arange(n).repeat_interleave(frames)
    canvas = blur(canvas, (look.blur * chance.unit("blur"))[clip, 0])
    gain = (chance.between("light", 0.8, 1.1) * (1 - look.fade * chance.unit("fade"))).to(torch.float32)
    grey = 0.5 * (1 - gain) * chance.between("haze", 0.6, 1.2).to(torch.float32)
    canvas = canvas * gain[clip, :, None, None] + grey[clip, :, None, None]
    size = canvas.shape[-1]
    level = (look.noise * chance.unit("noise level") / 127.5).to(torch.float32)
    grain = chance.bytes("grain", frames * 3 * size * size).view(n * frames, 3, size, size)
    canvas = canvas + grain * level[clip, :, None, None]
    codes = (canvas * 255 + 0.5).floor().clamp(0, 255).to(torch.uint8)
    return codes.view(n, frames, 3, size, size).transpose(1, 2).contiguous()
