"""Fast and free adversarial training and training on noise: by hand, at their price, collapse included."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard import Batch, Inputs, Linf, RecipeError, RunError, ThreatError, ThreatModel
from crossguard.defences import Adversarial, Context, Fast, Free, Noise, Objective, Standard
from crossguard.training import TrainConfig
from tests.training.toys import TASK, THREAT, TwoBranch, dataset, splits


def batch_of(samples: int = 8, seed: int = 0) -> Batch:
    return dataset(f"toy{seed}", samples, seed).read(range(samples))


def context_of(**options: object) -> Context:
    return Context(**{"task": TASK, "threat": THREAT, "steps": 10, **options})  # type: ignore[arg-type]


def test_fast_is_one_step_from_a_random_start() -> None:
    model, batch, context = TwoBranch().eval(), batch_of(), context_of(step=2)
    fast = Fast(attacked="joint")
    found = fast.step(model, batch, context)
    expected = Adversarial(attacked="joint", steps=1, step_size=1.25).step(model, batch, context_of(step=2))
    assert found.total == expected.total
    assert (context.work.forwards, context.work.backwards) == (16, 16)
    assert "probe" not in found.parts


class Masked(nn.Module):
    """A model whose gradient at the clean sample points the wrong way from a little further on: one step helps, ten
    fool it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Inputs) -> Tensor:
        x = self.weight * inputs["a"][:, 0]
        return torch.stack([torch.zeros_like(x), x.sign() * (x.abs() - 0.5).abs() * 2 - 0.3 * x.sign()], dim=1)


def collapsed() -> tuple[nn.Module, Batch, Context]:
    """One step of 1.25 x budget overshoots the dip at 0.5 that ten small ones find."""
    x = torch.tensor([[1.0], [-1.0]]).repeat(20, 1)
    batch = Batch({"a": x}, torch.tensor([1, 0]).repeat(20), ids=tuple(str(i) for i in range(40)))
    return Masked(), batch, context_of(threat=ThreatModel(a=Linf(0.6)), step=9)


