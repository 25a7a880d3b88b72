"""One table over all attacks: what every attack owes, whatever its algorithm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import crossguard as cg
from crossguard.attacks import AttackResult, apgd, fgsm, judge, mi_fgsm, noise, pgd, square
from tests.models_for_tests import Linear, Mixed

Attack = Callable[..., AttackResult]
ATTACKS: dict[str, tuple[Attack, dict[str, Any]]] = {
    "fgsm": (fgsm, {}),
    "pgd": (pgd, {"steps": 8}),
    "pgd margin": (pgd, {"steps": 8, "objective": "margin"}),
    "pgd restarts": (pgd, {"steps": 4, "restarts": 3}),
    "noise": (noise, {"trials": 4}),
    "apgd": (apgd, {"steps": 10}),
    "apgd dlr": (apgd, {"steps": 10, "objective": "dlr"}),
    "mi_fgsm": (mi_fgsm, {"steps": 6}),
    "square": (square, {"queries": 30}),
}
THREATS = {
    "linf": cg.ThreatModel(a=cg.Linf(0.2, bounds=(0, 1)), b=cg.Linf(0.3)),
    "l2": cg.ThreatModel(a=cg.L2(0.4, bounds=(0, 1)), b=cg.L2(0.3)),
    "one": cg.ThreatModel(b=cg.Linf(0.5)),
    "mixed at most one": cg.ThreatModel(a=cg.Linf(0.2, bounds=(0, 1)), b=cg.L2(1.0), at_most=1),
}


@pytest.fixture(params=ATTACKS)
def attack(request: pytest.FixtureRequest) -> Attack:
    function, options = ATTACKS[request.param]
    return lambda *args, **more: function(*args, **{**options, **more})


def _case(
    n: int = 32, multi: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[Mixed, cg.Inputs, torch.Tensor]:
    torch.manual_seed(1)
    model = Mixed().to(dtype)
    inputs = {"a": torch.rand(n, 6, dtype=dtype), "b": torch.randn(n, 4, dtype=dtype)}
    model.eval()
    logits = model(inputs)
    targets = (logits > logits.median()).long() if multi else logits.argmax(dim=1)
    return model.train(), inputs, targets.detach()


@pytest.mark.parametrize("threat", THREATS.values(), ids=THREATS)
@pytest.mark.parametrize("stop", ["success", "never"])
@pytest.mark.parametrize("multi", [False, True])
def test_what_is_returned_is_allowed_and_true(attack: Attack, threat: cg.ThreatModel, stop: str, multi: bool) -> None:
    model, inputs, targets = _case(multi=multi)
    result = attack(model, inputs, targets, threat, stop=stop)
    assert threat.contains(result.inputs, inputs).all()
    task = cg.MultiLabel(3) if multi else cg.SingleLabel(3)
    margin = task.margin(model.eval()(result.inputs), targets)
    assert torch.allclose(result.margin, margin, atol=1e-5)
    assert torch.equal(result.success, margin <= 0)
    for name in inputs:
        if name not in threat.budgets:
            assert result.inputs[name] is inputs[name]
    for name, budget in threat.budgets.items():
        assert (result.distance[name] <= budget.eps * 1.001).all()


def test_a_budget_of_zero_changes_nothing(attack: Attack) -> None:
    model, inputs, targets = _case()
    result = attack(model, inputs, targets, cg.ThreatModel(a=cg.Linf(0.0, bounds=(0, 1)), b=cg.L2(0.0)))
    assert result.inputs["a"] is inputs["a"]
    assert not result.success.any()
    assert result.backwards == 0


def test_what_is_already_wrong_is_left_alone(attack: Attack) -> None:
    model, inputs, targets = _case()
    result = attack(model, inputs, (targets + 1) % 3, THREATS["linf"])
    assert result.success.all()
    assert torch.equal(result.inputs["a"], inputs["a"])
    assert result.backwards == 0
    assert (result.steps == 0).all()


@pytest.mark.parametrize("threat", THREATS.values(), ids=THREATS)
def test_the_model_comes_back_as_it_was(attack: Attack, threat: cg.ThreatModel) -> None:
    model, inputs, targets = _case()
    model.norm.eval()
    model.a.weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rng = torch.get_rng_state()
    attack(model, inputs, targets, threat)
    assert model.training
    assert not model.norm.training
    assert [p.requires_grad for p in model.a.parameters()] == [False, True]
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert model.b.weight.grad is None
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert not inputs["a"].requires_grad


@pytest.mark.parametrize("stop", ["success", "never"])
def test_order_and_split_of_the_batch_do_not_matter(attack: Attack, stop: str) -> None:
    model, inputs, targets = _case(dtype=torch.float64)
    ids = [f"clip-{i}" for i in range(32)]
    whole = attack(model, inputs, targets, THREATS["l2"], ids=ids, stop=stop, seed=5)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0)).tolist()
    for rows in (order, order[:1], order[3:10]):
        part = attack(
            model, {k: v[rows] for k, v in inputs.items()}, targets[rows], THREATS["l2"], ids=[ids[i] for i in rows],
            stop=stop, seed=5,
        )  # fmt: skip
        assert torch.equal(part.success, whole.success[rows])
        assert torch.equal(part.steps, whole.steps[rows])
        for name in inputs:
            assert torch.allclose(part.inputs[name], whole.inputs[name][rows], atol=1e-9)


def test_an_unused_modality_changes_nothing(attack: Attack) -> None:
    model, inputs, targets = _case()
    ids = list(range(32))
    one = attack(model, inputs, targets, THREATS["linf"], ids=ids)
    two = attack(model, {**inputs, "c": torch.randn(32, 2)}, targets, THREATS["linf"], ids=ids)
    assert torch.equal(one.inputs["a"], two.inputs["a"])
    assert torch.equal(one.margin, two.margin)


def test_masked_parts_never_move(attack: Attack) -> None:
    model, inputs, targets = _case()
    mask = {"a": torch.rand(32, 6) > 0.5, "b": torch.zeros(32, dtype=torch.bool)}
    for threat in (THREATS["linf"], THREATS["l2"]):
        moved = attack(model, inputs, targets, threat, mask=mask, stop="never").inputs
        assert torch.equal(moved["a"][~mask["a"]], inputs["a"][~mask["a"]])
        assert torch.equal(moved["b"], inputs["b"])


def test_targeted_attacks_reach_their_target() -> None:
    model, inputs, targets = _case()
    wanted = (targets + 1) % 3
    threat = cg.ThreatModel(a=cg.L2(9.0), b=cg.L2(9.0))
    result = pgd(model, inputs, wanted, threat, targeted=True, steps=40)
    said = model.eval()(result.inputs).argmax(dim=1)
    assert torch.equal(result.success, said == wanted)
    assert result.success.float().mean() > 0.9
    assert (result.margin[result.success] >= 0).all()


def test_at_most_one_touches_one_modality_and_takes_the_better() -> None:
    model, inputs, targets = _case(64)
    threat = THREATS["mixed at most one"]
    result = pgd(model, inputs, targets, threat, ids=list(range(64)))
    changed = torch.stack([(result.inputs[m] != inputs[m]).any(dim=1) for m in inputs]).sum(dim=0)
    assert (changed <= 1).all()
    alone = [pgd(model, inputs, targets, threat.only(m), ids=list(range(64))).success for m in inputs]
    assert torch.equal(result.success, alone[0] | alone[1])


def test_restarts_never_hurt_and_start_apart() -> None:
    model, inputs, targets = _case(64)
    margins = [
        pgd(model, inputs, targets, THREATS["linf"], restarts=r, stop="never", ids=list(range(64))).margin
        for r in (1, 2, 4)
    ]
    assert (margins[1] <= margins[0] + 1e-6).all()
    assert (margins[2] <= margins[1] + 1e-6).all()
    assert (margins[2] < margins[0] - 1e-6).any()


def test_the_last_iterate_counts() -> None:
    # One margin step of the whole budget: only the point after the last update is fooled.
    model = Linear({"a": (4,)})
    x = {"a": torch.zeros(1, 4)}
    threat = cg.ThreatModel(a=cg.Linf(1.0))
    result = fgsm(model, x, torch.tensor([0]), threat, objective="margin", stop="never")
    assert result.success.all()


def test_work_is_counted_exactly() -> None:
    model = Linear({"a": (4,)})
    x = {"a": torch.randn(8, 4)}
    y = model(x).argmax(dim=1)
    threat = cg.ThreatModel(a=cg.Linf(1e-6))
    model.forwards = 0
    result = pgd(model, x, y, threat, steps=5, stop="never", select="last")
    assert (model.forwards, result.forwards, result.backwards) == (40, 40, 40)
    assert result.margin.isnan().all()
    for options in ({"stop": "never"}, {"stop": "success"}, {"restarts": 3}):
        model.forwards = 0
        result = pgd(model, x, y, threat, steps=5, **options)
        assert model.forwards == result.forwards


def test_fooled_samples_leave_at_once() -> None:
    """Sample-forwards are at most the sum of (index of the first fooling point looked at + 2)."""
    model, inputs, targets = _case(256)
    result = pgd(model, inputs, targets, cg.ThreatModel(a=cg.Linf(0.4), b=cg.Linf(0.5)), steps=30, step_size=0.02)
    first = torch.where(result.steps == 30, 30, result.steps) + 1  # the clean point is number 0, the start number 1
    assert result.success.any()
    assert not result.success.all()
    assert result.forwards <= int((first + 2).sum())
    assert result.backwards <= int(first.sum())


def test_starts_are_a_function_of_seed_and_sample() -> None:
    x = {"a": torch.randn(64, 6), "b": torch.randn(64, 4)}
    y = torch.zeros(64, dtype=torch.long)
    model = Linear({"a": (6,), "b": (4,)})
    for threat in (cg.ThreatModel(a=cg.Linf(0.1), b=cg.Linf(0.1)), cg.ThreatModel(a=cg.L2(0.1), b=cg.L2(0.1))):

        def starts(rows: list[int], seed: int, threat: cg.ThreatModel = threat) -> cg.Inputs:
            part = {k: v[rows] for k, v in x.items()}
            return pgd(model, part, y[rows], threat, steps=0, stop="never", select="last", seed=seed).inputs

        whole = starts(list(range(64)), 1)
        for rows in ([63], list(range(16)), list(range(63, -1, -1))):
            assert all(torch.equal(starts(rows, 1)[m], whole[m][rows]) for m in x)
        assert not torch.equal(starts([0], 2)["a"], whole["a"][:1])
        assert not torch.equal(whole["a"][:, :4] - x["a"][:, :4], whole["b"] - x["b"])


def test_a_given_start_is_climbed_from() -> None:
    model, inputs, targets = _case(64)
    ids = list(range(64))
    one = pgd(model, inputs, targets, THREATS["linf"].only("b"), ids=ids)
    both = pgd(model, inputs, targets, THREATS["linf"], ids=ids, steps=1, start=one.inputs)
    assert (both.success | ~one.success).all()
    assert (both.margin <= one.margin + 1e-6).all()


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ({"a": torch.zeros(4, 3)}, r"lack modality 'b' of the threat model, they name \['a'\]"),
        (
            {"a": torch.zeros(4, 3), "b": torch.zeros(4, 3)},
            r"'b': found shape \(4, 3\), expected that of the inputs, \(4, 2\)",
        ),
        ({"a": torch.zeros(3, 3), "b": torch.zeros(4, 2)}, r"'a': found shape \(3, 3\)"),
        ({"a": np.zeros((4, 3)), "b": torch.zeros(4, 2)}, "of 'a': found a ndarray"),
        (torch.zeros(4, 3), "expected a dict"),
    ],
)
def test_points_to_start_from_that_do_not_fit_are_refused(start: Any, said: str) -> None:
    model, threat = Linear({"a": (3,), "b": (2,)}), cg.ThreatModel(a=cg.Linf(0.1), b=cg.Linf(0.1))
    args = model, {"a": torch.zeros(4, 3), "b": torch.zeros(4, 2)}, torch.zeros(4, dtype=torch.long), threat
    for work in (lambda: pgd(*args, start=start), lambda: judge(*args, found=start)):
        with pytest.raises(cg.InputError, match=said):
            work()
    assert not model.forwards, "before any work"


def test_inference_mode_and_inference_tensors_are_fine(attack: Attack) -> None:
    model, inputs, targets = _case()
    expected = attack(model, inputs, targets, THREATS["linf"])
    with torch.inference_mode():
        copies = {k: v.clone() for k, v in inputs.items()}
        found = attack(model, copies, targets.clone(), THREATS["linf"])
    assert torch.equal(found.success, expected.success)


class _Branches(torch.nn.Module):
    """A Branched model that counts how often each branch runs."""

    modalities = ("a", "b")

    def __init__(self) -> None:
        super().__init__()
        self.maps = torch.nn.ModuleDict({"a": torch.nn.Linear(6, 8), "b": torch.nn.Linear(4, 8)})
        self.head = torch.nn.Linear(8, 3)
        self.runs = {"a": 0, "b": 0}

    def encode(self, name: str, x: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        from crossguard.core import Feature

        self.runs[name] += 1
        return Feature(self.maps[name](x))

    def fuse(self, features: dict[str, Any], need: Any = ()) -> cg.Output:
        return cg.Output(self.head(torch.tanh(features["a"].value + features["b"].value)))

    def forward(self, inputs: cg.Inputs, mask: Any = None, need: Any = ()) -> cg.Output:
        return self.fuse({n: self.encode(n, inputs[n]) for n in self.modalities})


@pytest.mark.parametrize("options", [{}, {"restarts": 3}, {"stop": "never"}])
def test_branches_that_are_not_attacked_run_once(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = _Branches()
    inputs = {"a": torch.randn(16, 6), "b": torch.randn(16, 4), "unknown": torch.randn(16, 2)}
    targets = model(inputs).logits.argmax(dim=1)
    threat = cg.ThreatModel(a=cg.Linf(0.05))
    model.runs = {"a": 0, "b": 0}
    fast = pgd(model, inputs, targets, threat, steps=10, ids=list(range(16)), **options)
    assert model.runs["b"] <= 3  # clean, cached, confirmation
    assert model.runs["a"] >= 10
    model.modalities = ()  # hides the branches: the slow way
    model.forward = lambda i, mask=None, need=(): _Branches.fuse(model, {n: model.encode(n, i[n]) for n in "ab"})
    slow = pgd(model, inputs, targets, threat, steps=10, ids=list(range(16)), **options)
    assert torch.allclose(fast.margin, slow.margin, atol=1e-5)
    assert torch.equal(fast.success, slow.success)


class _Detached(torch.nn.Module):
    def forward(self, inputs: cg.Inputs) -> torch.Tensor:
        return inputs["a"] + inputs["b"].detach()


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "absent modality": ({"threat": cg.ThreatModel(c=cg.Linf(0.1))}, cg.ThreatError, "'c'"),
    "batch sizes": ({"targets": torch.zeros(5, dtype=torch.long)}, cg.InputError, "samples"),
    "ids": ({"ids": ["x"]}, cg.InputError, "1 ids for 4"),
    "targets out of range": ({"targets": torch.full((4,), 7)}, cg.InputError, r"\[7, 7\]"),
    "float targets": ({"targets": torch.zeros(4)}, cg.InputError, "int64"),
    "integer inputs": ({"inputs": {"a": torch.zeros(4, 3, dtype=torch.long)}}, cg.InputError, "int64"),
    "NaN": ({"inputs": {"a": torch.full((4, 3), torch.nan)}}, cg.InputError, "NaN or Inf in 4 of 4"),
    "bounds": ({"threat": cg.ThreatModel(a=cg.Linf(0.1, bounds=(5, 6)))}, cg.ThreatError, "bounds"),
    "mask": ({"mask": {"a": torch.ones(4)}}, cg.InputError, "bool"),
    "no inputs": ({"inputs": {}}, cg.InputError, "no inputs"),
    "NaN beside": ({"inputs": {"a": torch.zeros(4, 3), "b": torch.full((4, 1), torch.inf)}}, cg.InputError, "'b': NaN"),
    "numpy inputs": ({"inputs": {"a": np.zeros((4, 3))}}, cg.InputError, "inputs of 'a': found a ndarray"),
    "numpy targets": ({"targets": np.zeros(4)}, cg.InputError, "targets: found a ndarray"),
    "a mask for all": ({"mask": torch.ones(4)}, cg.InputError, "mask: found a Tensor"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_the_first_step(case: str, attack: Attack) -> None:
    changes, error, words = BAD[case]
    model = Linear({"a": (3,)}, classes=3)
    arguments: dict[str, Any] = {
        "inputs": {"a": torch.zeros(4, 3)},
        "targets": torch.zeros(4, dtype=torch.long),
        "threat": cg.ThreatModel(a=cg.Linf(0.1)),
        "ids": None,
        "mask": None,
        **changes,
    }
    with pytest.raises(error, match=words):
        attack(model, arguments.pop("inputs"), arguments.pop("targets"), arguments.pop("threat"), **arguments)
    assert model.training


def test_a_detached_branch_is_told() -> None:
    x = {"a": torch.eye(3) * 9, "b": torch.zeros(3, 3)}
    with pytest.raises(cg.ModelError, match="no gradient for 'b'"):
        pgd(_Detached(), x, torch.arange(3), cg.ThreatModel(a=cg.Linf(0.1), b=cg.Linf(0.1)))
    with pytest.raises(cg.ModelError, match="no gradient"):
        pgd(_Detached(), x, torch.arange(3), cg.ThreatModel(b=cg.Linf(0.1)))


def test_impossible_plans_are_refused() -> None:
    x, y, threat = {"a": torch.zeros(2, 3)}, torch.zeros(2, dtype=torch.long), cg.ThreatModel(a=cg.Linf(0.1))
    for options in ({"steps": -1}, {"restarts": 0}, {"objective": "cross-entropy"}):
        with pytest.raises(cg.ThreatError):
            pgd(Linear({"a": (3,)}), x, y, threat, **options)


def test_an_empty_batch_is_fine(attack: Attack) -> None:
    model = Linear({"a": (3,)})
    result = attack(model, {"a": torch.zeros(0, 3)}, torch.zeros(0, dtype=torch.long), cg.ThreatModel(a=cg.Linf(0.1)))
    assert result.success.shape == (0,)


def test_float32_outcomes_hardly_depend_on_the_batch() -> None:
    model, inputs, targets = _case(400)
    ids = list(range(400))
    whole = pgd(model, inputs, targets, THREATS["linf"], ids=ids).success
    parts = [
        pgd(
            model,
            {k: v[i : i + 16] for k, v in inputs.items()},
            targets[i : i + 16],
            THREATS["linf"],
            ids=ids[i : i + 16],
        )
        for i in range(0, 400, 16)
    ]
    agree = torch.cat([p.success for p in parts]) == whole
    assert agree.float().mean() >= 0.995


BUDGETS = {
    "linf": cg.Linf(0.1, bounds=(0, 1)),
    "l2": cg.L2(0.3, bounds=(0, 1)),
    "l1": cg.L1(0.3, bounds=(0, 1)),
    "l0": cg.L0(2, bounds=(0, 1)),
    "snr": cg.SNR(12.0),
}


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_no_samples_are_fine_within_any_budget(attack: Attack, budget: cg.threat.Budget) -> None:
    none = {"a": torch.zeros(0, 3)}
    for options in ({}, {"stop": "never"}):
        result = attack(Linear({"a": (3,)}), none, torch.zeros(0).long(), cg.ThreatModel(a=budget), **options)
        assert result.success.shape == result.size.shape == (0,)


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_a_modality_may_be_one_number_a_sample(attack: Attack, budget: cg.threat.Budget) -> None:
    class Sums(Linear):
        def forward(self, inputs: cg.Inputs) -> torch.Tensor:
            return super().forward({"a": inputs["a"] + inputs["b"][:, None] + inputs["id"][:, None] % 2})

    model = Sums({"a": (3,)})
    generator = torch.Generator().manual_seed(0)
    inputs = {"a": torch.rand(16, 3, generator=generator), "b": torch.rand(16, generator=generator)}
    inputs["id"] = torch.arange(16)
    targets = model(inputs).argmax(dim=1)
    for threat in (cg.ThreatModel(a=budget), cg.ThreatModel(b=budget), cg.ThreatModel(a=budget, b=budget, at_most=1)):
        result = attack(model, inputs, targets, threat)
        assert threat.contains(result.inputs, inputs).all()
        assert not result.size.isnan().any()


@pytest.mark.parametrize("absent", [True, False], ids=["absent", "silent"])
def test_a_modality_without_room_takes_no_share_of_its_budget(absent: bool) -> None:
    model, inputs, targets = _case()
    inputs["b"][::2] = 0
    mask = {"b": torch.arange(32) % 2 == 1} if absent else {}
    threat = cg.ThreatModel(a=cg.Linf(2.0), b=cg.SNR(20.0))
    result = pgd(model, inputs, targets, threat, mask=mask)
    assert result.success[::2].any()
    assert result.size[result.success].isfinite().all()
    assert result.size[::2].equal((result.distance["a"][::2] / 2).where(result.success[::2], torch.inf))


def test_padding_may_lie_outside_the_bounds(attack: Attack) -> None:
    model = Linear({"a": (6,)})
    x = {"a": torch.cat([torch.rand(4, 3) / 2 + 0.5, torch.zeros(4, 3)], dim=1)}
    mask = {"a": (torch.arange(6) < 3).expand(4, -1)}
    threat = cg.ThreatModel(a=cg.Linf(0.1, bounds=(0.5, 1)))
    result = attack(model, x, model(x).argmax(dim=1), threat, mask=mask)
    assert threat.contains(result.inputs, x, mask).all()
    with pytest.raises(cg.ThreatError, match="span"):
        attack(model, x, torch.zeros(4).long(), threat)
