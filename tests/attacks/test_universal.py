"""One perturbation for all samples: fitted on some, inside every budget of others, kept to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.attacks import Perturbation, judge, noise, pgd, universal
from crossguard.data.base import Loader, TensorDataset
from tests.models_for_tests import Linear, Mixed

THREAT = cg.ThreatModel(a=cg.Linf(0.15, bounds=(0, 1)), b=cg.L2(0.6))


def _trained(n: int = 512) -> tuple[Mixed, list[cg.Batch], cg.Batch]:
    """A small trained model, its training batches and held-out samples."""
    generator = torch.Generator().manual_seed(0)
    inputs = {"a": torch.rand(2 * n, 6, generator=generator), "b": torch.randn(2 * n, 4, generator=generator)}
    targets = (inputs["a"][:, :3] * 3 + inputs["b"][:, :3]).argmax(dim=1)
    torch.manual_seed(0)
    model = Mixed()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model({k: x[:n] for k, x in inputs.items()}), targets[:n]).backward()
        optimizer.step()
    optimizer.zero_grad()
    whole = cg.Batch(inputs, targets, ids=tuple(str(i) for i in range(2 * n)))
    return model, [whole.take(range(i, i + 64)) for i in range(0, n, 64)], whole.take(range(n, 2 * n))


def test_it_beats_noise_on_held_out_samples_and_stays_in_every_budget() -> None:
    model, train, held = _trained()
    flags = [m.training for m in model.modules()]
    found = universal(model, train, THREAT, epochs=4)
    assert [m.training for m in model.modules()] == flags
    assert all(p.grad is None for p in model.parameters())
    result = found.attack(model, held.inputs, held.targets, stop="never")
    assert THREAT.contains(result.inputs, held.inputs).all()
    assert THREAT.contains(found.apply(held.inputs), held.inputs).all()
    random = noise(model, held.inputs, held.targets, THREAT, stop="never", ids=held.ids)
    clean = judge(model, held.inputs, held.targets, THREAT, found=held.inputs)
    assert result.success.float().mean() > random.success.float().mean() + 0.1
    assert result.success.float().mean() > clean.success.float().mean() + 0.15
    own = pgd(model, held.inputs, held.targets, THREAT)
    assert own.success.float().mean() >= result.success.float().mean()


@pytest.mark.parametrize("kind", [cg.Linf, cg.L2])
def test_the_optimum_on_a_linear_model(kind: Any) -> None:
    """All samples of one class have the same steepest direction, so the universal optimum is everyone's own."""
    model = Linear({"a": (3, 5)})
    inputs = {"a": torch.randn(48, 3, 5, generator=torch.Generator().manual_seed(0))}
    targets = torch.zeros(48, dtype=torch.long)
    batches = [cg.Batch(inputs, targets).take(range(i, i + 12)) for i in range(0, 48, 12)]
    threat = cg.ThreatModel(a=kind(0.2))
    found = universal(model, batches, threat, objective="margin", clamp=1e6, epochs=8, step_size=0.25)
    gap = model.gap("a").detach()
    best = 0.2 * gap.sign() if kind is cg.Linf else 0.2 * gap / gap.norm()
    assert torch.allclose(found.values["a"].flatten(), best, atol=1e-4)
    result = found.attack(model, inputs, targets, stop="never")
    own = pgd(model, inputs, targets, threat, objective="margin", stop="never")
    assert (result.margin <= own.margin + 1e-4).all()


def test_lost_samples_do_not_outweigh_the_others() -> None:
    """Three samples lost by far pull one way, one that can be fooled the other: clamping leaves the choice to it."""

    # The second column says how strongly, and where to, a sample is pulled; it is not attacked.
    class Split(nn.Module):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            lead = inputs["offset"][:, 0] - inputs["pull"][:, 0] * inputs["a"][:, 0]
            return torch.stack([lead, torch.zeros_like(lead)], dim=1)

    inputs = {
        "a": torch.zeros(4, 1),
        "pull": torch.tensor([[-1.0], [-1.0], [-1.0], [1.0]]),
        "offset": torch.tensor([[-9.0], [-9.0], [-9.0], [0.5]]),
    }
    batches = [cg.Batch(inputs, torch.zeros(4, dtype=torch.long))]
    threat = cg.ThreatModel(a=cg.Linf(1.0))
    options: dict[str, Any] = {"objective": "margin", "epochs": 6, "step_size": 0.5}
    clamped = universal(Split(), batches, threat, clamp=2.0, **options)
    free = universal(Split(), batches, threat, clamp=100.0, **options)
    assert clamped.values["a"].item() == 1
    assert free.values["a"].item() == -1
    assert clamped.attack(Split(), inputs, batches[0].targets).success.all()


