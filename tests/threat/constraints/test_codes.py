"""What is returned can be stored and read back to the bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import crossguard as cg
from crossguard.threat.budget import Budget

GENERATOR = torch.Generator().manual_seed(0)


def pixels() -> Tensor:
    return torch.randint(0, 256, (4, 3, 5, 6), generator=GENERATOR, dtype=torch.uint8) / 255


def audio() -> Tensor:
    return torch.randint(-32768, 32768, (4, 400), generator=GENERATOR).float() / 32768


def features() -> Tensor:
    """As the challenge's reader de-quantises: q x 4/255 + 4/512 - 2."""
    return torch.randint(0, 256, (4, 6, 9), generator=GENERATOR).float() * (4 / 255) + (4 / 512 - 2)


CASES = [
    (pixels, cg.Linf(8 / 255, bounds=(0, 1), constraints=(cg.PIXELS8,))),
    (pixels, cg.L2(0.3, bounds=(0, 1), constraints=(cg.PIXELS8,))),
    (pixels, cg.L1(2.0, bounds=(0, 1), constraints=(cg.PIXELS8,))),
    (pixels, cg.L0(7, bounds=(0, 1), constraints=(cg.PIXELS8,))),
    (audio, cg.SNR(40, bounds=(-1, 1), constraints=(cg.AUDIO16,))),
    (audio, cg.Linf(0.002, bounds=(-1, 1), constraints=(cg.AUDIO16,))),
    (features, cg.Linf(0.05, constraints=(cg.YOUTUBE8M,))),
]


def stored(budget: Budget, y: Tensor) -> Tensor:
    """Through the medium: written as integers, read back."""
    if budget.constraints[0] == cg.PIXELS8:
        return torch.from_numpy((y.numpy() * 255).round().astype(np.uint8)) / 255
    if budget.constraints[0] == cg.AUDIO16:
        return torch.from_numpy((y.numpy() * 32768).round().astype(np.int16)).float() / 32768
    code = ((y.double() - (4 / 512 - 2)) * (255 / 4)).round()
    return (code * (4 / 255) + (4 / 512 - 2)).float()


@pytest.mark.parametrize(("clean", "budget"), CASES)
@pytest.mark.parametrize("reach", [0.3, 1.0, 5.0])
def test_shown_and_repaired_survive_storage(clean: object, budget: Budget, reach: float) -> None:
    x = clean()  # type: ignore[operator]
    ball = budget.around(x)
    step = torch.randn(x.shape, generator=GENERATOR)
    point = ball.project(x + reach * ball.steepest(step))
    for y in (ball.shown(point), ball.repair(x + step)):
        assert budget.contains(y, x).all()
        back = stored(budget, y)
        if budget.constraints[0] == cg.YOUTUBE8M:  # its readers round more than once
            assert ((y == x) | (back == y)).all()
        else:
            assert torch.equal(back, y)
        assert torch.equal(ball.shown(y), y)


def test_eight_pixel_levels_are_reached() -> None:
    """8/255 is eight codes, whatever rounding says about x + 8/255."""
    x = torch.arange(256).float().view(1, 256) / 255
    ball = cg.Linf(8 / 255, bounds=(0, 1), constraints=(cg.PIXELS8,)).around(x)
    y = ball.shown(ball.project(x + 1))
    assert torch.equal(y, (torch.arange(256) + 8).clamp(max=255).float().view(1, 256) / 255)
    y = ball.shown(ball.project(x - 1))
    assert torch.equal(y, (torch.arange(256) - 8).clamp(min=0).float().view(1, 256) / 255)


def test_less_than_a_code_changes_nothing() -> None:
    x = pixels()
    ball = cg.Linf(0.9 / 255, bounds=(0, 1), constraints=(cg.PIXELS8,)).around(x)
    assert torch.equal(ball.shown(ball.project(x + 1)), x)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1, width=32), st.floats(0, 1, width=32), st.floats(0.002, 0.2), st.booleans())
def test_a_value_is_rounded_to_the_nearest_code_of_its_range(clean: float, far: float, eps: float, coded: bool) -> None:
    x = torch.tensor([[round(clean * 255) / 255 if coded else clean]])
    ball = cg.Linf(eps, bounds=(0, 1), constraints=(cg.PIXELS8,)).around(x)
    point = ball.project(torch.tensor([[far]]))
    found = ball.shown(point)
    codes = torch.arange(256).float() / 255
    allowed = codes[((codes - x).abs() <= eps * (1 - 1e-4)).squeeze(0)]
    assert bool((codes == found).any()) or torch.equal(found, x)
    if found.item() != x.item() and allowed.numel():
        assert float((found - point).abs()) <= float((allowed - point).abs().min()) + 1e-6
    # Whoever stays clean had no code nearer to the point than the clean value, on its way there.
    if found.item() == x.item() and allowed.numel():
        between = allowed[(allowed - x).squeeze(0) * (point - x).sign().squeeze() > 1e-6]
        assert all(abs(float(c - point)) >= 0.499 / 255 for c in between)


def test_l2_keeps_most_of_its_budget() -> None:
    """Rounding towards the clean sample alone would lose half a code a value."""
    x = torch.full((3, 2000), 100 / 255)
    budget = cg.L2(0.35, bounds=(0, 1), constraints=(cg.PIXELS8,))
    ball = budget.around(x)
    y = ball.shown(ball.project(x + torch.randn(x.shape, generator=GENERATOR)))
    assert budget.contains(y, x).all()
    assert (budget.distance(y, x) > 0.85 * 0.35).all()


@pytest.mark.parametrize("codes", [cg.PIXELS8, cg.AUDIO16, cg.YOUTUBE8M])
def test_all_codes_come_back(codes: cg.Codes) -> None:
    every = torch.arange(codes.levels)
    assert torch.equal(codes.encode(codes.decode(every)), every)


def test_the_ranges_of_the_media() -> None:
    assert cg.AUDIO16.decode(torch.tensor([0, 32768, 65535])).tolist() == [-1.0, 0.0, 32767 / 32768]
    assert cg.YOUTUBE8M.decode(torch.tensor([0, 255])).tolist() == [-1.9921875, 2.0078125]
    assert math.isclose(float(cg.YOUTUBE8M.decode(torch.tensor(128))), 128 * 4 / 255 + 4 / 512 - 2, abs_tol=1e-7)


def test_what_cannot_be_stored_is_seen() -> None:
    x = pixels()
    budget = cg.Linf(0.5, constraints=(cg.PIXELS8,))
    y = x.clone()
    y[1, 0, 0, 0] += 0.4 / 255
    assert budget.contains(y, x).tolist() == [True, False, True, True]


def test_values_of_another_range_are_refused() -> None:
    budget = cg.Linf(16.0, bounds=(0, 255), constraints=(cg.PIXELS8,))
    with pytest.raises(cg.ThreatError, match=r"\[0, 255\].*cg\.Codes\(256, 0, 255\)"):
        budget.check("rgb", torch.tensor([[0.0, 255.0]]))
    cg.Linf(16.0, bounds=(0, 255), constraints=(cg.Codes(256, 0, 255),)).check("rgb", torch.tensor([[0.0, 255.0]]))


def test_padding_need_not_be_near_a_code() -> None:
    budget = cg.Linf(16.0, constraints=(cg.Codes(256, 64, 255),))
    x, real = torch.tensor([[100.0, 0.0], [0.0, 0.0]]), torch.tensor([[True, False], [False, False]])
    budget.check("rgb", x, real)
    with pytest.raises(cg.ThreatError, match=r"\[0, 100\]"):
        budget.check("rgb", x, torch.tensor([[True, True], [False, False]]))
