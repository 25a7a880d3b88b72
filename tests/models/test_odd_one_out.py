"""Odd-one-out fusion: weights by hand, and what its head learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crossguard.core import Batch, ModelError, Output, SingleLabel
from crossguard.defences.odd_one_out import odd_one_out
from crossguard.defences.term import Given
from crossguard.models.fusion import OddOneOut

CASES = torch.tensor([[0.0, 1.0, 2.0, 0.5], [3.0, -1.0, 0.0, 0.0]], dtype=torch.float64)


class Said(nn.Module):
    """Says the cases whatever it is shown."""

    def forward(self, x: Tensor) -> Tensor:
        return CASES


def built(names: str = "abc", dim: int = 2, **options: Any) -> OddOneOut:
    torch.manual_seed(0)
    fusion = OddOneOut(**{"width": 4, "hidden": 0, **options})
    dims = dict.fromkeys(names, dim)
    fusion.build([dims], dims, 3)
    return fusion.double()


def features(samples: int = 2, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(samples, 2, generator=generator, dtype=torch.float64) for n in "abc"}


def test_the_fusion_by_hand() -> None:
    fusion, x = built(), features()
    fusion.compare = Said()
    gates = fusion.gates(0, x, None)
    p = CASES.exp() / CASES.exp().sum(1, keepdim=True)
    keep = 1 - p[:, :3]
    assert gates.weights is not None
    torch.testing.assert_close(torch.stack(list(gates.weights.values()), 1), 3 * keep / keep.sum(1, keepdim=True))
    fused, logits = fusion({n: x[n] * gates.scale[n] for n in "abc"})
    projected = torch.stack([x[n] @ fusion.project[n].weight.T for n in "abc"], dim=1)
    torch.testing.assert_close(fused, (projected * keep[..., None]).sum(1) / keep.sum(1, keepdim=True))
    torch.testing.assert_close(logits, fusion.head(fused))


def test_an_absent_modality_is_neither_odd_nor_counted() -> None:
    fusion, x = built(), features()
    fusion.compare = Said()
    real = torch.tensor([[True, False, True], [False, False, True]])
    gates = fusion.gates(0, x, real)
    e = CASES[0, [0, 2, 3]].exp() / CASES[0, [0, 2, 3]].exp().sum()
    keep = 1 - e[:2]
    assert gates.weights is not None
    found = torch.stack(list(gates.weights.values()), dim=1)
    torch.testing.assert_close(found[0, [0, 2]], 2 * keep / keep.sum())
    assert found[:, 1].tolist() == [0, 0]
    assert found[1].tolist() == [0, 0, 1]


def test_a_lone_modality_counts_whatever_the_head_says() -> None:
    fusion = built(names="a")
    last: Any = fusion.compare
    last[-1].bias.data = torch.tensor([1e4, 0.0], dtype=torch.float64)
    weights = fusion.gates(0, {"a": features()["a"]}, None).weights
    assert weights is not None
    assert weights["a"].tolist() == [1.0, 1.0]


def given_of(samples: int, attacked: tuple[str, ...] = (), **mask: Tensor) -> Given:
    batch = Batch({}, torch.zeros(samples, dtype=torch.int64), mask)
    return Given(batch, SingleLabel(3), attacked)


@pytest.mark.parametrize(("attacked", "case"), [((), 3), (("a",), 0), (("c",), 2)])
def test_the_term_by_hand(attacked: tuple[str, ...], case: int) -> None:
    output = Output(torch.zeros(2, 3), weights=dict.fromkeys("abc", torch.ones(2)), odd_one_out=CASES)
    expected = -CASES.log_softmax(1)[:, case].mean()
    torch.testing.assert_close(odd_one_out(output, given_of(2, attacked)), expected)


def test_the_term_where_what_is_attacked_is_absent_or_several_are() -> None:
    output = Output(torch.zeros(2, 3), weights=dict.fromkeys("abc", torch.ones(2)), odd_one_out=CASES)
    told = CASES.log_softmax(1)
    some = given_of(2, ("a",), a=torch.tensor([True, False]))
    torch.testing.assert_close(odd_one_out(output, some), -(told[0, 0] + told[1, 3]) / 2)
    assert odd_one_out(output, given_of(2, ("a", "b"))) == 0
    with pytest.raises(ModelError, match="fusion odd_one_out"):
        odd_one_out(Output(torch.zeros(2, 3)), given_of(2))


def test_the_head_finds_a_planted_odd_branch() -> None:
    """Three branches say the same; the planted one says another thing. No single branch alone gives it away."""
    fusion = built(dim=3, width=32).float()
    optimizer = torch.optim.Adam(fusion.compare.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(1)

    def drawn(case: int) -> dict[str, Tensor]:
        z = torch.randn(64, 3, generator=generator)
        other = torch.randn(64, 3, generator=generator)
        return {
            n: (other if i == case else z) + 0.02 * torch.randn(64, 3, generator=generator) for i, n in enumerate("abc")
        }

    def answer(case: int) -> Output:
        gates = fusion.gates(0, drawn(case), None)
        return Output(torch.zeros(64, 3), weights=gates.weights, odd_one_out=gates.odd_one_out)

    for step in range(600):
        attacked = ("abc"[step % 4],) if step % 4 < 3 else ()
        optimizer.zero_grad()
        odd_one_out(answer(step % 4), given_of(64, attacked)).backward()
        optimizer.step()
    with torch.no_grad():
        outputs = [answer(case) for case in range(4)]
    right = [float((o.odd_one_out.argmax(1) == case).float().mean()) for case, o in enumerate(outputs)]
    assert min(right) > 0.8
    for case, name in enumerate("abc"):
        weights = outputs[case].weights
        assert weights is not None
        assert float(weights[name].mean()) < 0.5
        assert min(float(w.mean()) for n, w in weights.items() if n != name) > 1.2
    even = outputs[3].weights
    assert even is not None
    assert max(abs(float(w.mean()) - 1) for w in even.values()) < 0.15