class Mean(nn.Module):
    """Logits from the mean over time of (N, T, 2), weighted by phase modulo 3."""

    def forward(self, inputs: cg.Inputs) -> Tensor:
        x = inputs["a"]
        phase = torch.tensor([1.0, -1.0, 2.0]).repeat(x.shape[1] // 3 + 1)[: x.shape[1]]
        score = (x * phase[:, None]).sum(dim=(1, 2))
        return torch.stack([score, -score], dim=1)


def _timed(lengths: tuple[int, ...]) -> list[cg.Batch]:
    return [cg.Batch({"a": torch.rand(4, t, 2)}, torch.zeros(4, dtype=torch.long)) for t in lengths]


SERIES = {"a": cg.Modality("a", "NTD", "V")}


def test_time_is_tiled_and_cropped() -> None:
    threat = cg.ThreatModel(a=cg.Linf(0.1))
    found = universal(Mean(), _timed((6, 4, 7, 2)), threat, epochs=12, step_size=0.3, modalities=SERIES,
                      length={"a": 3}, objective="margin", clamp=1e6)  # fmt: skip
    # Every sample is lost by pushing against the phases, which the repetition of three steps can say exactly.
    wanted = -0.1 * torch.tensor([1.0, -1.0, 1.0])[:, None].expand(3, 2)
    assert torch.allclose(found.values["a"], wanted)
    for t in (1, 2, 3, 8):
        x = torch.rand(2, t, 2)
        expected = x + wanted.repeat(3, 1)[:t]
        assert torch.allclose(found.apply({"a": x})["a"], expected)


def test_every_repetition_counts() -> None:
    class Late(nn.Module):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            score = inputs["a"][:, 3:5].sum(dim=(1, 2))
            return torch.stack([score, -score], dim=1)

    found = universal(
        Late(), _timed((5, 6)), cg.ThreatModel(a=cg.Linf(0.1)), modalities=SERIES, length={"a": 3}, objective="margin"
    )
    assert (found.values["a"][:2] < 0).all()
    assert (found.values["a"][2] == 0).all()


def test_samples_of_other_lengths_need_a_time_axis() -> None:
    threat = cg.ThreatModel(a=cg.Linf(0.1))
    with pytest.raises(cg.InputError, match=r"\(6, 2\), the samples are \(4, 2\).*modalities="):
        universal(Mean(), _timed((6, 4)), threat)
    found = universal(Mean(), _timed((6, 4)), threat, modalities=SERIES)
    assert found.values["a"].shape == (6, 2)
    with pytest.raises(cg.InputError, match="the samples are"):
        found.apply({"a": torch.rand(2, 6, 3)})


def test_masks_neither_move_nor_count() -> None:
    model = Linear({"a": (4,)})
    mask = torch.tensor([True, True, False, False])
    batch = cg.Batch({"a": torch.zeros(3, 4)}, torch.zeros(3, dtype=torch.long), mask={"a": mask.expand(3, 4)})
    found = universal(model, [batch], cg.ThreatModel(a=cg.Linf(0.1)), epochs=3)
    assert (found.values["a"][mask] != 0).all()
    assert (found.values["a"][~mask] == 0).all()
    other = Perturbation({"a": torch.ones(4)}, found.threat, {})
    moved = other.apply(batch.inputs, batch.mask)["a"]
    assert torch.equal(moved, (0.1 * mask).expand(3, 4))


def test_an_entry_that_bounds_hold_back_is_not_climbed() -> None:
    """Samples at a bound cannot follow, so the others alone decide."""

    class Weighted(nn.Module):
        def forward(self, inputs: cg.Inputs) -> Tensor:
            lead = (inputs["a"] * inputs["w"]).sum(dim=1)
            return torch.stack([lead, -lead], dim=1)

    batch = cg.Batch(
        {"a": torch.tensor([[1.0], [1.0], [0.5]]), "w": torch.tensor([[-5.0], [-5.0], [1.0]])},
        torch.zeros(3, dtype=torch.long),
    )
    threat = cg.ThreatModel(a=cg.Linf(0.2, bounds=(0, 1)))
    start = Perturbation({"a": torch.tensor([0.1])}, threat, {})
    assert start.apply(batch.inputs)["a"].flatten().tolist() == pytest.approx([1.0, 1.0, 0.6])
    # From 0 the first step goes up (all feel it), the next one is decided by the third sample alone, and goes down.
    found = universal(Weighted(), [batch], threat, epochs=2, step_size=1.0, objective="margin", clamp=1e6)
    assert found.values["a"].item() == pytest.approx(0.1)


BUDGETS: dict[str, dict[str, Any]] = {
    "l1": {"a": cg.L1(1.0, bounds=(0, 1))},
    "l0": {"a": cg.L0(5, bounds=(0, 1))},
    "region": {"a": cg.Linf(0.3, constraints=(cg.Region(((2, 5), (0, 2))),))},
    "frames": {"a": cg.Linf(0.3, bounds=(0, 1), constraints=(cg.Frames(2, axis=1),))},
    "acceleration": {"a": cg.Linf(0.3, constraints=(cg.Acceleration(0.2, axis=1),))},
    "codes": {"a": cg.Linf(8 / 255, bounds=(0, 1), constraints=(cg.PIXELS8,))},
    "aligned frames": {"a": cg.Linf(0.3), "b": cg.L2(0.3), "frames": cg.AlignedFrames(2, axes={"a": 1, "b": 1})},
}


@pytest.mark.parametrize("name", BUDGETS)
def test_every_kind_of_budget_holds_and_is_used(name: str) -> None:
    threat = cg.ThreatModel(**BUDGETS[name])
    model = Linear({"a": (8, 5), "b": (8, 3)})
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "a": torch.randint(256, (32, 8, 5), generator=generator) / 255,
        "b": torch.randn(32, 8, 3, generator=generator),
    }
    targets = torch.zeros(32, dtype=torch.long)
    batches = [cg.Batch(inputs, targets)] * 10
    found = universal(model, batches, threat, epochs=3, objective="margin", clamp=1e6)
    moved = found.apply(inputs)
    assert threat.contains(moved, inputs).all()
    clean, after = (cg.SingleLabel(2).margin(model(x), targets) for x in (inputs, moved))
    own = pgd(model, inputs, targets, threat, objective="margin", stop="never", steps=30).margin
    assert (clean - after).mean() > 0.5 * (clean - own).mean() > 0
    result = found.attack(model, inputs, targets, stop="never")
    assert threat.contains(result.inputs, inputs).all()
    assert torch.allclose(result.margin, after, atol=1e-3)


