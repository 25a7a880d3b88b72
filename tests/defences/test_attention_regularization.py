"""A-ART: its terms by hand, in pieces and whole, on our models and on those of others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.core import ModelError, Output
from crossguard.defences import Adversarial, AttentionRegularization, Context
from crossguard.models import FrameTransformer, FusionModel
from crossguard.models.attention import Watch, watching
from crossguard.models.fusion import Concat, JointTransformer
from crossguard.models.maps import displacement, drift, smoothness
from tests.training.toys import TASK, THREAT, TwoBranch, dataset

LABELS = cg.MultiLabel(4)
BUDGETS = cg.ThreatModel(rgb=cg.Linf(0.3), audio=cg.Linf(0.2))


def model_of(how: str = "frames", mixing: Any = "attention") -> FusionModel:
    torch.manual_seed(0)
    layers = 1 if how == "late" else 0
    parts = {"width": 8, "heads": 2, "dropout": 0.0, "layers": layers, "mixing": mixing, "pool": "mean"}
    encoders = {n: FrameTransformer(features=d, **parts) for n, d in (("rgb", 5), ("audio", 3))}
    fusion = (
        Concat(hidden=0) if how == "late" else JointTransformer(join=how, width=8, heads=2, mixing=mixing, dropout=0.0)
    )  # type: ignore[arg-type]
    return FusionModel(encoders, fusion, 4).double()


def batch_of(n: int = 4, frames: int = 6) -> cg.Batch:
    g = torch.Generator().manual_seed(3)
    inputs = {m: torch.randn(n, frames, d, generator=g, dtype=torch.float64) for m, d in (("rgb", 5), ("audio", 3))}
    targets = (torch.rand(n, 4, generator=g) > 0.5).double()
    real = torch.arange(frames) < torch.tensor([[6], [3], [5], [1]])[:n]
    return cg.Batch(inputs, targets, dict.fromkeys(inputs, real), tuple(map(str, range(n))))


def context_of(**options: Any) -> Context:
    return Context(**{"task": LABELS, "threat": BUDGETS, **options})


@pytest.mark.parametrize("how", ["frames", "tokens", "late"])
def test_the_total_is_what_its_equations_say(how: str) -> None:
    model, batch, context = model_of(how), batch_of(), context_of()
    objective = AttentionRegularization(attacked="joint", alpha=0.7, beta=3.0, gamma=0.5, auxiliary_weight=0.0)
    losses = objective.step(model, batch, context)
    attacked = objective.perturb(model, batch, context)
    clean, moved = (model(b.inputs, b.mask, need=("attention",)) for b in (batch, attacked))
    apart = torch.stack([drift(a, b).mean() for a, b in zip(clean.attention, moved.attention, strict=True)]).mean()
    rough = torch.stack([smoothness(a).mean() for a in clean.attention]).mean()
    both = [LABELS.loss(o.logits, batch.targets).mean() for o in (clean, moved)]
    assert losses.parts["drift"].item() == pytest.approx(apart.item())
    assert losses.total.item() == pytest.approx((both[0] + 0.7 * both[1] + 3 * apart + 0.5 * rough).item())
    assert apart > 1e-6
    assert set(losses.parts) == {"fused", "attacked", "drift", "smoothness"}


@pytest.mark.parametrize("distance", ["kl", "js", "frobenius"])
@pytest.mark.parametrize("stop_gradient", [False, True])
def test_in_pieces_it_has_the_same_gradients(distance: Any, stop_gradient: bool) -> None:
    found = []
    for checkpoint in (False, True):
        model = model_of("tokens")
        AttentionRegularization(
            attacked="joint", beta=5.0, gamma=1.0, distance=distance, stop_gradient=stop_gradient, checkpoint=checkpoint
        ).step(model, batch_of(), context_of()).total.backward()
        found.append({n: p.grad for n, p in model.named_parameters()})
    assert found[0].keys() == found[1].keys()
    torch.testing.assert_close(found[0], found[1])


def test_the_last_map_alone_is_that_of_pooling() -> None:
    model, batch = model_of(), batch_of()
    objective = AttentionRegularization(attacked="joint", layers="last")
    losses, attacked = objective.step(model, batch, context_of()), objective.perturb(model, batch, context_of())
    maps = [model(b.inputs, b.mask, need=("attention",)).attention[-1] for b in (batch, attacked)]
    assert maps[0].shape[2] == 1, "pooling asks once"
    assert losses.parts["drift"].item() == pytest.approx(drift(*maps).mean().item())


@pytest.mark.parametrize("how", ["frames", "tokens", "late"])
@pytest.mark.parametrize("mixing", ["attention", "gate", "mean"])
def test_what_is_gathered_is_held_without_a_map(how: str, mixing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, context = model_of(how, mixing), batch_of(), context_of()
    objective = AttentionRegularization(attacked="joint", alpha=0.7, beta=3.0, hold="gathered", auxiliary_weight=0.0)
    attacked = objective.perturb(model, batch, context)
    seen = []
    for each in (batch, attacked):
        with watching(Watch(of="gathered")) as watch:
            output = model(each.inputs, each.mask)
        assert watch is not None
        seen.append((LABELS.loss(output.logits, batch.targets).mean(), watch.kept))
    (before, clean), (after, moved) = seen
    assert len(clean) == (2 if how == "late" else 3)
    apart = torch.stack([displacement(a, b).mean() for a, b in zip(clean, moved, strict=True)]).mean()
    monkeypatch.setattr("crossguard.models.attention.weights", None)  # nobody makes a map
    monkeypatch.setattr("crossguard.models.gat.weights", None)
    losses = objective.step(model, batch, context)
    assert losses.parts["drift"].item() == pytest.approx(apart.item())
    assert losses.total.item() == pytest.approx((before + 0.7 * after + 3 * apart).item())
    assert apart > 1e-6
    losses.total.backward()


def test_what_no_model_of_ours_gathers_is_refused() -> None:
    batch = dataset("toy", 8, 0).read(range(8))
    with pytest.raises(ModelError, match="hold: maps"):
        AttentionRegularization(hold="gathered").step(TwoBranch(), batch, Context(TASK, THREAT))


def test_one_clean_pass_and_work_exactly_counted() -> None:
    model, context, rows = model_of(), context_of(), []
    inner = model.fuse

    def counted(features: Any, need: Any = ()) -> Output:
        if model.training:
            rows.append(len(next(iter(features.values())).value))
        return inner(features, need)

    model.fuse = counted  # type: ignore[method-assign]
    AttentionRegularization(attacked="joint", steps=3).step(model.train(), batch_of(), context)
    assert rows == [8]  # x and x + r, once
    assert (context.work.forwards, context.work.backwards) == (4 * 5, 4 * 5)


def test_without_its_terms_it_is_adversarial_training_on_both() -> None:
    model, batch = model_of().eval(), batch_of()
    plain = AttentionRegularization(attacked="joint", beta=0.0).step(model, batch, context_of()).total
    mixed = Adversarial(attacked="joint", clean_weight=0.5).step(model, batch, context_of()).total
    assert plain.item() == pytest.approx(2 * mixed.item())


def test_stop_gradient_leaves_clean_maps_alone() -> None:
    a, b = (torch.randn(2, 1, 1, 3, 3).softmax(dim=-1).requires_grad_() for _ in range(2))
    both = torch.cat([a[0], b[0]])
    for stopped in (True, False):
        value = AttentionRegularization(stop_gradient=stopped).measure(both)[0]
        gradient = torch.autograd.grad(value, a, allow_unused=True, retain_graph=True)[0]
        assert bool(gradient.abs().sum() > 0) != stopped


def test_training_with_it_holds_attention_still() -> None:
    ends = {}
    for beta in (0.0, 20.0):
        model = model_of().train()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for step in range(25):
            context = context_of(step=step)
            optimizer.zero_grad()
            AttentionRegularization(attacked="joint", steps=2, beta=beta).step(
                model, batch_of(), context
            ).total.backward()
            optimizer.step()
        ends[beta] = AttentionRegularization(attacked="joint").step(model, batch_of(), context_of()).parts["drift"]
    assert ends[20.0] < 0.5 * ends[0.0]


def test_models_without_attention_are_refused() -> None:
    batch = dataset("toy", 8, 0).read(range(8))
    with pytest.raises(ModelError, match="returns none"):
        AttentionRegularization().step(TwoBranch(), batch, Context(TASK, THREAT))
    AttentionRegularization(beta=0.0).step(TwoBranch(), batch, Context(TASK, THREAT)).total.backward()


@pytest.mark.parametrize(
    "options",
    [
        {"beta": -1.0},
        {"gamma": float("inf")},
        {"distance": "l1"},
        {"layers": "first"},
        {"clean_weight": 0.5},
        {"hold": "nothing"},
        {"hold": "gathered", "gamma": 1.0},
        {"hold": "gathered", "distance": "js"},
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(cg.RecipeError):
        AttentionRegularization(**options)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.mark.parametrize("kind", ["VideoMAE", "Timesformer"])
def test_video_transformers_of_others(kind: str) -> None:
    transformers: Any = pytest.importorskip("transformers", reason="needs transformers: pip install 'crossguard[zoo]'")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        image_size=16, patch_size=8, num_frames=2, num_labels=3, attn_implementation="eager", **SMALL
    )
    net: nn.Module = getattr(transformers, f"{kind}ForVideoClassification")(config).eval()
    model = cg.adapt(net, inputs={"rgb": "pixel_values"}, attention="attentions")
    g = torch.Generator().manual_seed(0)
    batch = cg.Batch({"rgb": torch.rand(3, 2, 3, 16, 16, generator=g)}, torch.tensor([0, 1, 2]))
    context = Context(cg.SingleLabel(3), cg.ThreatModel(rgb=cg.Linf(0.1, bounds=(0, 1))))
    assert model(batch.inputs).attention is None
    objective = AttentionRegularization(attacked="joint", steps=2, beta=2.0)
    losses = objective.step(model, batch, context)
    maps: list[tuple[Tensor, ...]] = [
        model(b.inputs, need=("attention",)).attention for b in (batch, objective.perturb(model, batch, context))
    ]
    apart = torch.stack([drift(a, b).mean() for a, b in zip(*maps, strict=True)]).mean()
    assert losses.parts["drift"].item() == pytest.approx(apart.item(), rel=1e-3)
    losses.total.backward()
    query = next(p for n, p in net.named_parameters() if ("query" in n or "qkv" in n) and n.endswith("weight"))
    assert query.grad is not None
    assert bool(query.grad.abs().sum() > 0)


def test_maps_that_are_not_there_are_named() -> None:
    class Bare(nn.Module):
        def forward(self, x: Tensor, output_attentions: bool = False) -> dict[str, Tensor]:
            return {"logits": x}

    model = cg.adapt(Bare(), inputs=("a",), attention="attentions")
    with pytest.raises(ModelError, match="eager"):
        model({"a": torch.zeros(2, 2)}, need=("attention",))
