"""What the search loop itself promises, beyond what every attack owes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.attacks import apgd, apgd_t, pgd
from crossguard.core import Feature
from tests.models_for_tests import Linear, Mixed


class Split(nn.Module):
    """A Branched model; `fuse_scale` != 1 makes its branches another function than itself, `noise` a random one."""

    modalities = ("a", "b")

    def __init__(self, fuse_scale: float = 1.0, noise: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.maps = nn.ModuleDict({"a": nn.Linear(6, 8), "b": nn.Linear(4, 8)})
        self.head = nn.Linear(8, 3)
        self.fuse_scale, self.noise = fuse_scale, noise
        self.encoded = 0

    def encode(self, name: str, x: Tensor, mask: Tensor | None = None) -> Feature:
        self.encoded += name == "b"
        value = self.maps[name](x)
        return Feature(value + self.noise * torch.randn_like(value))

    def fuse(self, features: dict[str, Feature], need: Any = ()) -> cg.Output:
        return cg.Output(self.head(torch.tanh(self.fuse_scale * (features["a"].value + features["b"].value))))

    def forward(self, inputs: cg.Inputs) -> Tensor:
        value = {n: self.encode(n, inputs[n]).value for n in self.modalities}
        return self.head(torch.tanh(value["a"] + value["b"]))


def _inputs(n: int = 24) -> cg.Inputs:
    generator = torch.Generator().manual_seed(3)
    return {"a": torch.randn(n, 6, generator=generator), "b": torch.randn(n, 4, generator=generator)}


class _Ordered(nn.Module):
    """A model that takes its inputs by their order."""

    def forward(self, inputs: cg.Inputs) -> Tensor:
        first, second = inputs.values()
        return first[:, :3] - 2 * second[:, :3]


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_order_of_the_inputs_is_kept(name: str) -> None:
    inputs = _inputs()
    targets = _Ordered()(inputs).argmax(dim=1)
    found = pgd(_Ordered(), inputs, targets, cg.ThreatModel({name: cg.Linf(0.1)}), steps=2)
    assert torch.allclose(found.margin, cg.SingleLabel(3).margin(_Ordered()(found.inputs), targets))


@pytest.mark.parametrize(("options", "runs"), [({}, 3), ({"fuse_scale": -1.0}, 9), ({"noise": 1.0}, 9)])
def test_branches_run_apart_only_where_they_give_what_the_model_says(options: dict[str, float], runs: int) -> None:
    model, inputs = Split(**options), _inputs()
    targets = Split()(inputs).argmax(dim=1)
    result = pgd(model, inputs, targets, cg.ThreatModel(a=cg.Linf(0.4)), steps=8, stop="never", ids=list(range(24)))
    assert model.encoded <= runs if runs == 3 else model.encoded >= runs
    if not model.noise:
        honest = pgd(Split(), inputs, targets, cg.ThreatModel(a=cg.Linf(0.4)), steps=8, stop="never", ids=range(24))
        assert torch.allclose(result.margin, honest.margin, atol=1e-5)


class Coarse(nn.Module):
    """Right by a hair that bfloat16 rounds away: in float32 the clean margin is 0.25 on logits of 200."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(1, 2, bias=False)
        self.map.weight.data = torch.tensor([[1.0], [-1.0]])
        self.spot: list[torch.dtype] = []

    def forward(self, inputs: cg.Inputs) -> Tensor:
        logits = self.map(inputs["a"])
        self.spot.append(logits.dtype)
        return logits + torch.tensor([200.0, 200.0]).to(logits)


@pytest.mark.parametrize("stop", ["success", "never"])
def test_what_bfloat16_believes_counts_only_if_float32_confirms_it(stop: str) -> None:
    model = Coarse()
    x = {"a": torch.linspace(0.05, 0.5, 16)[:, None]}
    targets = torch.zeros(16, dtype=torch.long)
    threat = cg.ThreatModel(a=cg.Linf(0.2))
    exact = pgd(model, x, targets, threat, steps=20, stop=stop, ids=list(range(16)))
    fast = pgd(model, x, targets, threat, steps=20, stop=stop, ids=list(range(16)), precision=torch.bfloat16)
    assert torch.bfloat16 in model.spot
    assert torch.equal(exact.success, x["a"][:, 0] <= 0.2)
    assert torch.equal(fast.success, fast.margin <= 0)
    assert torch.allclose(fast.margin, 2 * fast.inputs["a"][:, 0], atol=1e-4)
    if stop == "success":  # what float32 did not confirm was searched again
        assert torch.equal(fast.success, exact.success)
    assert fast.margin.dtype == torch.float32


