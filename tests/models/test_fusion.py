"""Fusions alone, with numbers worked out by hand."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from crossguard.core import ModelError
from crossguard.models.fusion import AMR, FUSIONS, MMTM, Concat, Mean
from crossguard.models.fusion.amr import Reweighter

DIMS = {"a": 3, "b": 5}


def tokens(samples: int = 4, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(samples, d, generator=generator, dtype=torch.float64) for n, d in DIMS.items()}


def stirred(module: nn.Module) -> Any:
    """The module in float64 with every parameter random, so that nothing is at a special value."""
    generator = torch.Generator().manual_seed(1)
    module.double()
    for p in module.parameters():
        p.data.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return module


VARIANTS = [
    dict(zip(("self_attention", "gate", "residual", "floor"), v, strict=True))
    for v in product((True, False), ("scalar", "channel"), (True, False), (0.0, 0.3))
]


@pytest.mark.parametrize("options", VARIANTS)
def test_amr_weights_sum_to_the_modalities_and_scales_follow_them(options: dict[str, Any]) -> None:
    amr = stirred(AMR(DIMS, width=8, **options))
    gates = amr.gates(0, tokens(), None)
    w = torch.stack(list(gates.weights.values()), dim=1)
    torch.testing.assert_close(w.sum(dim=1), torch.full((4,), 2.0, dtype=torch.float64))
    assert bool((w >= options["floor"] - 1e-12).all())
    assert w.std() > 0.01
    for name, scale in gates.scale.items():
        mean = scale.mean(dim=1) - (1 if options["residual"] else 0)
        torch.testing.assert_close(mean, gates.weights[name])
        assert scale.shape[1] == (DIMS[name] if options["gate"] == "channel" else 1)


@pytest.mark.parametrize("options", VARIANTS)
def test_amr_begins_as_its_base(options: dict[str, Any]) -> None:
    gates = AMR(DIMS, width=8, **options).double().gates(0, tokens(), None)
    for name in DIMS:
        torch.testing.assert_close(gates.weights[name], torch.ones(4, dtype=torch.float64))
        assert bool((gates.scale[name] - (2 if options["residual"] else 1)).abs().max() < 1e-12)


def test_amr_by_hand() -> None:
    """Width 1, no attention: w = 2 ((1 - f) softmax(v tanh(P x)) + f / 2)."""
    amr = AMR({"a": 1, "b": 1}, width=1, heads=1, self_attention=False, floor=0.25)
    layer: Any = amr.exchanges[0]
    for name, p in (("a", 2.0), ("b", 0.5)):
        layer.project[name].weight.data.fill_(p)
        layer.project[name].bias.data.zero_()
    layer.score.weight.data.fill_(3.0)
    gates = amr.gates(0, {"a": torch.tensor([[0.4]]), "b": torch.tensor([[0.4]])}, None)
    e = [math.exp(3 * math.tanh(0.8)), math.exp(3 * math.tanh(0.2))]
    expected = 2 * (0.75 * e[0] / sum(e) + 0.125)
    assert gates.weights is not None
    assert gates.weights["a"].item() == pytest.approx(expected, rel=1e-6)
    assert gates.weights["b"].item() == pytest.approx(2 - expected, rel=1e-6)


@pytest.mark.parametrize("self_attention", [True, False])
def test_equal_tokens_weigh_one(self_attention: bool) -> None:
    amr = stirred(AMR({"a": 3, "b": 3, "c": 3}, width=8, self_attention=self_attention))
    project = amr.exchanges[0].project
    for name in "bc":
        project[name].load_state_dict(project["a"].state_dict())
    x = tokens()["a"]
    gates = amr.gates(0, {"a": x, "b": x, "c": x}, None)
    for name in "abc":
        torch.testing.assert_close(gates.weights[name], torch.ones(4, dtype=torch.float64))


def test_self_attention_lets_a_token_see_the_others() -> None:
    def scores(attending: bool) -> Tensor:
        layer: Reweighter = stirred(AMR(DIMS, width=8, self_attention=attending)).exchanges[0]
        x = tokens()
        x["a"].requires_grad_()
        u = torch.stack([p(x[n]) for n, p in layer.project.items()], dim=1)
        u = u if layer.attend is None else u + layer.attend(u, None)
        return torch.autograd.grad(u[:, 1].sum(), x["a"], allow_unused=True)[0]

    assert bool(scores(True).abs().sum() > 0)
    assert not scores(False).any()


@pytest.mark.parametrize("options", VARIANTS)
def test_amr_absent_modalities_neither_weigh_nor_speak(options: dict[str, Any]) -> None:
    amr = stirred(AMR(DIMS, width=8, **options))
    real = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    x = tokens()
    gates = amr.gates(0, x, real)
    w = torch.stack(list(gates.weights.values()), dim=1)
    full = torch.stack(list(amr.gates(0, x, None).weights.values()), dim=1)
    torch.testing.assert_close(w[0], full[0])
    torch.testing.assert_close(w[1:], real[1:].double())
    other = amr.gates(0, {"a": x["a"], "b": torch.where(real[:, 1:], x["b"], 9.0)}, real)
    for name in DIMS:
        torch.testing.assert_close(gates.weights[name], other.weights[name])


@settings(deadline=None, max_examples=30)
@given(floor=st.floats(0, 1), seed=st.integers(0, 1000), size=st.floats(0.01, 100))
def test_the_floor_bounds_the_weights(floor: float, seed: int, size: float) -> None:
    amr = stirred(AMR(DIMS, width=8, floor=floor))
    amr.exchanges[0].score.weight.data.mul_(size)
    weights = amr.gates(0, tokens(seed=seed), None).weights
    w = torch.stack(list(weights.values()), dim=1)
    assert bool((w >= floor - 1e-9).all())
    assert bool((w <= 2 - floor + 1e-9).all())


def test_mmtm_by_hand() -> None:
    mmtm = MMTM(ratio=4)
    mmtm.build([{"a": 2, "b": 2}], {"a": 2, "b": 2}, 3)
    layer: Any = mmtm.exchanges[0]
    assert layer.squeeze.out_features == 1
    layer.squeeze.weight.data.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    layer.squeeze.bias.data.fill_(-1.0)
    for name, w in (("a", [0.5, -0.5]), ("b", [0.0, 1.0])):
        layer.excite[name].weight.data.copy_(torch.tensor(w)[:, None])
        layer.excite[name].bias.data.zero_()
    scale = mmtm.gates(0, {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[0.0, 0.5]])}, None).scale
    z = 1.0 + 2.0 - 1.0
    logistic = [2 / (1 + math.exp(-g * z)) for g in (0.5, -0.5, 0.0, 1.0)]
    assert torch.cat([scale["a"], scale["b"]], dim=1)[0].tolist() == pytest.approx(logistic)


def test_the_mean_counts_those_that_are_there() -> None:
    mean = Mean().double()
    mean.build((), DIMS, 2)
    mean.double()
    x = tokens()
    a, b = mean.heads["a"](x["a"]), mean.heads["b"](x["b"])
    torch.testing.assert_close(mean(x)[1], (a + b) / 2)
    real = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    expected = torch.stack([(a[0] + b[0]) / 2, a[1], b[2], torch.zeros(2, dtype=torch.float64)])
    torch.testing.assert_close(mean(x, real)[1], expected)


def test_concat_is_one_head_over_all() -> None:
    linear = Concat(hidden=0)
    linear.build((), DIMS, 2)
    linear.double()
    fused, logits = linear(tokens())
    assert torch.equal(fused, torch.cat(list(tokens().values()), dim=1))
    only: Any = linear.head
    torch.testing.assert_close(logits, fused @ only[-1].weight.T + only[-1].bias)
    deep = Concat(hidden=7, dropout=0.5)
    deep.build((), DIMS, 2)
    assert [type(layer).__name__ for layer in deep.head.children()] == ["Dropout", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_belongs_to_one_model(name: str) -> None:
    fusion = FUSIONS[name]()
    fusion.build([DIMS], DIMS, 2)
    with pytest.raises(ModelError, match="already belongs"):
        fusion.build([DIMS], DIMS, 2)


@pytest.mark.parametrize("options", [{"floor": -0.1}, {"floor": 1.1}, {"width": 6, "heads": 4}, {"heads": 0}])
def test_amr_refuses_impossible_arguments(options: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="AMR needs"):
        AMR(DIMS, **options)
