"""A function's value with a stand-in's gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.attacks import BPDA, Preprocessed, pgd
from crossguard.core import Branched, Feature, takes_mask
from tests.models_for_tests import Linear


def quantised(x: Tensor) -> Tensor:
    return (x * 16).round() / 16


def block_quantised(x: Tensor) -> Tensor:
    """Like JPEG: the frequencies of blocks of four, rounded coarsely (the basis is orthonormal)."""
    k = torch.arange(4, dtype=x.dtype)
    basis = torch.cos(torch.pi * (k[:, None] + 0.5) * k / 4) * 2**-0.5
    basis[:, 0] /= 2**0.5
    blocks = x.unflatten(-1, (-1, 4)) @ basis
    return ((blocks * 4).round() / 4 @ basis.T).flatten(-2)


def median(x: Tensor) -> Tensor:
    return nn.functional.pad(x, (1, 1), mode="replicate").unfold(-1, 3, 1).median(dim=-1).values


def mean(x: Tensor) -> Tensor:
    return nn.functional.avg_pool1d(nn.functional.pad(x, (1, 1), mode="replicate"), 3, 1)


@pytest.mark.parametrize("function", [quantised, block_quantised, median])
@pytest.mark.parametrize("stand_in", [None, mean, torch.tanh])
def test_the_value_is_the_functions_the_gradient_the_stand_ins(
    function: Callable[[Tensor], Tensor], stand_in: Callable[[Tensor], Tensor] | None
) -> None:
    x = torch.rand(5, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 8, dtype=torch.float64)
    y = BPDA(function, stand_in)(x)
    assert torch.equal(y, function(x.detach()))
    (found,) = torch.autograd.grad((y * weight).sum(), x)
    near = x if stand_in is None else stand_in(x)
    (expected,) = torch.autograd.grad((near * weight).sum(), x)
    assert torch.equal(found, expected)


def test_without_gradients_only_the_function_runs() -> None:
    def never(x: Tensor) -> Tensor:
        raise AssertionError

    layer = BPDA(quantised, never)
    assert torch.equal(layer(torch.rand(3, 4)).shape and layer(torch.zeros(1)), torch.zeros(1))
    with torch.no_grad():
        layer(torch.rand(3, 4, requires_grad=True))
    with pytest.raises(AssertionError):
        layer(torch.rand(3, 4, requires_grad=True))


def test_shapes_must_agree() -> None:
    with pytest.raises(cg.ModelError, match=r"\(2, 4\), the stand-in \(2, 2\)"):
        BPDA(quantised, lambda x: x[:, :2])(torch.rand(2, 4, requires_grad=True))


@pytest.mark.parametrize("function", [quantised, block_quantised])
def test_it_reaches_what_rounding_hides(function: Callable[[Tensor], Tensor]) -> None:
    """Rounding has no gradient, so PGD cannot move; through the stand-in it comes near the optimum."""
    inner = Linear({"a": (40,)})
    x = {"a": torch.rand(32, 40, generator=torch.Generator().manual_seed(0))}
    threat = cg.ThreatModel(a=cg.Linf(0.25))
    hidden = Preprocessed(inner, {"a": BPDA(function, lambda t: 0 * t)})
    plain = Preprocessed(inner, {"a": BPDA(function)})
    y = hidden(x).logits.argmax(dim=1)
    task = cg.SingleLabel(2)
    before = task.margin(hidden(x).logits, y)
    optimum = 0.25 * inner.gap("a").norm(p=1)

    def fall(model: nn.Module) -> float:
        found = pgd(model, x, y, threat, objective="margin", stop="never", select="last")
        return ((before - task.margin(hidden(found.inputs).logits, y)).mean() / optimum).item()

    assert fall(plain) > 0.75
    assert fall(hidden) < 0.4


class Branches(nn.Module):
    modalities = ("a", "b")

    def encode(self, name: str, x: Tensor, mask: Tensor | None = None) -> Feature:
        return Feature(x)

    def fuse(self, features: dict[str, Feature], need: object = ()) -> cg.Output:
        return cg.Output(features["a"].value + features["b"].value ** 2)

    def forward(self, inputs: cg.Inputs, mask: object = None, need: object = ()) -> cg.Output:
        return self.fuse({n: self.encode(n, inputs[n]) for n in self.modalities})


def test_branches_stay_apart() -> None:
    model = Preprocessed(Branches(), {"a": BPDA(quantised)})
    assert isinstance(model, Branched)
    x = {"a": torch.rand(4, 3), "b": torch.rand(4, 3)}
    whole = model(x).logits
    assert torch.equal(whole, model.fuse({n: model.encode(n, v) for n, v in x.items()}).logits)
    assert torch.equal(whole, quantised(x["a"]) + x["b"] ** 2)
    assert takes_mask(model)
    plain = Preprocessed(Linear({"a": (3,)}), {"a": BPDA(quantised)})
    assert plain.modalities == ()
    assert not takes_mask(plain)
    with pytest.raises(cg.ModelError, match="'c'"):
        Preprocessed(Linear({"a": (3,)}), {"c": BPDA(quantised)})(x)
