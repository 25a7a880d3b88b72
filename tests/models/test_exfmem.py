"""The external memory: its codes against closed forms and another solver, and what an attack sees of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import Tensor, nn

import crossguard as cg
from crossguard.core import Branched, ModelError
from crossguard.models import FusionModel, SeriesNet
from crossguard.models.fusion import Concat, ExFMem
from crossguard.models.fusion.exfmem import ista, shrink

ONE = torch.tensor(1.0, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rate_of(dictionary: Tensor) -> Tensor:
    return 1 / torch.linalg.eigvalsh(dictionary @ dictionary.T).max()


def test_shrink_is_soft_thresholding() -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0])
    assert shrink(x, torch.tensor(0.75)).tolist() == [-1.25, 0.0, 0.0, 0.0, 1.25]


@pytest.mark.parametrize("iterations", [1, 3])
def test_an_orthonormal_dictionary_needs_one_step(iterations: int) -> None:
    q = torch.linalg.qr(normal(6, 6))[0]
    z = normal(4, 6, seed=1)
    expected = (z @ q).sign() * ((z @ q).abs() - 0.3).clamp_min(0)
    torch.testing.assert_close(ista(q, z, ONE, 0.3, iterations), expected)


@pytest.mark.parametrize("penalty", [0.05, 0.5, 2.0])
def test_codes_are_those_of_another_lasso_solver(penalty: float) -> None:
    d, z = normal(8, 12), normal(3, 8, seed=1)
    h = ista(d, z, rate_of(d), penalty, 20_000)
    lasso = Lasso(alpha=penalty / 8, fit_intercept=False, tol=1e-12, max_iter=200_000)
    expected = np.stack([lasso.fit(d.numpy(), row).coef_.copy() for row in z.numpy()])
    np.testing.assert_allclose(h.numpy(), expected, atol=1e-5)


def test_every_iteration_lowers_the_objective() -> None:
    d, z = normal(8, 12), normal(5, 8, seed=1)

    def value(h: Tensor) -> Tensor:
        return (h @ d.T - z).square().sum(1) / 2 + 0.1 * h.abs().sum(1)

    values = torch.stack([value(ista(d, z, rate_of(d), 0.1, k)) for k in range(1, 40)])
    assert bool((values.diff(dim=0) <= 1e-12).all())


def test_too_high_a_penalty_leaves_nothing() -> None:
    d, z = normal(8, 12), normal(5, 8, seed=1)
    highest = float((z @ d).abs().max())
    assert not ista(d, z, rate_of(d), highest, 50).any()
    assert ista(d, z, rate_of(d), 0.9 * highest, 50).any()


def built(**options: Any) -> ExFMem:
    fusion = ExFMem(**{"size": 6, "iterations": 30, **options})
    fusion.build((), {"a": 4, "b": 4}, 3)
    return fusion.double()


def test_empty_it_is_a_concat_and_filled_it_blends() -> None:
    torch.manual_seed(0)
    fusion = built(blend=0.25)
    x = {"a": normal(2, 4), "b": normal(2, 4, seed=1)}
    assert all(torch.equal(fusion.refine(n, z), z) for n, z in x.items())
    known = {"a": normal(5, 4, seed=2), "b": normal(5, 4, seed=3)}
    fusion.fill(known)
    for n in x:
        d = torch.cat([known[n].T, torch.zeros(4, 1, dtype=torch.float64)], dim=1)
        torch.testing.assert_close(
            fusion.refine(n, x[n]), 0.25 * ista(d, x[n], rate_of(d), 0.1, 30) @ d.T + 0.75 * x[n]
        )
        assert not fusion.refine(n, torch.zeros_like(x[n])).any()
    fusion.empty()
    assert all(torch.equal(fusion.refine(n, z), z) for n, z in x.items())


def test_filling_again_forgets_what_was_there() -> None:
    once, twice = built(), built()
    twice.fill({"a": normal(6, 4, seed=7), "b": normal(6, 4, seed=8)})
    for fusion in (once, twice):
        fusion.fill({"a": normal(3, 4), "b": normal(3, 4)})
    assert all(torch.equal(x, y) for x, y in zip(once.buffers(), twice.buffers(), strict=True))
    with pytest.raises(ModelError, match="give at most 6"):
        once.fill({"a": normal(7, 4), "b": normal(7, 4)})


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"iterations": 0}, {"penalty": -1}, {"blend": 2}, {"frozen_from": 1.5}, {"width": -1}]
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="expected"):
        ExFMem(**options)


def series(samples: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Two series whose level tells the class."""
    targets = torch.arange(samples) % 3
    level = (targets.double() - 1)[:, None, None]
    return {
        "a": 0.5 * normal(samples, 8, 3, seed=seed) + level,
        "b": 0.5 * normal(samples, 8, 3, seed=seed + 1) - level,
    }, targets


