"""The body, the camera and the rasteriser of the generated action set, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from crossguard.data.figures.actions import CLASSES, Clock, perform
from crossguard.data.figures.chance import keys
from crossguard.data.figures.clips import make
from crossguard.data.figures.picture import figure
from crossguard.data.figures.raster import Strokes, blur, paint
from crossguard.data.figures.scene import CAMERA, performers, project
from crossguard.data.figures.skeleton import BONES, articulate, rotate


def _stroke(a: tuple[float, float], b: tuple[float, float], radius: float, depth: float = 1.0) -> Strokes:
    one = torch.ones(1, 1)
    return Strokes(
        a=torch.tensor([[a]]),
        b=torch.tensor([[b]]),
        ra=radius * one,
        rb=radius * one,
        depth=depth * one,
        colour=torch.ones(1, 1, 3),
        opacity=one,
        shade=0 * one,
    )


def _both(first: Strokes, second: Strokes) -> Strokes:
    return Strokes(*(torch.cat((getattr(first, f), getattr(second, f)), 1) for f in first.__dataclass_fields__))


@pytest.mark.parametrize(
    ("a", "b", "radius"),
    [((20.0, 20.0), (20.0, 20.0), 8.0), ((10.0, 12.0), (30.0, 26.0), 4.0), ((31.5, 5.0), (8.0, 30.25), 2.5)],
)
def test_painted_area_is_that_of_a_capsule(a: tuple[float, float], b: tuple[float, float], radius: float) -> None:
    canvas = torch.zeros(1, 3, 40, 40)
    paint(canvas, _stroke(a, b, radius))
    area = math.pi * radius**2 + 2 * radius * math.dist(a, b)
    assert canvas[0, 0].sum() == pytest.approx(area, rel=0.02)


def test_strokes_outside_the_picture_leave_it_alone_and_partial_ones_are_cut() -> None:
    canvas = torch.zeros(1, 3, 20, 20)
    paint(canvas, _stroke((-30.0, 5.0), (-10.0, 5.0), 4.0))
    assert (canvas == 0).all()
    paint(canvas, _stroke((0.0, 10.0), (0.0, 10.0), 6.0))
    assert canvas[0, 0].sum() == pytest.approx(math.pi * 36 / 2, rel=0.05)


@pytest.mark.parametrize("near_first", [True, False])
def test_nearer_strokes_cover_farther_ones(near_first: bool) -> None:
    near, far = _stroke((8.0, 8.0), (8.0, 8.0), 4.0, depth=1.0), _stroke((8.0, 8.0), (8.0, 8.0), 6.0, depth=2.0)
    near.colour.copy_(torch.tensor([1.0, 0.0, 0.0]))
    far.colour.copy_(torch.tensor([0.0, 1.0, 0.0]))
    canvas = torch.zeros(1, 3, 16, 16)
    paint(canvas, _both(near, far) if near_first else _both(far, near))
    assert canvas[0, :, 8, 8].tolist() == [1.0, 0.0, 0.0]


def test_blur_keeps_constants_and_the_mean_of_the_inside() -> None:
    assert torch.equal(blur(torch.full((1, 3, 8, 8), 0.5), torch.ones(1)), torch.full((1, 3, 8, 8), 0.5))
    dot = torch.zeros(1, 1, 9, 9)
    dot[0, 0, 4, 4] = 1
    soft = blur(dot, torch.ones(1))
    assert soft.sum() == 1
    assert soft[0, 0, 4, 4] == 0.25


def test_rotation_keeps_lengths_and_pitch_turns_up_into_forward() -> None:
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    turned = rotate(up, torch.tensor([math.pi / 2, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(turned, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    v, angles = torch.randn(20, 3, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    torch.testing.assert_close(rotate(v, angles).norm(dim=-1), v.norm(dim=-1))


def _everyone() -> tuple[torch.Tensor, torch.Tensor]:
    """Joints of every action, and its number."""
    action = torch.arange(4 * len(CLASSES)) % len(CLASSES)
    chance = keys(torch.arange(len(action)), 7, "test")
    who = performers(chance)
    time = torch.linspace(0, 1, 9, dtype=torch.float64).expand(len(action), 9)
    clock = Clock(time, who.reach, who.tempo, chance.unit("phase"), chance.signed("aim", 3)[:, None])
    return articulate(who.body, perform(action, clock, who.habit)), action


def test_bones_keep_their_length_through_every_action() -> None:
    joints, _ = _everyone()
    stiff = [pair for pair in BONES if pair not in {(0, 1), (1, 20)}]
    for a, b in stiff:
        length = (joints[:, :, a] - joints[:, :, b]).norm(dim=-1)
        torch.testing.assert_close(length, length[:, :1].expand_as(length), atol=1e-6, rtol=1e-6)


def test_people_stay_above_the_floor_and_move() -> None:
    joints, action = _everyone()
    assert joints[..., 1].min() > -0.01
    moved = (joints.amax(dim=1) - joints.amin(dim=1)).norm(dim=-1).amax(dim=-1)
    assert (moved > 0.15).all(), [CLASSES[i] for i in action[moved <= 0.15].tolist()]


def test_projection_is_that_of_the_modality() -> None:
    point = torch.tensor([[0.3, -0.2, 2.5]], dtype=torch.float64)
    (pixel,), (scale,) = project(point, 64)
    fx, fy, cx, cy = CAMERA
    assert pixel.tolist() == pytest.approx([64 * (cx + fx * 0.3 / 2.5), 64 * (cy + fy * 0.2 / 2.5)])
    assert float(scale) == pytest.approx(64 * fx / 2.5)


def test_joints_project_onto_the_body() -> None:
    size, frames = 96, 6
    joints = make(torch.arange(36), "train", "balanced", size, frames, 0).true
    who = performers(keys(torch.arange(36) // 12, 0, "performer"))
    white = {name: torch.ones_like(colour) for name, colour in who.colours.items()}
    strokes = figure(joints, who.body, white, size)
    canvas = torch.zeros(36 * frames, 3, size, size)
    paint(canvas, strokes)
    pixel = project(joints.reshape(36 * frames, 25, 3), size)[0].floor().long()
    inside = ((pixel >= 0) & (pixel < size)).all(dim=-1)
    assert inside.float().mean() > 0.97
    u, v = pixel.clamp(0, size - 1).unbind(-1)
    body = canvas[:, 0].flatten(1).gather(1, v * size + u)
    missed = inside & (body < 0.3)
    assert not missed.any(), sorted(set(missed.nonzero()[:, 1].tolist()))


def test_the_figure_in_the_picture_is_where_the_joints_are() -> None:
    """The picture changes over time around the acting hand, and not in the far corners."""
    size, frames = 48, 8
    wave = make(torch.arange(0, 240, 12), "train", "balanced", size, frames, 0)
    moving = wave.rgb.float().var(dim=2).mean(dim=1)
    pixel = project(wave.true[:, :, (7, 11)], size)[0]
    travelled = (pixel.amax(dim=1) - pixel.amin(dim=1)).sum(dim=-1)
    hand = pixel.mean(dim=1)[torch.arange(20), travelled.argmax(dim=1)].long().clamp(2, size - 3)
    near = torch.stack([moving[i, v - 2 : v + 3, u - 2 : u + 3].mean() for i, (u, v) in enumerate(hand.tolist())])
    assert (near > 2 * moving[:, :6, :6].mean(dim=(1, 2))).float().mean() > 0.8
