"""Transformers over frames: attention by hand, masks, maps on demand and in pieces, gates, experts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.core import ModelError
from crossguard.models import FrameTransformer, FusionModel, SeriesNet
from crossguard.models.attention import Attention, Averaging, Watch, watched, watching
from crossguard.models.fusion import Concat, JointTransformer
from crossguard.models.gat import GatedAttention
from crossguard.models.mixture import MixtureOfExperts
from crossguard.models.transformer import Pooling, frame_mask, sine


def stirred(module: nn.Module) -> Any:
    """In float64, eval mode, every parameter random."""
    generator = torch.Generator().manual_seed(1)
    module.double().eval()
    for p in module.parameters():
        p.data.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return module


def seen_by(module: nn.Module, *given: Any) -> tuple[Tensor, list[Tensor]]:
    with watching(Watch()) as watch:
        answer = module(*given)
    assert watch is not None
    return answer, watch.kept


LAYERS: dict[str, Any] = {
    "attention": lambda: Attention(8, 2),
    "gate": lambda: GatedAttention(8, 2, 2),
    "mean": lambda: Averaging(8),
}


def test_attention_by_hand() -> None:
    """One head of width 1 in two frames: q k = 0 and log 3, so that frame 1 looks at (1/4, 3/4)."""
    layer = Attention(1, 1).double()
    layer.split.weight.data = torch.tensor([[1.0], [1.0], [1.0]]).double()
    layer.split.bias.data.zero_()
    layer.join.weight.data.fill_(1.0)
    layer.join.bias.data.zero_()
    x = torch.tensor([[[0.0], [math.sqrt(math.log(3.0))]]]).double()
    answer, (a,) = seen_by(layer, x, None)
    torch.testing.assert_close(a[0, 0], torch.tensor([[0.5, 0.5], [0.25, 0.75]]).double())
    torch.testing.assert_close(answer[0, :, 0], a[0, 0] @ x[0, :, 0])


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("masked", [False, True])
def test_maps_are_distributions_over_real_frames_and_asking_changes_nothing(name: str, masked: bool) -> None:
    layer = stirred(LAYERS[name]())
    x = torch.randn(3, 7, 8, dtype=torch.float64)
    real = torch.tensor([[True] * 7, [True] * 4 + [False] * 3, [False] * 7]) if masked else None
    assert watched() is None
    plain = layer(x, real)
    answer, (a,) = seen_by(layer, x, real)
    here = torch.ones(3, 7, dtype=torch.bool) if real is None else real
    torch.testing.assert_close(answer[here], plain[here], rtol=1e-10, atol=1e-12)
    assert bool(plain.isfinite().all())
    sums = a.sum(dim=3)
    torch.testing.assert_close(sums, here[:, None].expand_as(sums).double())
    assert not a[~(here[:, None, :, None] & here[:, None, None]).expand_as(a)].any()


def test_a_gate_mixes_the_global_and_the_window_map() -> None:
    layer, x = stirred(GatedAttention(4, 1, 1)), torch.randn(1, 5, 4, dtype=torch.float64)
    _, (mixed,) = seen_by(layer, x, None)
    maps = {}
    for bias in (-50.0, 50.0):
        layer.gate.weight.data.zero_()
        layer.gate.bias.data.fill_(bias)
        maps[bias] = seen_by(layer, x, None)[1][0]
    far = (torch.arange(5)[:, None] - torch.arange(5)).abs() > 1
    assert maps[-50.0][0, 0][far].abs().max() < 1e-12
    assert maps[-50.0][0, 0][~far].min() > 1e-12  # the last frame within the window is looked at
    assert bool((maps[50.0][0, 0] > 0).all())
    plain = Attention(4, 1).double()
    plain.load_state_dict({n: t for n, t in layer.state_dict().items() if not n.startswith("gate")})
    torch.testing.assert_close(maps[50.0], seen_by(plain, x, None)[1][0])
    assert bool((mixed >= torch.minimum(maps[-50.0], maps[50.0]) - 1e-12).all())


@pytest.mark.parametrize("kind", ["attention", "mean", "token"])
def test_pooling_counts_real_frames_alone(kind: Any) -> None:
    pool, x = stirred(Pooling(6, 2, kind)), torch.randn(2, 5, 6, dtype=torch.float64)
    real = torch.tensor([[True, True, False, False, True], [False] * 5])
    pooled = pool(x, real)
    torch.testing.assert_close(pooled[:1], pool(x[:1, [0, 1, 4]], None))
    if kind == "attention":
        assert not pooled[1].any()
        (a,) = seen_by(pool, x, real)[1]
        assert a.shape == (2, 2, 1, 5)
        torch.testing.assert_close(a.sum(dim=3)[0], torch.ones(2, 1).double())
        assert not a[1].any()


def model_of(how: str, **options: Any) -> FusionModel:
    torch.manual_seed(0)
    joint = how != "late"
    encoder: dict[str, Any] = {"width": 8, "heads": 2, "layers": 0 if joint else 1, "dropout": 0.0}
    encoder |= {"pool": "mean"} if joint else options
    encoders = {"rgb": FrameTransformer(features=5, **encoder), "audio": FrameTransformer(features=3, **encoder)}
    fusion = JointTransformer(join=how, width=8, heads=2, dropout=0.0, **options) if joint else Concat(hidden=8)  # type: ignore[arg-type]
    return stirred(FusionModel(encoders, fusion, classes=4))


def samples(n: int = 3, frames: int = 6) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(2)
    return {m: torch.randn(n, frames, d, generator=g, dtype=torch.float64) for m, d in (("rgb", 5), ("audio", 3))}


@pytest.mark.parametrize("how", ["frames", "tokens", "late"])
@pytest.mark.parametrize("mixing", ["attention", "gate", "mean"])
def test_padding_changes_nothing_and_maps_come_only_when_asked_for(how: str, mixing: str) -> None:
    model, x = model_of(how, mixing=mixing, window=2), samples()
    padded = {m: torch.cat([v, torch.full((3, 4, v.shape[2]), 9.0).double()], dim=1) for m, v in x.items()}
    mask = {m: (torch.arange(10) < 6).expand(3, 10) for m in x}
    if (
        how == "tokens" and mixing == "gate"
    ):  # padding between the modalities moves their frames apart: pad the last one
        padded, mask = {**padded, "rgb": x["rgb"]}, {"audio": mask["audio"]}
    plain = model(x)
    assert plain.attention is None
    answer = model(padded, mask, need=("attention",))
    torch.testing.assert_close(answer.logits, plain.logits, rtol=1e-9, atol=1e-11)
    maps = model(x, need=("attention",)).attention
    assert maps is not None
    assert len(maps) == {"frames": 3, "tokens": 3, "late": 4}[how]
    assert maps[0].shape[2:] == ((12, 12) if how == "tokens" else (6, 6))
    assert maps[-1].shape[2] == 1


def test_padding_of_strided_branches_changes_nothing() -> None:
    torch.manual_seed(0)
    branches = {"a": SeriesNet(features=3, width=2), "b": SeriesNet(features=2, width=2)}
    model = stirred(FusionModel(branches, JointTransformer(width=8, heads=2, dropout=0.0), classes=4))
    for length in (5, 8, 13):
        x = {n: torch.randn(2, length, d).double() for n, d in (("a", 3), ("b", 2))}
        expected = model(x).logits
        for more in (1, 6, 7, 8, 15):
            padded = {n: torch.cat([v, v.new_zeros(2, more, v.shape[2])], dim=1) for n, v in x.items()}
            mask = {n: (torch.arange(length + more) < length).expand(2, -1) for n in x}
            torch.testing.assert_close(model(padded, mask).logits, expected, rtol=1e-9, atol=1e-11)


def test_a_frame_is_there_where_any_modality_is() -> None:
    model, x = model_of("frames"), samples()
    rgb = torch.tensor([True, True, False, True, False, True]).expand(3, 6)
    mask = {"rgb": rgb, "audio": ~rgb | (torch.arange(6) == 0)}
    changed = {"rgb": x["rgb"].where(rgb[..., None], torch.tensor(7.0).double()), "audio": x["audio"]}
    torch.testing.assert_close(model(x, mask).logits, model(changed, mask).logits)
    last = {m: (torch.arange(6) < 5).expand(3, 6) for m in x}
    torch.testing.assert_close(model(x, last).logits, model({m: v[:, :5] for m, v in x.items()}).logits)


def test_frames_of_different_rates_are_joined_as_tokens_alone() -> None:
    x = samples() | {"audio": torch.randn(3, 9, 3).double()}
    assert model_of("tokens")(x).logits.shape == (3, 4)
    with pytest.raises(ModelError, match="join: tokens"):
        model_of("frames")(x)


@pytest.mark.parametrize("how", ["frames", "tokens", "late"])
def test_maps_made_again_on_the_way_back_give_the_same_loss_and_gradients(how: str) -> None:
    model, x = model_of(how), samples()
    found = []
    for again in (False, True):
        model.zero_grad()
        with watching(Watch(lambda a: a.square().sum(), checkpoint=again)) as watch:
            logits = model(x).logits
        assert watch is not None
        loss = logits.sum() + torch.stack(watch.kept).sum()
        loss.backward()
        found.append((loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0], found[1])
    assert len(found[0][1]) > 10


def test_checkpoints_hold_fewer_maps() -> None:
    """What autograd keeps for the way back, counted: without checkpoints every layer's maps, with them of none."""
    encoder = FrameTransformer(features=4, width=8, heads=2, layers=3, dropout=0.0, pool="mean")
    x, kept = torch.randn(2, 50, 4), {}

    def pack(t: Tensor) -> Tensor:
        kept[again] = kept.get(again, 0) + (t.shape[-2:] == (50, 50))
        return t

    for again in (False, True):
        with (
            watching(Watch(lambda a: a.square().sum(), checkpoint=again)),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
        ):
            encoder(x)
    assert kept[False] >= 3
    assert kept.get(True, 0) == 0