def test_collapse_is_noticed_said_and_mended() -> None:
    model, batch, context = collapsed()
    fast = Fast(attacked="a", probe_every=10, relief=3, gap=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = fast.step(model, batch, replace(context, step=9)).parts
    assert first["one_step"] - first["probe"] > 0.2, "a young model may look like this: one probe does not tell"
    context = replace(context, step=19)
    with pytest.warns(RuntimeWarning, match=r"step 20: fast adversarial training has collapsed: \d+ % right"):
        losses = fast.step(model, batch, context)
    assert losses.parts["collapsed"] == 1
    assert losses.parts["one_step"] - losses.parts["probe"] > 0.2
    assert fast.counts == {"left": 2, "collapses": 1, "probed": float(losses.parts["probe"])}
    context = replace(context, step=20)
    context.work.forwards = 0
    fast.step(model, batch, context)
    assert context.work.forwards == 40 * 11, "ten steps and the pass that is trained on"
    assert fast.counts["left"] == 1
    twin = Fast(attacked="a", probe_every=10, relief=3, gap=0.2)
    twin.load_state_dict(fast.state_dict())
    assert twin.counts == fast.counts


def test_collapse_can_stop_or_be_only_said() -> None:
    model, batch, context = collapsed()
    stopping = Fast(attacked="a", probe_every=10, gap=0.2, remedy="stop")
    fast = Fast(attacked="a", probe_every=10, gap=0.2, remedy="none")
    for objective in (stopping, fast):
        objective.step(model, batch, context)
    with pytest.raises(RunError, match="remedy: pgd"):
        stopping.step(model, batch, context)
    with pytest.warns(RuntimeWarning, match="collapsed"):
        fast.step(model, batch, context)
    assert fast.counts["collapses"] == 1
    assert "left" not in fast.counts


def test_a_gap_that_closes_is_no_collapse() -> None:
    model, batch, context = collapsed()
    fast = Fast(attacked="a", probe_every=10, gap=0.2, remedy="stop")
    fast.load_state_dict({"probed": -0.1})  # less than whatever is found now
    found = fast.step(model, batch, context).parts
    assert found["one_step"] - found["probe"] > 0.2
    assert found["collapsed"] == 0


def test_a_sound_model_raises_no_alarm() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = Fast(probe_every=5, attacked="joint")
        model, batch = TwoBranch(), batch_of(40)
        for step in (4, 9):
            losses = fast.step(model, batch, context_of(step=step))
    assert losses.parts["collapsed"] == 0
    assert "collapses" not in fast.counts


def test_free_moves_the_attack_along_the_gradient_that_trains() -> None:
    model, batch = TwoBranch().eval(), batch_of()
    free, context = Free(attacked="joint", step_size=0.5, replays=3), context_of()
    losses = free.step(model, batch, context)
    assert losses.total == Standard().step(model, batch, context_of()).total, "it starts at the clean samples"
    losses.total.backward()
    free.after_backward(model, context)
    clean = {n: x.clone().requires_grad_() for n, x in batch.inputs.items()}
    Standard().step(model, batch.with_inputs(clean), context_of()).total.backward()
    for name, x in clean.items():
        assert x.grad is not None
        torch.testing.assert_close(free.kept["delta"][name], 0.25 * x.grad.sign())
    context = replace(context, step=1)
    again = free.step(model, batch_of(seed=9), context)
    moved = {n: x + free.kept["delta"][n] for n, x in batch.inputs.items()}
    expected = Standard().step(model, batch.with_inputs(moved), context_of()).total
    assert again.total.item() == pytest.approx(expected.item(), rel=1e-6), "the same batch is replayed"
    assert context.work.forwards == context.work.backwards == 16


def test_free_stays_in_the_budget_and_hands_on_what_is_added() -> None:
    model, free = TwoBranch(), Free(replays=2, attacked="joint")
    batches = [batch_of(8, seed) for seed in range(3)] + [batch_of(7, 5)]
    for step in range(8):
        context = context_of(step=step)
        free.step(model, batches[step // 2], context).total.backward()
        current: Batch = free.kept["batch"]
        assert current.ids == batches[step // 2].ids
        assert bool(THREAT.contains({n: x.detach() for n, x in free.shown.items()}, current.inputs).all())
        assert step == 0 or any(bool((x != current.inputs[n]).any()) for n, x in free.shown.items())
        free.after_backward(model, context)


def test_free_learns_and_is_more_robust_than_standard() -> None:
    data = splits(120, strength={"a": 2.0, "b": 0.3}, weak=False)
    threat = ThreatModel(a=Linf(0.2), b=Linf(0.6))
    config = TrainConfig(epochs=12, batch_size=20, learning_rate=0.02, validation_steps=5)
    found = {}
    for objective in (Standard(), Free(attacked="joint", replays=3), Fast(attacked="joint", probe_every=5)):
        found[type(objective)] = cg.train(
            TwoBranch(), data, task=TASK, threat=threat, objective=objective, config=config
        )
    robust = {}
    for kind, result in found.items():
        test = data.test.read(range(len(data.test)))
        attack = cg.attacks.pgd(result.model, test.inputs, test.targets, threat, ids=test.ids)
        robust[kind] = float((~attack.success).float().mean())
    assert robust[Free] >= robust[Standard]
    assert robust[Fast] >= robust[Standard]
    assert robust[Free] > 0.9


def test_noise_is_in_the_budget_another_every_step_and_costs_one_pass() -> None:
    model, batch = TwoBranch().eval(), batch_of()
    seen: list[Inputs] = []
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    context = context_of()
    for step in (0, 0, 1):
        Noise().step(model, batch, replace(context, step=step))
    Noise(attacked="b", scale=0.5).step(model, batch, context)
    assert all(bool(THREAT.contains(x, batch.inputs).all()) for x in seen)
    assert torch.equal(seen[0]["a"], seen[1]["a"])
    assert not torch.equal(seen[0]["a"], seen[2]["a"])
    assert torch.equal(seen[3]["a"], batch.inputs["a"])
    assert bool(THREAT.scaled(0.5).contains(seen[3], batch.inputs).all())
    spread = seen[0]["a"] - batch.inputs["a"]
    assert float(spread.abs().max()) > 0.4
    assert (context.work.forwards, context.work.backwards) == (32, 32)


@pytest.mark.parametrize(
    "objective", [Noise(attacked="joint"), Free(attacked="joint", replays=2)], ids=["noise", "free"]
)
def test_moments_and_what_holds_between_them_are_kept_together(objective: Noise | Free) -> None:
    limit = (cg.Acceleration(0.05, axis=1),)
    frames = cg.AlignedFrames(2, {"a": 1, "b": 1})
    threat = ThreatModel(a=Linf(0.5, constraints=limit), b=Linf(0.5, constraints=limit), frames=frames)
    model, batch, context = TwoBranch().eval(), batch_of(), replace(context_of(), threat=threat)
    seen: list[Inputs] = []
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    if isinstance(objective, Free):
        objective.kept["delta"] = {n: torch.randn_like(x) for n, x in batch.inputs.items()}
    objective.step(model, batch, context)
    assert bool(threat.contains({n: x.detach() for n, x in seen[0].items()}, batch.inputs).all())
    assert any(bool((x != batch.inputs[n]).any()) for n, x in seen[0].items())


def test_noise_weighs_clean_samples() -> None:
    model, batch = TwoBranch().eval(), batch_of()
    noisy, clean = (o.step(model, batch, context_of()).total for o in (Noise(), Standard()))
    mixed = Noise(clean_weight=0.25).step(model, batch, context_of())
    assert mixed.total.item() == pytest.approx((0.75 * noisy + 0.25 * clean).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "options"),
    [(Fast, {"probe_every": 0}), (Fast, {"gap": 0.0}), (Fast, {"remedy": "hope"}), (Fast, {"relief": 0}),
     (Free, {"replays": 0}), (Free, {"step_size": float("nan")}), (Noise, {"scale": 0.0}),
     (Noise, {"clean_weight": 2.0})],
    ids=lambda o: next(iter(o)) if isinstance(o, dict) else o.__name__,
)  # fmt: skip
def test_impossible_options_are_refused(make: Callable[..., Objective], options: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=next(iter(options))):
        make(**options)


@pytest.mark.parametrize("make", [Fast, Free, Noise])
def test_what_cannot_be_attacked_is_refused(make: Callable[..., Objective]) -> None:
    with pytest.raises(ThreatError, match="needs a threat model"):
        make().check(TwoBranch(), context_of(threat=None))
    with pytest.raises(ThreatError, match="attacked is 'depth'"):
        make(attacked="depth").check(TwoBranch(), context_of())


def test_the_probe_is_pgd_whatever_the_one_step_is() -> None:
    model, batch, context = collapsed()
    fast = Fast(attacked="a", attack="fgsm", probe_every=1, gap=0.2)
    expected = Fast(attacked="a", probe_every=1, gap=0.2).probe(model, batch, context)
    assert (fast.careful.attack, fast.careful.steps) == ("pgd", 10)
    assert fast.probe(model, batch, context)["probe"] == expected["probe"]