def test_a_budget_that_depends_on_the_sample_is_told() -> None:
    with pytest.raises(cg.ThreatError, match="depends on the sample"):
        universal(Mean(), _timed((6,)), cg.ThreatModel(a=cg.SNR(20.0)))


def test_it_is_a_function_of_seed_and_data(tmp_path: Path) -> None:
    model, train, _ = _trained()
    once, again = (universal(model, train, THREAT, epochs=2) for _ in range(2))
    assert all(torch.equal(once.values[n], again.values[n]) for n in once.values)
    whole = TensorDataset(
        "set", {n: cg.Modality(n, "ND", "1") for n in "ab"}, ("x", "y", "z"), train[0].inputs, train[0].targets
    )
    loader = Loader(whole, 16, shuffle=True)
    assert universal(model, loader, THREAT, epochs=2).values["a"].shape == (6,)
    assert loader.epoch == 1


def test_saved_and_loaded_to_the_bit(tmp_path: Path) -> None:
    model, train, held = _trained()
    found = universal(model, train, THREAT, epochs=1)
    found.save(tmp_path / "p")
    back = Perturbation.load(tmp_path / "p")
    assert back.threat == found.threat
    assert dict(back.time) == dict(found.time)
    assert all(torch.equal(back.values[n], found.values[n]) for n in found.values)
    assert torch.equal(back.apply(held.inputs)["b"], found.apply(held.inputs)["b"])
    other = universal(model, train, THREAT, epochs=2)
    other.save(tmp_path / "q")
    (tmp_path / "q" / "perturbation.safetensors").rename(tmp_path / "p" / "perturbation.safetensors")
    with pytest.raises(cg.RunError, match="not those"):
        Perturbation.load(tmp_path / "p")
    (tmp_path / "p" / "perturbation.json").write_text('{"digest": 3}')
    with pytest.raises(cg.RunError):
        Perturbation.load(tmp_path / "p")
    with pytest.raises(cg.RunError):
        Perturbation.load(tmp_path / "nowhere")


