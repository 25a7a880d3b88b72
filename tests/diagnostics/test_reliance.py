from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.diagnostics import contribution, shapley, without


class Sum(nn.Module):
    """Logits are the sum of two inputs."""

    def forward(self, inputs: cg.Inputs) -> Tensor:
        return inputs["a"] + inputs["b"]


class MaskedSum(nn.Module):
    """The same; what is masked out adds nothing."""

    def forward(self, inputs: cg.Inputs, mask: cg.Inputs | None = None) -> Tensor:
        return sum(
            (x if m not in (mask or {}) else x * (mask or {})[m].reshape(len(x), -1) for m, x in inputs.items()),
            start=torch.zeros(()),
        )


INPUTS = {"a": torch.tensor([[3.0, 1.0], [0.0, 2.0]]), "b": torch.tensor([[1.0, 0.0], [4.0, 8.0]])}


def test_masked_out_where_the_model_takes_a_mask() -> None:
    inputs, mask = without(MaskedSum(), INPUTS, "a")
    assert torch.equal(inputs["a"], INPUTS["a"])
    assert mask["a"].dtype == torch.bool
    assert not mask["a"].any()
    real = torch.ones(2, 2, dtype=torch.bool)
    assert without(MaskedSum(), INPUTS, "a", {"a": real})[1]["a"].shape == (2, 2)
    assert real.all(), "the caller's mask is not changed"


@pytest.mark.parametrize(("fill", "expected"), [("mean", [[2.0, 2.0], [1.0, 1.0]]), ("zeros", [[0.0, 0.0]] * 2)])
def test_filled_where_it_does_not(fill, expected: list[list[float]]) -> None:
    inputs, _ = without(Sum(), INPUTS, "a", fill=fill)
    assert inputs["a"].tolist() == expected
    assert inputs["b"] is INPUTS["b"]


def test_the_mean_is_over_what_is_real() -> None:
    mask = {"a": torch.tensor([[True, False], [True, True]])}
    assert without(Sum(), INPUTS, "a", mask)[0]["a"].tolist() == [[3.0, 3.0], [1.0, 1.0]]


def test_contribution_is_of_the_winning_logit() -> None:
    found = contribution(MaskedSum(), INPUTS)
    assert found["a"].tolist() == [3.0, 2.0]
    assert found["b"].tolist() == [1.0, 8.0]


def test_known_logits_are_used_and_the_model_is_as_it_was() -> None:
    model = MaskedSum().train()
    found = contribution(model, INPUTS, known={"a": torch.zeros(2, 2)})
    assert found["a"].tolist() == [4.0, 10.0]
    assert model.training


def test_an_unknown_modality_is_refused() -> None:
    with pytest.raises(cg.InputError, match="'c'"):
        without(Sum(), INPUTS, "c")


class Tells(nn.Module):
    """Logits of class 1: what the modalities that are there add up to, less 1, and a bonus for a and b together."""

    def __init__(self, bonus: float = 0.0) -> None:
        super().__init__()
        self.bonus = bonus

    def forward(self, inputs: cg.Inputs, mask: cg.Inputs | None = None) -> Tensor:
        there = {n: (mask or {}).get(n, torch.ones(len(x), dtype=torch.bool)).to(x) for n, x in inputs.items()}
        total = sum((there[n] * x[:, 0] for n, x in inputs.items()), start=torch.zeros(()))
        total = total + self.bonus * there["a"] * there["b"]
        return torch.stack([torch.zeros_like(total), total - 1], dim=1)


def test_shapley_by_hand() -> None:
    inputs = {"a": torch.tensor([[2.0]]), "b": torch.tensor([[0.5]]), "c": torch.tensor([[0.25]])}
    found = shapley(Tells(), inputs, torch.tensor([1]), value="margin")
    assert {n: v.tolist() for n, v in found.items()} == {"a": [2.0], "b": [0.5], "c": [0.25]}
    # A bonus of a and b together is shared by them: the value of an additive game plus an interaction.
    both = shapley(Tells(3.0), inputs, torch.tensor([1]), value="margin")
    assert [v.item() for v in both.values()] == pytest.approx([3.5, 2.0, 0.25])
    # Right: with a alone, or with whatever else beside it; b and c never make it without a.
    right = shapley(Tells(), inputs, torch.tensor([1]))
    assert {n: v.tolist() for n, v in right.items()} == {"a": [1.0], "b": [0.0], "c": [0.0]}


def test_shapley_sums_to_what_all_have_over_none_and_shares_alike() -> None:
    inputs = {n: torch.rand(50, 1, generator=torch.Generator().manual_seed(i)) for i, n in enumerate("abc")}
    targets = torch.arange(50) % 2
    model = Tells(1.0)
    for value in ("right", "margin"):
        found = shapley(model, inputs, targets, value=value)  # type: ignore[arg-type]
        nobody = {n: torch.zeros(50, dtype=torch.bool) for n in inputs}
        ends = [cg.SingleLabel(2).margin(model(inputs, m), targets) for m in ({}, nobody)]
        whole, none = [(e > 0).float() if value == "right" else e for e in ends]
        torch.testing.assert_close(sum(found.values()), whole - none)
    twins = shapley(model, {"a": inputs["a"], "b": inputs["a"], "c": inputs["c"]}, targets, value="margin")
    torch.testing.assert_close(twins["a"], twins["b"])


def test_shapley_of_a_model_without_masks_and_of_several_labels() -> None:
    found = shapley(Sum(), INPUTS, torch.tensor([[1, 0], [0, 1]]), value="margin", fill="zeros")
    expected = [(x[:, 0] - x[:, 1]) * torch.tensor([1.0, -1.0]) for x in INPUTS.values()]
    for share, by_hand in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(share, by_hand)


def test_what_is_no_tensor_is_refused_by_name() -> None:
    arrays = {n: x.numpy() for n, x in INPUTS.items()}
    for work in (lambda: shapley(Sum(), arrays, torch.tensor([0, 1])), lambda: contribution(Sum(), arrays)):
        with pytest.raises(cg.InputError, match="inputs of 'a': found a ndarray"):
            work()