def test_what_cannot_be_compiled_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no compiler here")

    model, inputs = Mixed().eval(), _inputs()
    targets = model(inputs).argmax(dim=1)
    threat = cg.ThreatModel(a=cg.Linf(0.3), b=cg.Linf(0.3))
    expected = pgd(model, inputs, targets, threat, steps=5)
    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match="runs uncompiled"):
        found = pgd(model, inputs, targets, threat, steps=5, compiled=True)
    assert torch.equal(found.success, expected.success)
    assert (found.forwards, found.backwards) == (expected.forwards, expected.backwards)


def test_the_models_own_error_is_not_taken_for_the_compilers() -> None:
    class Broken(nn.Module):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            raise ZeroDivisionError

    with pytest.warns(UserWarning, match="uncompiled"), pytest.raises(ZeroDivisionError):
        pgd(Broken(), _inputs(), torch.zeros(24).long(), cg.ThreatModel(a=cg.Linf(0.3)), compiled=True)


STARTS = """
import hashlib, torch, crossguard as cg
from tests.models_for_tests import Linear

def starts(rows):
    generator = torch.Generator().manual_seed(0)
    x = {"a": torch.randn(64, 7, 3, generator=generator)[rows], "b": torch.rand(64, 5, generator=generator)[rows]}
    box = {"bounds": (-9, 9)}
    found = b""
    for make in (cg.Linf, cg.L2, cg.L1, cg.L0, cg.SNR):
        threat = cg.ThreatModel(a=make(2.0, **box), b=make(3.0, **box))
        model = Linear({"a": (7, 3), "b": (5,)})
        result = cg.attacks.pgd(model, x, torch.zeros(len(rows)).long(), threat, steps=0, stop="never", select="last",
                                ids=[f"clip {i}" for i in rows], seed=3)
        found += b"".join(result.inputs[n][i].numpy().tobytes() for i in torch.tensor(rows).argsort() for n in x)
    return hashlib.sha256(found).hexdigest()
"""


def test_starts_are_the_same_in_any_order_batch_and_process() -> None:
    scope: dict[str, Any] = {}
    exec(STARTS, scope)
    starts = scope["starts"]
    assert starts(list(range(64))) == starts(list(range(63, -1, -1)))
    for rows in ([5], list(range(16)), [*range(40, 64), *range(8)]):
        other = subprocess.run(
            [sys.executable, "-c", f"{STARTS}\nprint(starts({rows}))"], capture_output=True, text=True, check=True
        )
        assert starts(rows) == other.stdout.strip()
    assert starts([5]) != starts([6])


@pytest.mark.slow
@pytest.mark.parametrize("model", [Mixed().eval(), Split()], ids=["plain", "branched"])
def test_compiled_steps_find_the_same(model: nn.Module, recwarn: pytest.WarningsRecorder) -> None:
    inputs = _inputs(29)
    targets = model(inputs).argmax(dim=1)
    threat = cg.ThreatModel(a=cg.Linf(0.4))
    expected = pgd(model, inputs, targets, threat, steps=12, ids=list(range(29)))
    found = pgd(model, inputs, targets, threat, steps=12, ids=list(range(29)), compiled=True)
    assert not [w for w in recwarn if "uncompiled" in str(w.message)]
    assert torch.equal(found.success, expected.success)
    assert torch.allclose(found.margin, expected.margin, atol=1e-5)


@pytest.mark.parametrize("options", [{"select": "bst"}, {"stop": "nver"}, {"step_size": -0.1}])
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any]) -> None:
    x = {"a": torch.randn(4, 6), "b": torch.randn(4, 4)}
    with pytest.raises(cg.ThreatError, match=next(iter(options))):
        pgd(Split(), x, torch.zeros(4, dtype=torch.int64), cg.ThreatModel(a=cg.Linf(0.1)), **options)