def test_what_cannot_be_meant_is_refused() -> None:
    model, batches = Mean(), _timed((6,))
    threat = cg.ThreatModel(a=cg.Linf(0.1))
    with pytest.raises(cg.ThreatError, match="epochs"):
        universal(model, batches, threat, epochs=0)
    with pytest.raises(cg.ThreatError, match="objective"):
        universal(model, batches, threat, objective="cross-entropy")
    with pytest.raises(cg.InputError, match="no batch in epoch 0"):
        universal(model, [], threat)
    with pytest.raises(cg.InputError, match="no batch in epoch 1"):
        universal(model, iter(batches), threat)
    with pytest.raises(cg.InputError, match="length of 'a'"):
        universal(model, batches, threat, length={"a": 3})
    with pytest.raises(cg.ThreatError, match="'c'"):
        universal(model, batches, cg.ThreatModel(c=cg.Linf(0.1)))
    with pytest.raises(cg.ThreatError, match="at_most=1"):
        universal(Mixed(), batches, cg.ThreatModel(a=cg.Linf(0.1), b=cg.Linf(0.1), at_most=1))


def test_a_budget_of_zero_changes_nothing() -> None:
    batches = _timed((6,))
    found = universal(Mean(), batches, cg.ThreatModel(a=cg.Linf(0.0)))
    assert found.apply(batches[0].inputs)["a"] is batches[0].inputs["a"]


class StopError(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 2, 5, 11])
def test_a_stopped_search_goes_on_to_the_same_bits(tmp_path: Path, stop: int) -> None:
    model, train, _ = _trained(256)

    class Stops:
        """Batches in an order that changes by epoch; dies at one of them."""

        def __init__(self, dies: int | None) -> None:
            self.dies, self.seen, self.epoch = dies, 0, 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Any:
            for i in range(len(train)):
                if self.seen == self.dies:
                    raise StopError
                self.seen += 1
                yield train[(i + self.epoch) % len(train)]

    whole = universal(model, Stops(None), THREAT, epochs=3)
    state = tmp_path / "state.safetensors"
    with pytest.raises(StopError):
        universal(model, Stops(stop), THREAT, epochs=3, state=state, save_every=2)
    assert state.exists() == (stop > 1)
    calls: list[int] = []
    hook = model.register_forward_hook(lambda *call: calls.append(1))
    resumed = universal(model, Stops(None), THREAT, epochs=3, state=state, save_every=2)
    done = len(calls)
    assert all(torch.equal(resumed.values[n], v) for n, v in whole.values.items())
    calls.clear()
    universal(model, Stops(None), THREAT, epochs=3)
    assert done <= len(calls) * (12 - stop // 2 * 2) / 12 + 1
    hook.remove()
    with pytest.raises(cg.RunError, match="another search"):
        universal(model, Stops(None), THREAT, epochs=4, state=state)


def test_moments_and_what_holds_between_them_are_kept_together() -> None:
    threat = cg.ThreatModel(
        a=cg.Linf(0.5, constraints=(cg.Acceleration(0.05, axis=1),)), frames=cg.AlignedFrames(3, {"a": 1})
    )
    generator = torch.Generator().manual_seed(0)
    x = {"a": torch.randn(8, 12, 4, generator=generator)}
    found = Perturbation({"a": 0.3 * torch.randn(12, 4, generator=generator)}, threat, {}).apply(x)
    assert threat.contains(found, x).all()
    assert (found["a"] != x["a"]).flatten(1).any(dim=1).all()


def test_padding_outside_the_bounds_is_left_alone() -> None:
    threat = cg.ThreatModel(a=cg.Linf(0.2, bounds=(0.5, 1)))
    x, mask = {"a": torch.tensor([[0.6, 0.0]])}, {"a": torch.tensor([[True, False]])}
    assert Perturbation({"a": torch.tensor([0.1, 0.1])}, threat, {}).apply(x, mask)["a"].tolist() == [
        [pytest.approx(0.7), 0.0]
    ]