def trained(fusion: ExFMem | Concat) -> FusionModel:
    """A tiny model that learned its task, its memory filled half way."""
    torch.manual_seed(0)
    encoders: dict[str, nn.Module] = {n: SeriesNet(features=3, width=4) for n in "ab"}
    model = FusionModel(encoders, fusion, 3, auxiliary=False).double().train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    x, targets = series(48, 0)
    for step in range(40):
        if step == 20 and isinstance(fusion, ExFMem):
            model.eval()
            fusion.fill({n: model.encode(n, x[n]).value.detach() for n in "ab"})
            model.train()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x).logits, targets)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2
    return model.eval()


def naive(model: FusionModel, x: dict[str, Tensor]) -> Tensor:
    """The same answer written out, iteration by iteration."""
    fusion: Any = model.fusion
    blended: list[Tensor] = []
    for n in "ab":
        z, d = model.encoders[n](x[n]).mean(2), fusion.memories[n].dictionary
        rate = rate_of(d)
        h = torch.zeros(z.shape[0], d.shape[1], dtype=z.dtype)
        for _ in range(fusion.iterations):
            g = h - rate * (h @ d.T - z) @ d
            h = g.sign() * (g.abs() - rate * fusion.penalty).relu()
        blended.append(fusion.blend * h @ d.T + (1 - fusion.blend) * z)
    return fusion.head(torch.cat(blended, dim=1))


def gradients(model: Any, x: dict[str, Tensor], targets: Tensor) -> list[Tensor]:
    x = {n: v.clone().requires_grad_() for n, v in x.items()}
    logits = model(x)
    logits = logits if isinstance(logits, Tensor) else logits.logits
    return list(torch.autograd.grad(nn.functional.cross_entropy(logits, targets), list(x.values())))


@pytest.mark.parametrize("through", [True, False])
def test_the_attack_view_has_the_gradient_of_the_unrolled_iterations(through: bool) -> None:
    model = trained(ExFMem(size=48, iterations=10, penalty=0.01, through=through))
    view = model.attack_view()
    x, targets = series(6, 5)
    assert isinstance(view, Branched)
    assert torch.equal(view(x).logits, model(x).logits)
    torch.testing.assert_close(model(x).logits, naive(model, x))
    expected = gradients(lambda v: naive(model, v), x, targets)
    for found, wanted in zip(gradients(view, x, targets), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)
    differs = any(not torch.allclose(a, b) for a, b in zip(gradients(model, x, targets), expected, strict=True))
    assert differs != through
    assert (view is model) == through


def test_the_attack_view_is_no_weaker() -> None:
    """The plain model takes its codes as constants: with a blend of 1 an attack on it has no gradient at all."""
    model = trained(ExFMem(size=48, iterations=10, penalty=0.01, blend=1.0, through=False))
    x, targets = series(60, 5)
    threat = cg.ThreatModel(a=cg.Linf(0.6), b=cg.Linf(0.6))
    options: dict[str, Any] = {"steps": 10, "stop": "never", "seed": 1}
    plain = cg.attacks.pgd(model, x, targets, threat, **options)
    seen = cg.attacks.pgd(model.attack_view(), x, targets, threat, **options)
    task = cg.SingleLabel(3)
    margin = {k: task.margin(model(r.inputs).logits, targets).mean() for k, r in (("plain", plain), ("view", seen))}
    assert int(seen.success.sum()) > int(plain.success.sum())
    assert margin["view"] < margin["plain"]


def test_a_view_shares_tensors_and_leaves_the_model_alone() -> None:
    model = trained(ExFMem(size=48, iterations=3, through=False))
    view = model.attack_view()
    assert {n: p.data_ptr() for n, p in view.state_dict().items()} == {
        n: p.data_ptr() for n, p in model.state_dict().items()
    }
    assert model.fusion is not view.fusion
    assert isinstance(model.fusion, ExFMem)
    assert not model.fusion.through
    other = trained(Concat(hidden=8))
    assert other.attack_view() is other