def test_labels_may_be_bool() -> None:
    x = {"a": torch.randn(4, 6), "b": torch.randn(4, 4)}
    y, threat = torch.eye(3)[[0, 1, 2, 0]], cg.ThreatModel(a=cg.Linf(0.5))
    found = [pgd(Split(), x, t, threat, task=cg.MultiLabel(3)).inputs["a"] for t in (y, y.bool())]
    assert torch.equal(*found)


def test_a_trace_tells_every_step() -> None:
    class Half(nn.Module):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            return inputs["a"][:, :3] + 0.0 * inputs["b"][:, :3]

    inputs = _inputs()
    targets = Half()(inputs).argmax(dim=1)
    threat = cg.ThreatModel(a=cg.Linf(0.1), b=cg.Linf(0.1))
    result = pgd(Half(), inputs, targets, threat, steps=6, objective="margin", stop="never", trace=True)
    trace = result.trace
    assert trace is not None
    assert trace.loss.shape == (6, 24)
    assert trace.margin.shape == (7, 24)
    assert torch.allclose(trace.loss, -trace.margin[:-1])
    assert torch.allclose(trace.margin.amin(dim=0), result.margin)
    assert torch.allclose(trace.gradient["a"], torch.full((6, 24), 2.0).sqrt())
    assert not trace.gradient["b"].any()
    assert pgd(Half(), inputs, targets, threat, steps=6).trace is None
    with pytest.raises(cg.ThreatError, match="trace needs"):
        pgd(Half(), inputs, targets, threat, trace=True)


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("objective", ["targeted_dlr", "targeted_margin"])
def test_a_row_for_every_rival_finds_the_nearest_class(classes: int, objective: str) -> None:
    model = Linear({"a": (10,)}, classes=classes, seed=classes)
    x = {"a": torch.randn(32, 10, generator=torch.Generator().manual_seed(0))}
    logits = model(x)
    targets, w = logits.argmax(dim=1), model.maps["a"]
    result = apgd_t(model, x, targets, cg.ThreatModel(a=cg.Linf(0.2)), objective=objective, stop="never", steps=30)
    fall = 0.2 * (w[:, targets].T[:, :, None] - w[None]).abs().sum(dim=1)  # (N, classes): what eps takes from each lead
    lead = logits.gather(1, targets[:, None]) - logits - fall
    best = lead.scatter(1, targets[:, None], torch.inf).amin(dim=1)
    clean = (logits.gather(1, targets[:, None]) - logits).scatter(1, targets[:, None], torch.inf).amin(dim=1)
    assert (result.margin >= best - 1e-4).all()
    # The ratio's own spread of logits may be worth a little of the lead; the lead alone is climbed to its end.
    near = result.margin <= best + (0.1 if objective == "targeted_dlr" else 1e-3) * (clean - best)
    assert near.float().mean() >= (0.9 if objective == "targeted_dlr" else 1.0)


def test_rivals_are_the_wrong_classes_by_rank() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0]])
    single, several = cg.SingleLabel(4), cg.MultiLabel(4)
    assert single.rivals(logits, torch.tensor([2]), 9).tolist() == [[0, 1, 3]]
    assert several.rivals(logits, torch.tensor([[1, 0, 1, 0]]), 2).tolist() == [[1, 3]]
    with pytest.raises(cg.ThreatError, match="only 1 wrong"):
        apgd_t(Linear({"a": (2,)}), {"a": torch.randn(4, 2)}, torch.zeros(4).long(), cg.ThreatModel(a=cg.Linf(0.1)), rivals=(3,))  # fmt: skip # noqa: E501
    with pytest.raises(cg.ThreatError, match="rival classes"):
        apgd(Linear({"a": (2,)}), {"a": torch.randn(4, 2)}, torch.zeros(4).long(), cg.ThreatModel(a=cg.Linf(0.1)), objective="targeted_dlr")  # fmt: skip # noqa: E501


@pytest.mark.parametrize("outputs", [1, 2, 3, 8])
@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("attack", [apgd_t, lambda *a, **k: apgd(*a, objective="dlr", **k)], ids=["apgd_t", "dlr"])
def test_few_outputs_are_no_trouble(outputs: int, multi: bool, attack: Any) -> None:
    model = Linear({"a": (5,)}, classes=outputs)
    x = {"a": torch.randn(16, 5, generator=torch.Generator().manual_seed(1))}
    logits = model(x)
    targets = (logits > 0).long() if multi else logits.argmax(dim=1)
    task = cg.MultiLabel(outputs) if multi else cg.SingleLabel(outputs)
    clean = task.margin(logits, targets)
    result = attack(model, x, targets, cg.ThreatModel(a=cg.Linf(0.1)), steps=20, task=task)
    assert result.margin.isfinite().all()
    assert (result.margin <= clean + 1e-6).all()
    assert ((result.margin < clean - 1e-3) | (clean <= 0)).float().mean() > 0.9


