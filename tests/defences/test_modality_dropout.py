"""Modality dropout: shares, never everything, masks where the model takes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from crossguard import Batch, Inputs, RecipeError
from crossguard.defences import Adversarial, Standard
from crossguard.defences.modality_dropout import drop_modalities
from tests.defences.test_defences import Plain, batch_of, context_of
from tests.training.toys import TwoBranch


def batch(samples: int, names: str = "ab") -> Batch:
    inputs = {n: torch.full((samples, 4, 3), float(i + 1)) for i, n in enumerate(names)}
    ids = tuple(f"s{i}" for i in range(samples))
    return Batch(inputs, torch.zeros(samples, dtype=torch.int64), ids=ids)


def there(found: Batch) -> Tensor:
    return torch.stack([found.mask[n].reshape(len(found), -1).any(1) for n in sorted(found.mask)], dim=1)


@pytest.mark.parametrize("names", ["ab", "abc"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_shares_are_as_said(names: str, share: float) -> None:
    n, m = 20_000, len(names)
    gone = ~there(drop_modalities(TwoBranch(names), batch(n, names), share, key=3))
    expected = share - share**m / m
    assert gone.double().mean(dim=0).tolist() == pytest.approx([expected] * m, abs=4 * (0.25 / n) ** 0.5)
    whole = float((~gone.any(dim=1)).double().mean())
    assert whole == pytest.approx((1 - share) ** m, abs=4 * (0.25 / n) ** 0.5)


@settings(deadline=None, max_examples=30)
@given(share=st.floats(0, 1, exclude_max=True), key=st.integers(0, 2**31 - 1))
def test_never_all_and_only_what_is_there_stays(share: float, key: int) -> None:
    drawn = batch(64, "abc")
    had = torch.arange(64) % 3 > 0
    frames = torch.arange(4) < 2
    drawn = replace(drawn, mask={"a": had, "b": frames.expand(64, 4).clone()})
    found = drop_modalities(TwoBranch("abc"), drawn, share, key)
    kept = there(found)
    assert bool(kept.any(dim=1).all())
    assert not bool((kept[:, 0] & ~had).any())
    assert not bool((found.mask["b"] & ~drawn.mask["b"]).any())
    assert torch.equal(found.mask["b"].any(1), (found.mask["b"] == drawn.mask["b"]).all(1))
    assert all(torch.equal(found.inputs[n], x) for n, x in drawn.inputs.items())
    if share == 0:
        assert torch.equal(kept, there(replace(drawn, mask={**found.mask, **drawn.mask})))


def test_draws_are_the_samples_own() -> None:
    drawn, model = batch(50), TwoBranch()
    found = there(drop_modalities(model, drawn, 0.5, key=1))
    order = list(reversed(range(50)))
    assert torch.equal(there(drop_modalities(model, drawn.take(order), 0.5, key=1)), found[order])
    assert torch.equal(there(drop_modalities(model, drawn.take(range(7)), 0.5, key=1)), found[:7])
    assert not torch.equal(there(drop_modalities(model, drawn, 0.5, key=2)), found)


def test_only_what_the_model_reads_is_dropped() -> None:
    found = drop_modalities(TwoBranch("a"), batch(200), 0.9, key=1)
    assert bool(found.mask["a"].all())
    assert "b" not in found.mask


def test_a_model_without_masks_gets_zeros() -> None:
    drawn = batch(200)
    found = drop_modalities(Plain(), drawn, 0.5, key=1)
    masked = drop_modalities(TwoBranch(), drawn, 0.5, key=1)
    assert not found.mask
    for n, x in drawn.inputs.items():
        assert torch.equal(found.inputs[n], torch.where(masked.mask[n][:, None, None], x, 0.0))


class Seen(nn.Module):
    """Keeps the masks that it is given."""

    modalities = ("a", "b")

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.masks: list[dict[str, Tensor]] = []
        self.shown: list[Inputs] = []

    def forward(self, inputs: Inputs, mask: Any = None) -> Tensor:
        self.masks.append(dict(mask or {}))
        self.shown.append(inputs)
        return self.linear(inputs["a"] + inputs["b"])


def test_an_objective_drops_anew_at_every_step_before_it_attacks() -> None:
    model, drawn = Seen(), batch_of(32)
    objective = Adversarial(modality_dropout=0.5, attacked="joint", steps=2, clean_weight=0.5)
    objective.step(model, drawn, context_of(step=1))
    first = model.masks[-1]
    assert all(torch.equal(m[n], first[n]) for m in model.masks for n in "ab")
    attacked, clean = model.shown[-2], model.shown[-1]
    for n in "ab":
        moved = (attacked[n] != clean[n]).any(dim=1)
        assert torch.equal(moved, first[n])  # what is absent is not attacked
        assert torch.equal(clean[n], drawn.inputs[n])
    Standard(modality_dropout=0.5).step(model, drawn, context_of(step=2))
    assert not all(torch.equal(model.masks[-1][n], first[n]) for n in "ab")
    Standard().step(model, drawn, context_of())
    assert model.masks[-1] == {}


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_impossible_shares_are_refused(share: float) -> None:
    with pytest.raises(RecipeError, match=r"expected a share in \[0, 1\)"):
        Standard(modality_dropout=share)
