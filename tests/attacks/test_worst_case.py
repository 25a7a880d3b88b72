"""worst_case: never weaker than its parts, at the optimum where that is known, and true in what it says of who broke
whom, how and at what cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.attacks import judge, worst_case
from crossguard.attacks.stages import EFFORTS, Stage, climb
from crossguard.attacks.worst_case import WorstCase
from tests.evaluation.models import Linear, linear, margins, samples

EPS = {"a": 0.12, "b": 0.2, "c": 0.05}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> tuple[Stage, ...]:
    """The thorough effort with fewer steps; every stage is there."""
    stages = tuple(replace(stage, steps=8 if stage.follows else 60) for stage in EFFORTS["thorough"])
    monkeypatch.setitem(EFFORTS, "thorough", stages)
    return stages


class MLP(nn.Module):
    """A network of random weights on two modalities, as wide in its answers as it is told."""

    def __init__(self, outputs: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, outputs)).double()

    def forward(self, inputs: cg.Inputs) -> Tensor:
        return self.net(torch.cat([inputs["a"], inputs["b"]], dim=1))


def case(outputs: int, kind: str = "single", n: int = 40) -> tuple[MLP, cg.Inputs, Tensor, cg.ThreatModel]:
    """Samples that the model gets right, at budgets that tell them apart."""
    model = MLP(outputs)
    generator = torch.Generator().manual_seed(1)
    inputs = {m: torch.randn(n, d, generator=generator, dtype=torch.float64) for m, d in (("a", 6), ("b", 4))}
    with torch.no_grad():
        logits = model(inputs)
    targets = (logits > logits.median()).long() if kind == "multi" else logits.argmax(dim=1)
    return model, inputs, targets, cg.ThreatModel(a=cg.Linf(0.06), b=cg.Linf(0.12))


IDS = list(range(40))


@pytest.mark.parametrize("effort", ["quick", "standard", "thorough"])
@pytest.mark.parametrize("norm", [1, 2])
def test_the_optimum_of_a_linear_model_is_reached(effort: str, norm: int, short: object) -> None:
    model = linear(6, 4).double()
    batch = samples(model.float(), 60)
    model, inputs = model.double(), {m: x.double() for m, x in batch.inputs.items()}
    scale, budget, dual = ((1.0, cg.Linf, 1), (2.0, cg.L2, 2))[norm - 1]
    threat = cg.ThreatModel({m: budget(scale * EPS[m]) for m in "ab"})
    loss = sum(scale * EPS[m] * model.w[m].detach().norm(p=dual) for m in "ab")
    worst = margins(model, batch.with_inputs(inputs)) - loss
    sure = worst.abs() > 1e-2
    found = worst_case(model, inputs, batch.targets, threat, effort=effort)  # pyright: ignore[reportArgumentType]
    assert torch.equal(found.success[sure], (worst <= 0)[sure])
    assert 10 < int(found.success.sum()) < 50, "the budget must tell samples apart"
    assert threat.contains(found.inputs, inputs).all()


def alone(stage: Stage, turn: int, names: tuple[str, ...], model: nn.Module, given: tuple) -> Tensor:
    inputs, targets, threat, task, ids = given
    settled = stage.settled(task)
    if settled is None:
        return torch.zeros(len(targets), dtype=torch.bool)
    return settled.run(model, inputs, targets, threat.only(*names), task=task, ids=ids, seed=turn - 1).success


def test_it_is_never_weaker_than_a_stage_alone(short: tuple[Stage, ...]) -> None:
    model, inputs, targets, threat = case(5)
    found = worst_case(model, inputs, targets, threat, ids=IDS)
    given = (inputs, targets, threat, cg.SingleLabel(5), IDS)
    strongest = torch.zeros_like(found.success)
    for turn, stage in enumerate(short, start=1):
        for names in (("a",), ("b",), ("a", "b")):
            fooled = alone(stage, turn, names, model, given)
            # Of both at once only the start differs: from the single points in the first stage.
            if len(names) == 1 or turn > 1:
                assert (found.success | ~fooled).all(), (stage.name, names)
            strongest |= fooled
    assert 0 < int(strongest.sum()) <= int(found.success.sum()) < len(targets)


def test_what_it_says_of_who_broke_a_sample_is_true(short: tuple[Stage, ...]) -> None:
    model, inputs, targets, threat = case(5)
    found = worst_case(model, inputs, targets, threat, ids=IDS)
    assert found.stages == ("clean", *(s.name for s in short))
    assert found.conditions == (("a",), ("b",), ("a", "b"))
    assert torch.equal(found.by >= 0, found.success)
    assert len(set(found.within[found.success].tolist())) == 3, "each condition must break some sample"
    for i in found.success.nonzero().flatten().tolist():
        names = found.conditions[int(found.within[i])]
        assert {m for m, changed in found.touched.items() if changed[i]} <= set(names)
        one = tuple(
            {m: x[i : i + 1] for m, x in t.items()} if isinstance(t, dict) else t[i : i + 1] for t in (inputs, targets)
        )
        point = {m: found.inputs[m][i : i + 1] for m in names}
        assert judge(model, *one, threat.only(*names), found=point).success.all()
        by = int(found.by[i])
        given = (*one, threat, cg.SingleLabel(5), [i])
        for turn in range(1, by + 1):
            for single in (("a",), ("b",)):
                before = turn < by or found.conditions.index(single) < int(found.within[i])
                fooled = bool(alone(short[turn - 1], turn, single, model, given))
                if before:
                    assert not fooled, "an earlier one had broken it"
                elif single == names:
                    assert fooled, "who is named does not break it"


def test_samples_that_are_wrong_already_are_said_to_be_and_stay_as_they_are() -> None:
    model, inputs, targets, threat = case(5)
    targets = torch.where(torch.arange(40) % 4 == 0, (targets + 1) % 5, targets)
    found = worst_case(model, inputs, targets, threat, effort="quick")
    wrong = torch.arange(40) % 4 == 0
    assert torch.equal(found.by == 0, wrong)
    assert (found.within[wrong] == -1).all()
    assert (found.cost["forwards"][wrong] == 1).all()
    assert (found.cost["backwards"][wrong] == 0).all()
    assert all(torch.equal(found.inputs[m][wrong], inputs[m][wrong]) for m in inputs)


class Counting(MLP):
    """Counts the rows that it is shown."""

    rows = 0

    def forward(self, inputs: cg.Inputs) -> Tensor:
        self.rows += len(inputs["a"])
        return super().forward(inputs)


def test_only_survivors_are_attacked_and_every_pass_is_counted(
    monkeypatch: pytest.MonkeyPatch, short: tuple[Stage, ...]
) -> None:
    shown: list[tuple[int, tuple[str, ...], int]] = []

    def watched(turn: int, stage: Stage) -> Callable[..., cg.attacks.AttackResult]:
        def attack(model: nn.Module, inputs: cg.Inputs, targets: Tensor, threat: cg.ThreatModel, **options: object):
            shown.append((turn, threat.names, len(targets)))
            return stage.attack(model, inputs, targets, threat, **options)

        return attack

    stages = tuple(replace(s, attack=watched(turn, s)) if s.follows else s for turn, s in enumerate(short, start=1))
    monkeypatch.setitem(EFFORTS, "thorough", stages)
    _, inputs, targets, threat = case(5)
    model = Counting(5)
    found = worst_case(model, inputs, targets, threat, ids=IDS)
    assert found.forwards == model.rows
    # One look at the first sample alone, with its gradient, belongs to no sample.
    assert found.forwards == int(found.cost["forwards"].sum()) + 1
    assert found.backwards == int(found.cost["backwards"].sum()) + 1
    for turn, names, count in shown:
        place = found.conditions.index(names)
        later = (found.by < 0) | (found.by > turn) | ((found.by == turn) & (found.within >= place))
        # Before a joint attack single points are tried at once, and what they break is not attacked again.
        assert count == int(later.sum()) if len(names) == 1 else count <= int(later.sum())
    counts = [count for _, names, count in shown if names == ("a",)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0]


def test_joint_is_never_weaker_than_single_by_sample(short: object) -> None:
    model, inputs, targets, threat = case(5)
    joint = worst_case(model, inputs, targets, threat, ids=IDS)
    singles = [worst_case(model, inputs, targets, threat.only(m), ids=IDS) for m in "ab"]
    assert all((joint.success | ~single.success).all() for single in singles)
    assert joint.success.sum() > torch.stack([s.success for s in singles]).any(dim=0).sum()


@pytest.mark.parametrize(
    ("outputs", "kind"), [(1, "single"), (2, "single"), (3, "single"), (1, "multi"), (2, "multi"), (6, "multi")]
)
@pytest.mark.parametrize("effort", ["quick", "thorough"])
def test_any_task(outputs: int, kind: str, effort: str, short: tuple[Stage, ...]) -> None:
    model, inputs, targets, threat = case(outputs, kind)
    if outputs == 1 and kind == "single":
        with torch.no_grad():  # one output is right where it is positive
            model.net[2].bias -= model(inputs).quantile(0.2)
    threat = threat.scaled(3)
    found = worst_case(model, inputs, targets, threat, ids=IDS, effort=effort)  # pyright: ignore[reportArgumentType]
    task = cg.SingleLabel(outputs) if kind == "single" else cg.MultiLabel(outputs)
    with torch.no_grad():
        margin = task.margin(model(found.inputs), targets)
    assert torch.equal(margin <= 0, found.success)
    assert torch.allclose(margin, found.margin)
    assert (found.by > 0).any()
    assert found.forwards == int(found.cost["forwards"].sum()) + 1


def test_ranks_of_wrong_classes_that_do_not_exist_are_dropped() -> None:
    stage = climb("targeted_dlr", 5, range(1, 9))
    assert stage.settled(cg.SingleLabel(2)) is None
    assert stage.settled(cg.SingleLabel(1)) is None
    assert climb("targeted_dlr", 5, (0,)).settled(cg.SingleLabel(1)) is not None, "one output has a margin to lower"
    three, many = stage.settled(cg.SingleLabel(3)), stage.settled(cg.MultiLabel(4))
    assert three is not None
    assert three.options["rivals"] == (1,)
    assert many is not None
    assert many.options["rivals"] == (1, 2, 3)


@pytest.mark.parametrize("at_most", [1, 2])
def test_at_most_some_modalities_are_touched_and_the_best_of_them(at_most: int) -> None:
    model = linear(5, 3, 4)
    batch = samples(model, 60, wrong=0.0)
    threat = cg.ThreatModel({m: cg.Linf(2 * EPS[m]) for m in "abc"}, at_most=at_most)
    found = worst_case(model, batch.inputs, batch.targets, threat, effort="quick")
    losses = torch.stack([2 * EPS[m] * model.w[m].detach().abs().sum() for m in "abc"])
    worst = margins(model, batch) - losses.topk(at_most).values.sum()
    sure = worst.abs() > 1e-4
    assert torch.equal(found.success[sure], (worst <= 0)[sure])
    assert max(len(names) for names in found.conditions) == at_most
    assert int(torch.stack(list(found.touched.values())).sum(dim=0).max()) == at_most
    assert threat.contains(found.inputs, batch.inputs).all()


def test_results_do_not_depend_on_how_samples_are_batched(short: object) -> None:
    model, inputs, targets, threat = case(5)
    whole = worst_case(model, inputs, targets, threat, ids=IDS)

    def part(rows: list[int]) -> WorstCase:
        given = {m: x[rows] for m, x in inputs.items()}
        return worst_case(model, given, targets[rows], threat, ids=[IDS[i] for i in rows])

    for rows in ([3], list(range(10, 17)), [39, 0, 20]):
        some = part(rows)
        assert torch.equal(some.by, whole.by[rows])
        assert torch.equal(some.within, whole.within[rows])
        assert torch.equal(some.cost["forwards"], whole.cost["forwards"][rows])
        assert torch.allclose(some.margin, whole.margin[rows])


class Hidden(Linear):
    """Its modalities named in `hides` let no gradient through."""

    hides = "a"

    def forward(self, inputs: cg.Inputs) -> Tensor:
        return super().forward({m: x.detach() if m in self.hides else x for m, x in inputs.items()})


class Silent(Hidden):
    """Nothing has a gradient, not even the parameters."""

    hides = "ab"

    def forward(self, inputs: cg.Inputs) -> Tensor:
        return super().forward(inputs).detach()


class Rounded(Linear):
    """Its gradient is zero everywhere."""

    def forward(self, inputs: cg.Inputs) -> Tensor:
        return super().forward({m: (x * 64).round() / 64 for m, x in inputs.items()})


@pytest.mark.parametrize("kind", [Hidden, Silent, Rounded])
def test_what_gradients_do_not_see_random_search_finds(kind: type[Linear], short: tuple[Stage, ...]) -> None:
    model = linear(3, 3, kind=kind)
    batch = samples(linear(3, 3), 60, wrong=0.0)
    threat = cg.ThreatModel({m: cg.Linf(0.25) for m in "ab"})
    found = worst_case(model, batch.inputs, batch.targets, threat)
    loss = sum(0.25 * model.w[m].detach().abs().sum() for m in "ab")
    worst = margins(model, batch) - loss
    sure = worst.abs() > 0.1
    missed = (worst <= 0)[sure] & ~found.success[sure]
    assert int(missed.sum()) <= 1
    assert not (found.success & (worst > 0))[sure].any()
    if kind is Rounded:
        assert (found.by == len(short)).any(), "random search must find what gradients do not"


def test_the_model_comes_back_as_it_was() -> None:
    model, inputs, targets, threat = case(5)
    model.train()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    worst_case(model, inputs, targets, threat, effort="quick")
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_nothing_to_attack_and_nobody_there() -> None:
    model, inputs, targets, _ = case(5)
    found = worst_case(model, inputs, targets, cg.ThreatModel(a=cg.Linf(0.0)))
    assert not found.success.any()
    assert found.conditions == ()
    assert all(torch.equal(found.inputs[m], inputs[m]) for m in inputs)
    none = worst_case(model, {m: x[:0] for m, x in inputs.items()}, targets[:0], cg.ThreatModel(a=cg.Linf(0.1)))
    assert none.success.shape == (0,)


def test_what_cannot_be_meant_is_refused_before_the_model_is_asked() -> None:
    _, inputs, targets, threat = case(5)
    model = Counting(5)
    with pytest.raises(cg.ThreatError, match="unknown effort 'fast'"):
        worst_case(model, inputs, targets, threat, effort="fast")  # pyright: ignore[reportArgumentType]
    with pytest.raises(cg.InputError, match="39 ids for 40 samples"):
        worst_case(model, inputs, targets, threat, ids=IDS[1:])
    assert model.rows == 0
    with pytest.raises(cg.ModelError, match="expected \\(40, 7\\)"):
        worst_case(model, inputs, targets, threat, task=cg.SingleLabel(7))
