from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.diagnostics import contribution, without


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
