"""The indicators, the views that mend gradients, and what is said of attacks that fail."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.attacks import AttackResult, Trace
from crossguard.core.random import sample_keys
from crossguard.diagnostics import failures
from crossguard.diagnostics.failures import Smoothed, StraightThrough, indicators
from crossguard.diagnostics.failures.study import Study
from tests.evaluation.models import Linear, linear, samples

THREAT = cg.ThreatModel(a=cg.Linf(0.12), b=cg.Linf(0.2))


class Through(nn.Module):
    """Logits (s, 0), s the sum of what a function makes of input a."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: cg.Inputs) -> Tensor:
        s = self.function(inputs["a"]).sum(dim=1)
        return torch.stack([s, torch.zeros_like(s)], dim=1)


def without_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 2


BLOCKED: dict[str, Callable[[Tensor], Tensor]] = {
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "no_grad": without_grad,
    "round": lambda x: (x * 8).round() / 8,
    "floor": lambda x: torch.floor(x * 8),
    "sign": lambda x: x.sign(),
    "clamp": lambda x: x.clamp(5, 6),
    "cast": lambda x: ((x.clamp(-1, 1) + 1) * 100).to(torch.uint8).float(),
    "long": lambda x: (x * 10).long().to(x.dtype),
    "numpy": lambda x: torch.from_numpy(np.round(x.detach().numpy())),
    "numpy_later": lambda x: torch.as_tensor(np.round(x.detach().cpu().numpy() * 4)).double().float() / 4,
    "compared": lambda x: (x > 0).float(),
    "compared_below": lambda x: 1 - (x < 0.1).to(x.dtype),
    "chosen": lambda x: torch.where(x > 0, 1.0, -1.0).to(x.dtype),
    "sigmoid": lambda x: torch.sigmoid(400 * (x + 5)),
    "tanh": lambda x: torch.tanh(400 * (x + 5)),
    "softmax": lambda x: torch.stack([400 * x + 4000, 0 * x], dim=2).softmax(dim=2)[..., 0],
}


@pytest.mark.parametrize("name", sorted(BLOCKED))
def test_gradients_go_through_what_blocks_them(name: str) -> None:
    model = Through(BLOCKED[name])
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    plain = model({"a": x})
    assert not plain.requires_grad or not torch.autograd.grad(plain[:, 0].sum(), x)[0].any(), "it is blocked"
    seen = StraightThrough(model)({"a": x}).logits
    assert torch.equal(seen, plain), "the same logits, to the bit"
    gradient = torch.autograd.grad(seen[:, 0].sum(), x)[0]
    assert torch.isfinite(gradient).all()
    assert (gradient > 0).all(), "each of these functions rises"


def test_an_honest_model_has_its_own_gradients() -> None:
    batch = samples(linear(6, 4))
    model = linear(6, 4)
    x = batch.inputs["a"].clone().requires_grad_()
    inputs = {**batch.inputs, "a": x}
    own = torch.autograd.grad(model(inputs)[:, 0].sum(), x)[0]
    for seen in (StraightThrough(model), Smoothed(model, THREAT)):
        logits = seen(inputs).logits
        assert torch.equal(logits, model(inputs))
        torch.testing.assert_close(torch.autograd.grad(logits[:, 0].sum(), x)[0], own)


def test_an_integer_that_must_be_one_stays_one() -> None:
    table = torch.randn(9)
    model = Through(lambda x: table[x.abs().clamp(0, 8).long()] + x.detach())
    x = torch.randn(5, 6).requires_grad_()
    seen = StraightThrough(model)({"a": x}).logits
    assert torch.equal(seen, model({"a": x}))
    assert torch.autograd.grad(seen[:, 0].sum(), x)[0].any()


def test_without_gradients_to_compute_the_model_runs_as_it_is() -> None:
    model = Through(lambda x: x.round())
    with torch.no_grad():
        for seen in (StraightThrough(model), Smoothed(model, cg.ThreatModel(a=cg.Linf(0.1)))):
            assert not seen({"a": torch.randn(3, 2)}).logits.requires_grad


def test_smoothed_gradients_do_not_depend_on_the_batch() -> None:
    model, x = Through(lambda x: (9 * x).sin()), torch.randn(7, 4).double().requires_grad_()
    seen = Smoothed(model, cg.ThreatModel(a=cg.Linf(0.5)), draws=4)
    whole = torch.autograd.grad(seen({"a": x}).logits.sum(), x)[0]
    alone = [torch.autograd.grad(seen({"a": x[i : i + 1]}).logits.sum(), x)[0][i] for i in range(7)]
    torch.testing.assert_close(whole, torch.stack(alone))
    assert not torch.allclose(whole, 9 * (9 * x).cos()), "they are smoothed"
    with pytest.raises(cg.ModelError, match="draws"):
        Smoothed(model, THREAT, draws=0)


def test_indicators_read_a_trace() -> None:
    margin = torch.tensor([[3.0, 3.0, 3.0, 3.0], [2.0, -1.0, 2.0, 2.0], [1.0, 1.0, 2.0, -1.0], [0.5, 1.0, 2.0, -1.0]])
    norm = {"a": torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]])}
    trace = Trace(-margin[:-1], margin, norm)
    success = torch.tensor([False, False, False, True])
    result = AttackResult({}, success, margin[-1], margin[-1], 0, 0, {}, {}, THREAT, trace)
    assert indicators.unavailable_gradients(trace, "a").tolist() == [False, False, True, False]
    assert indicators.silent_success(result).tolist() == [False, True, False, False]
    assert indicators.incomplete_optimization(trace).tolist() == [True, False, False, False]