def test_search_finds_the_same_with_cached_branches() -> None:
    model, x = model_of("tokens").float(), {m: v.float() for m, v in samples(4).items()}
    mask = {m: torch.arange(6).expand(4, 6) < torch.tensor([[6], [3], [1], [5]]) for m in x}
    threat = cg.ThreatModel(rgb=cg.Linf(0.5))
    targets = model(x, mask).logits.argmax(dim=1)
    found = cg.attacks.pgd(model, x, targets, threat, mask=mask, steps=5)
    assert not (found.inputs["rgb"] - x["rgb"])[~mask["rgb"]].any()
    margin = cg.SingleLabel(4).margin(model(found.inputs, mask).logits, targets)
    torch.testing.assert_close(found.margin, margin, rtol=1e-4, atol=1e-5)


def test_a_mixture_of_experts_by_hand_and_at_the_ends() -> None:
    head = MixtureOfExperts(1, 1, 2).double()
    head.gate.weight.data.zero_()
    head.expert.weight.data.zero_()
    head.gate.bias.data = torch.tensor([math.log(1.0), math.log(2.0), math.log(1.0)]).double()
    head.expert.bias.data = torch.tensor([0.0, math.log(3.0)]).double()
    # 1/4 x 1/2 + 2/4 x 3/4 + 1/4 x 0.
    p = head(torch.zeros(1, 1).double()).sigmoid().item()
    assert p == pytest.approx(0.5)
    head.expert.bias.data = torch.tensor([800.0, 800.0]).double()
    head.gate.bias.data = torch.tensor([800.0, 800.0, 0.0]).double()
    assert math.isfinite(head(torch.zeros(1, 1).double()).item())