BUDGETS = {
    "linf": cg.Linf(0.1, bounds=(0, 1)),
    "l2": cg.L2(0.5, bounds=(0, 1)),
    "l1": cg.L1(1.5, bounds=(0, 1)),
    "l0": cg.L0(4, bounds=(0, 1)),
    "snr": cg.SNR(12.0, bounds=(0, 1)),
    "codes": cg.Linf(0.1, bounds=(0, 1), constraints=(cg.threat.PIXELS8,)),
    "codes l1": cg.L1(1.5, bounds=(0, 1), constraints=(cg.threat.PIXELS8,)),
    "frames": cg.Linf(0.3, bounds=(0, 1), constraints=(cg.threat.Frames(2, axis=1),)),
    "fixed": cg.Linf(0.3, bounds=(0, 1), constraints=(cg.threat.FixedJoints((0,)),)),
}


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize("attack", [pgd, apgd, apgd_t, cg.attacks.mi_fgsm, cg.attacks.fgsm, cg.attacks.square])
def test_every_attack_runs_under_every_budget(name: str, attack: Any) -> None:
    budget = BUDGETS[name]
    model = Linear({"a": (6, 5)}, classes=4)
    clean = (torch.rand(16, 6, 5, generator=torch.Generator().manual_seed(2)) * 255).round() / 255
    x = {"a": clean}
    targets = model(x).argmax(dim=1)
    options: dict[str, Any] = {"queries": 60} if attack is cg.attacks.square else {}
    result = attack(model, x, targets, cg.ThreatModel(a=budget), stop="never", **options)
    task = cg.SingleLabel(4)
    assert budget.contains(result.inputs["a"], clean).all()
    assert torch.equal(result.success, result.margin <= 0)
    assert torch.allclose(task.margin(model(result.inputs), targets), result.margin, atol=1e-6)
    assert (result.margin < task.margin(model(x), targets)).float().mean() > 0.7
    if "codes" in name:
        changed = result.inputs["a"] != clean
        assert torch.equal(result.inputs["a"][changed], (result.inputs["a"][changed] * 255).round() / 255)


def test_aligned_frames_change_together() -> None:
    shapes = {"a": (8, 3), "b": (4, 2)}
    model = Linear(shapes, classes=3)
    x = {n: torch.randn(12, *s, generator=torch.Generator().manual_seed(4)) for n, s in shapes.items()}
    targets = model(x).argmax(dim=1)
    threat = cg.ThreatModel(a=cg.Linf(0.5), b=cg.Linf(0.5), frames=cg.threat.AlignedFrames(1, {"a": 1, "b": 1}))
    result = pgd(model, x, targets, threat, stop="never", steps=20)
    a, b = ((result.inputs[n] != x[n]).any(dim=2) for n in shapes)
    assert ((a.view(12, 4, 2).any(dim=2) | b).sum(dim=1) <= 1).all()
    assert threat.contains(result.inputs, x).all()


def test_a_target_is_not_followed_by_an_attack_that_aims_at_rivals() -> None:
    model, inputs = Linear({"a": (6,)}, classes=4), {"a": torch.randn(5, 6)}
    threat, targets = cg.ThreatModel(a=cg.Linf(0.1)), torch.zeros(5, dtype=torch.int64)
    with pytest.raises(cg.ThreatError, match="targeted=True beside rivals"):
        cg.attacks.apgd_t(model, inputs, targets, threat, targeted=True)


def test_a_target_is_followed_by_the_ratio_as_far_as_by_the_margin() -> None:
    torch.manual_seed(0)
    model, inputs = Linear({"a": (6,)}, classes=5), {"a": torch.randn(24, 6)}
    targets = (model(inputs).argmax(dim=1) + 1) % 5
    threat, options = cg.ThreatModel(a=cg.Linf(0.3)), {"stop": "never", "targeted": True, "steps": 40}
    found = {
        o: cg.attacks.apgd(model, inputs, targets, threat, objective=o, **options).margin for o in ("dlr", "margin")
    }
    assert (found["dlr"] - found["margin"]).mean() > -0.05 * found["margin"].abs().mean()


