"""Convexity against closed forms: line, disc and ring."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard import InputError, Output

convexity = cg.diagnostics.convexity


def inside(radius: float) -> object:
    """A head that gives class 0 within `radius` of 0, class 1 beyond, with certainty 0.9."""

    def head(z: Tensor) -> Tensor:
        within = (z.norm(dim=1) <= radius).to(z)
        return math.log(9) * torch.stack([within, 1 - within], dim=1)

    return head


def ring(count: int) -> Tensor:
    angle = 2 * math.pi * torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


@pytest.mark.parametrize("radius", [0.6, 0.8, 0.28])
def test_ring(radius: float) -> None:
    # A chord between random points of the unit circle lies within `radius` by the share 1 - sqrt(1 - radius^2).
    z = ring(4000)
    _, outside = convexity(inside(radius), z, torch.ones(4000, dtype=torch.int64), pairs=20000)
    assert outside.value == pytest.approx(math.sqrt(1 - radius**2), abs=0.012)
    assert outside.low <= math.sqrt(1 - radius**2) <= outside.high


def test_disc_is_convex() -> None:
    z = ring(300) * torch.rand(300, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found,) = convexity(inside(1.0), z, torch.zeros(300, dtype=torch.int64))
    assert found.value == 1.0
    assert 0.95 < found.low < 1.0
    assert found.high == 1.0


def test_line() -> None:
    # Half of the class at -1, half at 1; the head gives it beyond 1/2 from 0. Pairs across (n/2 of n - 1) are hit on
    # half of their way.
    z = torch.tensor([[-1.0], [1.0]]).repeat(50, 1)
    _, found = convexity(inside(0.5), z, torch.ones(100, dtype=torch.int64), pairs=20000)
    across = 50 / 99
    assert found.value == pytest.approx(1 - across / 2, abs=0.01)


def test_threshold_of_one_label() -> None:
    z, targets = ring(50), torch.zeros(50, dtype=torch.int64)
    (sure,), (surer,) = (convexity(inside(1.0), z, targets, threshold=t) for t in (0.89, 0.91))
    assert (sure.value, surer.value) == (1.0, 0.0)


def test_several_labels_take_the_published_tenth() -> None:
    z, targets = ring(50), torch.ones(50, 2)

    def head(z: Tensor) -> Output:
        return Output(torch.logit(torch.tensor([0.101, 0.099])).expand(len(z), 2))

    first, second = convexity(head, z, targets)
    assert (first.value, second.value) == (1.0, 0.0)
    _, lower = convexity(head, z, targets, threshold=0.09)
    assert lower.value == 1.0


def test_both_ends_right() -> None:
    z = torch.cat([ring(60), 0.1 * ring(60)])
    head, targets = inside(0.3), torch.ones(120, dtype=torch.int64)
    _, everyone = convexity(head, z, targets)
    _, right = convexity(head, z, targets, ends="right")
    _, outer = convexity(head, z[:60], targets[:60])
    assert right.n == 60
    assert right.value == outer.value > everyone.value
    nobody, _ = convexity(head, z[:60], torch.zeros(60, dtype=torch.int64), classes=2, ends="right")
    assert nobody.said() == "undefined (0 samples that the head gives this class, 2 needed)"


def test_a_linear_head_is_convex_where_its_ends_are_right() -> None:
    torch.manual_seed(0)
    z, targets = torch.randn(400, 5), torch.arange(400) % 4
    for found in convexity(nn.Linear(5, 4), z, targets, ends="right"):
        assert found.value == 1.0


def test_too_few_samples_are_undefined() -> None:
    found = convexity(inside(1.0), ring(4), torch.tensor([0, 0, 0, 1]), classes=3)
    assert [e.defined for e in found] == [True, False, False]
    assert found[1].said() == "undefined (1 samples, 2 needed)"


def test_modalities_move_alone_or_together() -> None:
    z = {"a": torch.tensor([[-1.0], [1.0]]).repeat(50, 1), "b": torch.ones(100, 1)}

    def head(z: dict[str, Tensor]) -> Tensor:
        return inside(0.5)(z["a"])  # type: ignore[operator]

    targets = torch.ones(100, dtype=torch.int64)
    both, a, b = (convexity(head, z, targets, moved=m)[1].value for m in (None, ("a",), ("b",)))
    assert both == a == pytest.approx(0.75, abs=0.05)
    assert b == 1.0


def test_the_head_comes_back_as_it_was_and_is_asked_in_eval_mode() -> None:
    head = nn.Sequential(nn.Dropout(0.9), nn.Linear(2, 2))
    head.train()
    z, targets = ring(40).float(), torch.arange(40) % 2
    first, second = (convexity(head, z, targets, ends="right", classes=2) for _ in range(2))
    assert [str(e) for e in first] == [str(e) for e in second]
    assert all(e.value == 1.0 for e in first if e.defined)
    assert all(m.training for m in head.modules())


def test_groups_widen_the_interval() -> None:
    z = torch.tensor([[-1.0], [1.0]]).repeat_interleave(50, dim=0)
    targets = torch.ones(100, dtype=torch.int64)
    _, alone = convexity(inside(0.5), z, targets)
    _, grouped = convexity(inside(0.5), z, targets, groups=[str(i // 25) for i in range(100)])
    assert grouped.value == alone.value
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


@pytest.mark.parametrize(
    "options", [{"pairs": 0}, {"ends": "both"}, {"moved": ("c",)}, {"groups": ["a"]}], ids=lambda o: next(iter(o))
)
def test_bad_input_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="found"):
        convexity(inside(1.0), ring(4), torch.zeros(4, dtype=torch.int64), **options)  # type: ignore[arg-type]