def test_frame_mask_and_position() -> None:
    mask = torch.tensor([True, False])
    assert frame_mask(mask, 3) is not None
    assert torch.equal(frame_mask(mask, 3), mask[:, None].expand(2, 3))  # type: ignore[arg-type]
    by_feature = torch.tensor([[[True, False], [False, False]]])
    assert frame_mask(by_feature, 2).tolist() == [[True, False]]  # type: ignore[union-attr]
    coarse = frame_mask(torch.tensor([[True, False, False, False]]), 2)
    assert coarse is not None
    assert coarse.tolist() == [[True, False]]
    position = sine(300, 7, torch.zeros(1))
    assert position.shape == (300, 7)
    assert torch.cdist(position, position).fill_diagonal_(1.0).min() > 1e-3


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: FrameTransformer(features=0), "features"),
        (lambda: FrameTransformer(features=3, width=10, heads=3), "divide the width"),
        (lambda: FrameTransformer(features=3, layers=-1), "layers"),
        (lambda: FrameTransformer(features=3, mixing="gate", pool="token"), "class token"),
        (lambda: FrameTransformer(features=3, mixing="gate", window=-1), "window"),
        (lambda: JointTransformer(experts=-1), "experts"),
        (lambda: JointTransformer(prior=0.0), "prior"),
        (lambda: JointTransformer(prior=0.1, experts=2), "prior"),
        (lambda: FrameTransformer(features=3)(torch.zeros(1, 301, 3)), "301 frames"),
        (lambda: FrameTransformer(features=3)(torch.zeros(1, 0, 3)), "0 frames"),
        (lambda: FrameTransformer(features=3)(torch.zeros(1, 4, 5)), "shape"),
        (lambda: frame_mask(torch.ones(1, 4, dtype=torch.bool), 5), "class token"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: Any, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        make()


def test_three_hundred_frames_pass_and_learn() -> None:
    """One telling frame among many: a plain model finds it, the mean of the frames does not."""
    torch.manual_seed(0)
    scores = {}
    for mixing, pool in (("attention", "attention"), ("mean", "mean")):
        encoder = FrameTransformer(features=8, width=16, heads=2, layers=1, mixing=mixing, pool=pool, dropout=0.0)  # type: ignore[arg-type]
        model = FusionModel({"rgb": encoder}, Concat(hidden=0), classes=2, auxiliary=False)
        optimizer = torch.optim.Adam(model.parameters(), 2e-2)
        for step in range(50):
            x, y = _needle(32, step)
            loss = nn.functional.cross_entropy(model({"rgb": x}).logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        x, y = _needle(256, 999)
        scores[mixing] = (model.eval()({"rgb": x}).logits.argmax(1) == y).float().mean().item()
    assert scores["attention"] > 0.95
    assert scores["attention"] > scores["mean"] + 0.1
    assert FrameTransformer(features=8)(torch.zeros(1, 300, 8)).shape == (1, 128, 300)


def _needle(n: int, seed: int, frames: int = 20) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, frames, 8, generator=g), torch.randint(2, (n,), generator=g)
    at = torch.randint(frames, (n,), generator=g)
    x[torch.arange(n), at, 0] = 5.0
    x[torch.arange(n), at, 1] = 3.0 * (2 * y - 1)
    return x, y


def test_a_head_begins_at_the_prior() -> None:
    fusion = JointTransformer(width=8, heads=2, prior=0.01)
    model = FusionModel({"rgb": FrameTransformer(features=5, width=8, layers=0, pool="mean")}, fusion, classes=4)
    with torch.no_grad():
        model.fusion.head[0].weight.zero_()  # type: ignore[index,union-attr,operator]
        said = model({"rgb": torch.randn(3, 6, 5)}).logits
    torch.testing.assert_close(said.sigmoid(), torch.full((3, 4), 0.01))
