"""Who acts, seen from where: performers, viewpoints and the camera."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crossguard.data.figures.chance import Chance
from crossguard.data.figures.skeleton import Body, vector

CAMERA = (1.35, 1.35, 0.5, 0.5)  # fx, fy, cx, cy as in Modality.camera


def on_grid(metres: Tensor) -> Tensor:
    """Rounded to 0.1 mm: sines differ in the last bit between machines, what is built on them must not."""
    return (metres * 1e4).round() / 1e4


def hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """(n, 3) RGB of (n, 1) hue, saturation and value, all in [0, 1]."""
    k = torch.remainder(torch.tensor((5.0, 3.0, 1.0), dtype=torch.float64) + 6 * hue, 6.0)
    return value * (1 - saturation * torch.minimum(k, 4 - k).clamp(0, 1))


@dataclass(frozen=True)
class Performer:
    """What stays with a person from clip to clip; colours are (n, 3), the rest (n, …)."""

    body: Body
    habit: Tensor
    tempo: Tensor
    reach: Tensor
    left_handed: Tensor
    colours: dict[str, Tensor]


def performers(chance: Chance) -> Performer:
    """A person for every key."""
    tone = chance.unit("skin")
    skin = torch.tensor((0.95, 0.76, 0.62), dtype=torch.float64) * (1 - tone)
    skin = skin + torch.tensor((0.42, 0.27, 0.18), dtype=torch.float64) * tone
    shirt = hsv(chance.unit("shirt hue"), chance.between("shirt dye", 0.45, 0.95), chance.between("shirt", 0.35, 0.85))
    sleeves = chance.happens("sleeves", 0.5)
    hair = hsv(chance.between("hair hue", 0.02, 0.12), chance.between("hair dye", 0.3, 0.7), chance.unit("hair") * 0.5)
    trousers = hsv(
        chance.unit("trousers hue"), chance.unit("trousers dye") * 0.6, chance.between("trousers", 0.12, 0.5)
    )
    return Performer(
        body=Body(
            height=chance.between("height", 1.50, 1.88),
            arm=chance.between("arm", 0.93, 1.07),
            leg=chance.between("leg", 0.95, 1.05),
            breadth=chance.between("breadth", 0.88, 1.14),
            girth=chance.between("girth", 0.85, 1.22),
        ),
        habit=chance.signed("habit", 6)[:, None, :],
        tempo=chance.between("tempo", 0.88, 1.14),
        reach=chance.between("reach", 0.85, 1.12),
        left_handed=chance.happens("left-handed", 0.25)[:, 0],
        colours={
            "skin": skin,
            "shirt": shirt,
            "forearm": torch.where(sleeves, shirt, skin),
            "trousers": trousers,
            "hair": hair,
            "shoes": hsv(chance.unit("shoes hue"), chance.unit("shoes dye") * 0.7, chance.between("shoes", 0.1, 0.9)),
        },
    )


@dataclass(frozen=True)
class View:
    """Where the camera stands: the person's `yaw` and place, and the camera's height and downward `pitch`, (n, 1)."""

    yaw: Tensor
    aside: Tensor
    distance: Tensor
    height: Tensor
    pitch: Tensor

    def tilt(self, x: Tensor, up: Tensor, ahead: Tensor) -> Tensor:
        """Camera coordinates of points by their place in the room (right, up from the floor, ahead)."""
        y, (sin, cos) = up - self.height, (self.pitch.sin(), self.pitch.cos())
        return on_grid(vector(x, y * cos + ahead * sin, ahead * cos - y * sin))

    def place(self, points: Tensor) -> Tensor:
        """Camera coordinates of `points` (n, P, 3) in the performer's frame (left, up, forward)."""
        left, up, forward = points.unbind(-1)
        sin, cos = self.yaw.sin(), self.yaw.cos()
        return self.tilt(self.aside + left * cos + forward * sin, up, self.distance + left * sin - forward * cos)


def views(chance: Chance) -> View:
    """The performer's viewpoint: about 3 m away, turned up to 35 degrees to either side."""
    pitch, distance = chance.between("pitch", -0.02, 0.12), chance.between("distance", 2.8, 3.3)
    return View(
        yaw=0.60 * chance.signed("yaw"),
        aside=0.15 * chance.signed("aside"),
        distance=distance,
        height=0.93 + 0.06 * chance.signed("camera") + distance * pitch,
        pitch=pitch,
    )


def beside(view: View, chance: Chance) -> View:
    """The same camera, and someone farther off to one side."""
    aside = torch.where(chance.happens("bystander side", 0.5), 1.0, -1.0) * chance.between("bystander aside", 0.75, 1.2)
    away = view.distance + chance.between("bystander away", 0.7, 1.6)
    return View(2.5 * chance.signed("bystander yaw"), view.aside + aside, away, view.height, view.pitch)


def project(points: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pixels (…, 2) as (u, v) of camera coordinates (…, 3), and how many pixels a metre covers there (…)."""
    fx, fy, cx, cy = CAMERA
    x, y, z = points.unbind(-1)
    z = z.clamp_min(0.3)
    return torch.stack((size * (cx + fx * x / z), size * (cy - fy * y / z)), dim=-1), size * fx / z
