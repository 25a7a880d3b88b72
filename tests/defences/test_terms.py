"""Terms of the loss, each by hand, within its bounds, and doing on tiny data what it is for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from crossguard import Batch, Inputs, ModelError, MultiLabel, Output, RecipeError, SingleLabel
from crossguard.defences import TERMS, Adversarial, Given, Standard
from crossguard.defences.consistency import consistency
from crossguard.defences.reweighting import even_weights, follow_attack
from crossguard.defences.similarity import similarity
from crossguard.models import FusionModel, SeriesNet
from crossguard.models.fusion import AMR, Concat, OddOneOut
from tests.defences.test_defences import Plain, batch_of, context_of
from tests.training.toys import TASK, TwoBranch, dataset

BOTH = torch.tensor([True, True])


def given_of(samples: int = 2, attacked: tuple[str, ...] = (), task: Any = TASK, **mask: Tensor) -> Given:
    return Given(Batch({}, torch.zeros(samples, dtype=torch.int64), mask), task, attacked)


def latents(**by_modality: list[list[float]]) -> Output:
    seen = {n: torch.tensor(z) for n, z in by_modality.items()}
    return Output(torch.zeros(2, 2), latents={**seen, "fused": torch.zeros(2, 9)})


def test_similarity_by_hand() -> None:
    output = latents(a=[[1.0, 0.0], [3.0, 4.0]], b=[[2.0, 2.0], [-3.0, -4.0]])
    assert similarity(output, given_of()).item() == pytest.approx((1 / math.sqrt(2) - 1) / 2)
    lost = given_of(b=torch.tensor([True, False]))
    assert similarity(output, lost).item() == pytest.approx(1 / math.sqrt(2))
    assert similarity(output, given_of(b=torch.tensor([False, False]))) == 0


def test_similarity_of_three_is_the_mean_over_pairs() -> None:
    output = latents(a=[[1.0, 0.0]] * 2, b=[[0.0, 5.0]] * 2, c=[[-2.0, 0.0]] * 2)
    assert similarity(output, given_of()).item() == pytest.approx(-1 / 3)


def test_similarity_wants_two_latents_of_one_width() -> None:
    with pytest.raises(ModelError, match=r"one width, found \{'a': 2, 'b': 1\}"):
        similarity(latents(a=[[1.0, 0.0]] * 2, b=[[1.0]] * 2), given_of())
    for output in (latents(a=[[1.0, 0.0]] * 2), Output(torch.zeros(2, 2))):
        with pytest.raises(ModelError, match="'similarity' needs latents"):
            similarity(output, given_of())


def heads(**by_modality: list[list[float]]) -> Output:
    return Output(torch.zeros(2, 2), {n: torch.tensor(z) for n, z in by_modality.items()})


def test_consistency_by_hand() -> None:
    sure = 40.0
    output = heads(a=[[sure, 0.0], [1.0, 2.0]], b=[[0.0, sure], [1.5, 2.5]])
    assert consistency(output, given_of()).item() == pytest.approx(math.log(2) / 2, rel=1e-5)
    assert consistency(output, given_of(a=torch.tensor([False, True]))).item() == pytest.approx(0, abs=1e-6)
    labels = given_of(task=MultiLabel(2))
    two = heads(a=[[sure, -sure]] * 2, b=[[-sure, -sure]] * 2)
    assert consistency(two, labels).item() == pytest.approx(math.log(2) / 2, rel=1e-5)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), size=st.floats(0, 100), multi=st.booleans())
def test_consistency_is_bounded_and_its_gradient_finite(seed: int, size: float, multi: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    guesses = {n: (size * torch.randn(2, 3, generator=generator)).requires_grad_() for n in "abc"}
    value = consistency(
        Output(torch.zeros(2, 3), dict(guesses)), given_of(task=(MultiLabel if multi else SingleLabel)(3))
    )
    assert -1e-6 <= value.item() <= math.log(3) + 1e-6
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(value, list(guesses.values())))


def weighed(**by_modality: list[float]) -> Output:
    return Output(torch.zeros(2, 2), weights={n: torch.tensor(w) for n, w in by_modality.items()})


def test_weights_by_hand() -> None:
    output = weighed(a=[1.0, 0.5], b=[1.0, 1.5])
    even = -(math.log(0.5) + math.log(1.5)) / 2
    assert even_weights(output, given_of()).item() == pytest.approx(even / 2)
    assert follow_attack(output, given_of()).item() == pytest.approx(even / 2)
    assert follow_attack(output, given_of(attacked=("a", "b"))).item() == pytest.approx(even / 2)
    told = -(math.log(0.5) + math.log(0.75)) / 2
    assert follow_attack(output, given_of(attacked=("a",))).item() == pytest.approx(told)


def test_weights_of_what_is_absent_have_no_price() -> None:
    output = weighed(a=[1.0, 0.5], b=[1.0, 0.0], c=[1.0, 1.5])
    some = given_of(attacked=("b", "c"), b=torch.tensor([True, False]))
    one = math.log(3)
    assert follow_attack(output, some).item() == pytest.approx((one - math.log(0.25)) / 2)
    assert even_weights(weighed(a=[1.0, 1.0], b=[0.0, 0.0]), given_of(b=~BOTH)) == 0


def test_a_collapsed_weight_is_dear_but_finite() -> None:
    w = torch.tensor([0.0, 2.0], requires_grad=True)
    value = even_weights(Output(torch.zeros(2, 2), weights={"a": w, "b": 2 - w}), given_of())
    assert 5 < value.item() < 20
    assert bool(torch.autograd.grad(value, w)[0].isfinite().all())


@pytest.mark.parametrize("term", ["even_weights", "follow_attack"])
def test_weights_are_asked_of_a_model_that_has_them(term: str) -> None:
    with pytest.raises(ModelError, match=f"'{term}' needs weights"):
        Standard(terms={term: 1.0}).step(TwoBranch(), batch_of(), context_of())


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"similarty": 1.0}, "did you mean 'similarity'"),
        ({"zzz": 1.0}, "known: similarity, "),
        ({"consistency": -1.0}, "expected a finite number >= 0"),
        ({"consistency": float("nan")}, "expected a finite number >= 0"),
    ],
)
@pytest.mark.parametrize("kind", [Standard, Adversarial])
def test_unknown_terms_are_refused(kind: Any, terms: dict[str, float], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        kind(terms=terms)


def test_a_term_is_added_with_its_weight() -> None:
    model = TwoBranch().eval()
    plain = Standard().step(model, batch_of(), context_of())
    more = Standard(terms={"consistency": 3.0}).step(model, batch_of(), context_of())
    assert list(more.parts) == [*plain.parts, "consistency"]
    assert more.total.item() == pytest.approx((plain.total + 3 * more.parts["consistency"]).item(), rel=1e-6)
    assert more.parts["consistency"] > 0
    off = Standard(terms={"even_weights": 0.0}).step(Plain(), batch_of(), context_of())
    assert list(off.parts) == ["fused"]


def test_what_is_attacked_is_told_and_clean_passes_are_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ...]] = []

    def watch(output: Output, told: Given) -> Tensor:
        seen.append(told.attacked)
        return output.logits.sum() * 0

    monkeypatch.setitem(TERMS, "consistency", type(TERMS["consistency"])("auxiliary", watch))
    terms = {"consistency": 1.0}
    Standard(terms=terms).step(TwoBranch(), batch_of(), context_of())
    Adversarial(terms=terms, attacked="b", steps=1, clean_weight=0.5).step(TwoBranch(), batch_of(), context_of())
    Adversarial(terms=terms, attacked="joint", steps=1).step(TwoBranch(), batch_of(), context_of())
    assert seen == [(), ("b",), (), ("a", "b")]


def test_single_attacks_one_modality_at_a_time() -> None:
    drawn = {Adversarial(attacked="single").chosen(context_of(step=step)).names for step in range(40)}
    assert drawn == {("a",), ("b",)}


class Points(SeriesNet):
    """Takes (N, D) as a series of one step."""

    def prepare(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return super().prepare(x[:, None], None)


def model_of(fusion: Any, seed: int = 0) -> FusionModel:
    torch.manual_seed(seed)
    encoders: dict[str, nn.Module] = {n: Points(features=3, width=4, kernel=1) for n in "ab"}
    return FusionModel(encoders, fusion, 2)


def descend(model: nn.Module, objective: Any, steps: int = 40, samples: int = 48) -> list[dict[str, Tensor]]:
    """The losses of a short training on toy data."""
    data = dataset("toy", samples, 0).read(range(samples))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    model.train()
    parts: list[dict[str, Tensor]] = []
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        losses = objective.step(model, data, context_of(step=step, steps=steps))
        losses.total.backward()
        optimizer.step()
        parts.append(losses.parts)
    return parts


@pytest.mark.parametrize("objective", [Standard, Adversarial])
@pytest.mark.parametrize(
    ("term", "fusion"),
    [
        ("similarity", lambda: Concat(hidden=0, width=6)),
        ("consistency", lambda: Concat(hidden=0)),
        ("even_weights", lambda: AMR(width=8)),
        ("follow_attack", lambda: AMR(width=8)),
        ("odd_one_out", lambda: OddOneOut(width=8)),
    ],
)
def test_every_term_trains_and_leaves_the_task_learned(objective: Any, term: str, fusion: Any) -> None:
    options = {} if objective is Standard else {"steps": 1, "attacked": "single", "clean_weight": 0.5}
    made = objective(terms={term: 1.0}, **options)
    parts = descend(model_of(fusion()), made, steps=25)
    assert all(bool(p[term].isfinite()) for p in parts)
    assert parts[-1]["fused"] < 0.8 * parts[0]["fused"]


def test_similarity_drives_features_apart() -> None:
    ends = {w: descend(model_of(Concat(hidden=0, width=6)), Standard(terms={"similarity": w})) for w in (1e-9, 1.0)}
    assert ends[1.0][-1]["similarity"] < ends[1e-9][-1]["similarity"] - 0.3


def test_a_price_keeps_weights_even() -> None:
    """One modality is noise: free weights leave it, priced ones stay nearer to even."""

    def noisy(inputs: Inputs) -> Inputs:
        return {**inputs, "b": torch.randn(inputs["b"].shape, generator=torch.Generator().manual_seed(0))}

    least: list[float] = []
    for price in (1e-9, 1.0):
        model, data = model_of(AMR(width=8), seed=1), dataset("toy", 48, 0).read(range(48))
        data = data.with_inputs(noisy(data.inputs))
        optimizer = torch.optim.Adam(model.parameters(), 3e-2)
        for _ in range(60):
            optimizer.zero_grad()
            Standard(terms={"even_weights": price}).step(model, data, context_of()).total.backward()
            optimizer.step()
        weights = model.eval()(data.inputs, need=("weights",)).weights
        assert weights is not None
        least.append(float(torch.stack(list(weights.values())).amin(dim=0).detach().mean()))
    assert least[1] > least[0] + 0.02
    assert least[1] > 0.9


def test_weights_learn_to_follow_a_planted_attack() -> None:
    """Two of three branches agree: the third is the attacked one, and only all of them together tell which."""
    torch.manual_seed(0)
    amr = AMR(dict.fromkeys("abc", 3), width=32)
    optimizer = torch.optim.Adam(amr.exchanges.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(1)

    def weights(case: int) -> dict[str, Tensor]:
        z, other = torch.randn(2, 64, 3, generator=generator)
        found = amr.gates(0, {n: other if i == case else z for i, n in enumerate("abc")}, None).weights
        assert found is not None
        return found

    def value(case: int) -> Tensor:
        told = given_of(64, ("abc"[case],) if case < 3 else ())
        return follow_attack(Output(torch.zeros(64, 2), weights=weights(case)), told)

    with torch.no_grad():
        before = torch.stack([value(case) for case in range(4)]).mean()
    for step in range(300):
        optimizer.zero_grad()
        value(step % 4).backward()
        optimizer.step()
    with torch.no_grad():
        after = torch.stack([value(case) for case in range(4)]).mean()
        attacked = [float(weights(case)["abc"[case]].mean()) for case in range(3)]
    assert after < 0.5 * before
    assert max(attacked) < 0.6