def test_the_last_points_are_those_of_all_samples_or_refused() -> None:
    model, inputs = Linear({"a": (6,), "b": (4,)}), {"a": torch.randn(8, 6), "b": torch.randn(8, 4)}
    targets = 1 - model(inputs).argmax(dim=1)  # all wrong already
    threat = cg.ThreatModel(a=cg.Linf(0.1), b=cg.Linf(0.1))
    last = pgd(model, inputs, targets, threat, select="last", stop="success", steps=3)
    assert all((last.inputs[n] != x).any(dim=1).all() for n, x in inputs.items())
    one = cg.ThreatModel(threat.budgets, at_most=1)
    with pytest.raises(cg.ThreatError, match='select="last" looks at no point'):
        pgd(model, inputs, targets, one, select="last", stop="never", steps=3)
    for plan in ({"restarts": 3}, {"rivals": 2}):
        attack = pgd if "restarts" in plan else apgd_t
        with pytest.raises(cg.ThreatError, match='select="last" looks at no point'):
            attack(model, inputs, targets, threat, select="last", stop="never", steps=3, **plan)


class Skips(nn.Module):
    """A model that does not run the branch of what no sample of a batch has."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 3), nn.Linear(4, 3)

    def forward(self, inputs: cg.Inputs, mask: dict[str, Tensor] | None = None) -> Tensor:
        there = torch.ones(len(inputs["b"]), dtype=torch.bool) if mask is None else mask["b"]
        answer = self.a(inputs["a"])
        return answer + self.b(inputs["b"]) * there[:, None] if bool(there.any()) else answer


@pytest.mark.parametrize("absent", ["the first", "all but one", "all"])
@pytest.mark.parametrize("attack", [pgd, apgd, cg.worst_case])
def test_a_branch_that_is_skipped_is_attacked_where_it_is_there(attack: Any, absent: str) -> None:
    model = Skips()
    inputs = {"a": torch.randn(40, 6), "b": torch.randn(40, 4)}
    there = torch.arange(40) > {"the first": 0, "all but one": 38, "all": 40}[absent]
    mask = {"b": there}
    targets = model(inputs, mask).argmax(dim=1)
    threat = cg.ThreatModel(a=cg.Linf(0.2), b=cg.Linf(0.5))
    found = attack(model, inputs, targets, threat, mask=mask)
    # Of a linear model the optimum is known: each class apart, all weights pushed by the whole budget.
    logits, rows = model(inputs, mask), torch.arange(40)
    reach = torch.zeros(40, 3)
    for layer, eps, real in ((model.a, 0.2, torch.ones(40)), (model.b, 0.5, there.float())):
        gap = layer.weight[targets][:, None] - layer.weight[None]  # (N, C, D)
        reach += eps * gap.abs().sum(dim=2) * real[:, None]
    margin = logits[rows, targets][:, None] - logits - reach
    margin[rows, targets] = torch.inf
    fooled = margin.amin(dim=1) <= 0
    assert not bool((found.success & ~fooled).any())
    assert int(found.success.sum()) >= 0.9 * int(fooled.sum()) > 0
    assert torch.equal(found.inputs["b"][~there], inputs["b"][~there])


@pytest.mark.parametrize("attack", [pgd, apgd, apgd_t])
def test_under_the_callers_autocast_objectives_climb_float32(attack: Any) -> None:
    seen: list[torch.dtype] = []

    class Watched(cg.SingleLabel):
        def slope(self, logits: Tensor, targets: Tensor) -> Tensor:
            seen.append(logits.dtype)
            return super().slope(logits, targets)

        def margin(self, logits: Tensor, targets: Tensor) -> Tensor:
            seen.append(logits.dtype)
            return super().margin(logits, targets)

    inputs = {"a": torch.randn(8, 6), "b": torch.randn(8, 4)}
    threat = cg.ThreatModel(a=cg.Linf(0.05), b=cg.Linf(0.5))
    with torch.autocast("cpu", torch.bfloat16):
        attack(Skips(), inputs, torch.zeros(8).long(), threat, task=Watched(3), steps=3, stop="never")
    assert set(seen) == {torch.float32}