def study(model: nn.Module, batch: cg.Batch) -> Study:
    keys = sample_keys(batch.ids, batch.inputs)
    return Study(model, batch.inputs, batch.targets, {}, keys, THREAT, cg.SingleLabel(2), 0, 20)


def test_what_a_gradient_foretells_is_no_jump() -> None:
    honest = linear(6, 4)
    batch = samples(honest, 40, wrong=0.0)

    class Steps(Linear):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            return super().forward({m: x + (30 * x).floor().detach() for m, x in inputs.items()})

    for model, low, high in ((honest, 0.0, 1e-3), (Steps(dict(honest.w)), 0.5, 1.0)):
        about = study(model, batch)
        margin, slopes = about.slopes()
        assert slopes["a"] is not None
        share = indicators.unexplained(about, "a", margin, slopes["a"]).mean()
        assert low <= float(share) <= high


def names(found: list[cg.diagnostics.Failure]) -> set[tuple[str, str | None]]:
    return {(f.name, f.modality) for f in found}


def test_a_surrogate_that_misleads_is_found_out_and_the_model_itself_attacked() -> None:
    model = linear(6, 4)
    other = Linear({m: w * torch.where(torch.arange(len(w)) % 3 == 0, 1.0, -0.2) for m, w in model.w.items()})
    batch = samples(model, 60, wrong=0.0)
    keep = [i for i, y in enumerate((other.score(batch.inputs) <= 0).long()) if y == batch.targets[i]]
    batch, threat = batch.take(keep), cg.ThreatModel(a=cg.Linf(0.6))
    found = failures(model, batch.inputs, batch.targets, threat, ids=batch.ids, surrogate=other)
    assert ("transfer_failure", "a") in names(found)
    assert next(f for f in found if f.name == "transfer_failure").remedies["margin"] > 0
    assert "transfer_failure" not in {f.name for f in failures(model, batch.inputs, batch.targets, threat)}


def test_a_model_that_optimizes_while_it_answers_is_found_out() -> None:
    class Purified(Linear):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            with torch.enable_grad():
                x = inputs["a"].detach().clone().requires_grad_()
                slope = torch.autograd.grad(super().forward({**inputs, "a": x})[:, 0].abs().sum(), x)[0]
            return super().forward({**inputs, "a": inputs["a"] + 0.01 * slope})

    model = Purified(dict(linear(6, 4).w))
    batch = samples(model, 40, wrong=0.0)
    assert ("optimizes_at_test_time", None) in names(failures(model, batch.inputs, batch.targets, THREAT))


def test_gradients_that_point_the_wrong_way_are_found_out() -> None:
    class Decoy(Linear):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            logits = super().forward(inputs)
            return logits.detach() - (logits - logits.detach())

    model = Decoy(dict(linear(6, 4).w))
    batch = samples(model, 24, wrong=0.0)
    found = failures(model, batch.inputs, batch.targets, THREAT, ids=batch.ids, steps=8)
    blind = {"unbounded_attack_fails", "square_beats_attack", "unstable_predictions"}
    assert blind <= {f.name for f in found}
    assert next(f for f in found if f.name == "unbounded_attack_fails").remedy == "straight_through"
    short = failures(model, batch.inputs, batch.targets, THREAT, ids=batch.ids, steps=8, unbounded=False)
    assert {f.name for f in short} == {f.name for f in found} - {"unbounded_attack_fails"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_honest_linear_model_is_not_accused(dtype: torch.dtype) -> None:
    for seed in range(3):
        model = linear(6, 4, seed=seed).to(dtype)
        batch = samples(linear(6, 4, seed=seed), 48, seed=seed)
        inputs = {m: x.to(dtype) for m, x in batch.inputs.items()}
        assert failures(model, inputs, batch.targets, THREAT, ids=batch.ids) == []


def test_several_labels_masks_and_unused_modalities_are_not_accused() -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 6)

    class Several(nn.Module):
        def forward(self, inputs: cg.Inputs, mask: cg.Inputs | None = None) -> Tensor:
            x = inputs["a"] * (mask or {}).get("a", torch.ones(len(inputs["a"]))).reshape(-1, 1)
            return x @ weight

    inputs = {"a": torch.randn(40, 8), "b": torch.randn(40, 3)}
    mask = {"a": torch.arange(40) % 4 > 0}
    with torch.no_grad():
        targets = (Several()(inputs, mask) > 0).long()
    threat = cg.ThreatModel(a=cg.Linf(0.1), b=cg.L2(0.5))
    assert failures(Several(), inputs, targets, threat, mask=mask) == []


def test_what_is_wrong_already_says_nothing_and_what_cannot_be_meant_is_refused() -> None:
    model = linear(6, 4)
    batch = samples(model, 20, wrong=0.0)
    assert failures(model, batch.inputs, 1 - batch.targets, THREAT) == []
    assert failures(model, batch.inputs, batch.targets, cg.ThreatModel(a=cg.Linf(0.0))) == []
    with pytest.raises(cg.InputError, match="ids"):
        failures(model, batch.inputs, batch.targets, THREAT, ids=["one"])


def test_the_model_comes_back_as_it_was_and_the_answer_is_the_same_again() -> None:
    class Noisy(Linear):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            return super().forward({m: x + 0.1 * torch.randn_like(x) for m, x in inputs.items()})

    model = Noisy(dict(linear(6, 4).w)).train()
    batch = samples(linear(6, 4), 24, wrong=0.0)
    state = torch.random.get_rng_state()
    found = [failures(model, batch.inputs, batch.targets, THREAT, ids=batch.ids, steps=10) for _ in range(2)]
    assert found[0] == found[1]
    assert ("random_predictions", None) in names(found[0])
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
