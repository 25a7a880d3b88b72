"""FusionModel: branches apart and together, presence, depths, what is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.core import Branched, ModelError, Output
from crossguard.core.files import read_safetensors, write_safetensors
from crossguard.models import HCN, FusionModel, SeriesNet, VideoResNet
from crossguard.models.fusion import (
    AMR,
    FUSIONS,
    MMTM,
    Concat,
    Early,
    ExFMem,
    Fusion,
    JointTransformer,
    Late,
    Mean,
    Mid,
    OddOneOut,
)

MAKERS: dict[str, Any] = {
    "concat": lambda: Concat(hidden=8),
    "concat at one width": lambda: Concat(hidden=8, width=7),
    "mean": Mean,
    "mmtm": MMTM,
    "mmtm once": lambda: MMTM(at={"rgb": "layer2", "skeleton": "conv6", "inertial": "layer1"}),
    "amr": lambda: AMR(width=8),
    "amr deep": lambda: AMR(
        width=8,
        gate="channel",
        floor=0.1,
        base="mean",
        at={"rgb": ("layer2", "layer4"), "skeleton": ("conv5", "conv6"), "inertial": ("layer1", "layer2")},
    ),
    "exfmem": lambda: ExFMem(size=16, iterations=5),
    "exfmem at one width": lambda: ExFMem(size=16, iterations=5, width=7, hidden=8),
    "odd_one_out": lambda: OddOneOut(width=8, hidden=8),
    "transformer": lambda: JointTransformer(width=8, heads=2, dropout=0),
    "transformer gated": lambda: JointTransformer(width=8, heads=2, layers=1, mixing="gate", window=1, experts=2),
    "transformer token": lambda: JointTransformer(width=8, heads=2, layers=1, pool="token"),
    "early": lambda: Early(width=8, heads=2, hidden=8),
    "mid": lambda: Mid(width=8, heads=2, hidden=0),
    "late": Late,
    "late of perceptrons": lambda: Late(hidden=8),
    "concat of experts": lambda: Concat(hidden=8, experts=2),
}


def data(samples: int = 3, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"rgb": (3, 4, 8, 8), "skeleton": (2, 8, 25, 3), "inertial": (9, 6)}
    return {n: torch.rand(samples, *s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}


def made(fusion: Fusion, names: tuple[str, ...] = ("rgb", "skeleton", "inertial"), **options: Any) -> FusionModel:
    """A small model in float64, every parameter moved off its special values, in eval mode."""
    torch.manual_seed(0)
    encoders: dict[str, nn.Module] = {
        "rgb": VideoResNet(width=4, stride=(1, 2, 2)),
        "skeleton": HCN(width=8, frames=8),
        "inertial": SeriesNet(features=6, width=4),
    }
    model = FusionModel({n: encoders[n] for n in names}, fusion, 5, **options).double()
    for p in model.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    model(data(8, seed=9))
    model.eval()
    if isinstance(fusion, ExFMem):
        known = data(8, seed=9)
        fusion.fill({n: model.encode(n, known[n]).value.detach() for n in names})
    return model


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_every_fusion_is_tested() -> None:
    assert {name.split()[0] for name in MAKERS} == set(FUSIONS)


@pytest.mark.parametrize("name", MAKERS)
def test_branches_apart_make_the_whole(name: str) -> None:
    model = made(MAKERS[name]())
    x = data()
    mask = {"skeleton": torch.tensor([[True, True], [True, False], [False, False]])}
    features = {n: model.encode(n, v, mask.get(n)) for n, v in x.items()}
    assert isinstance(model, Branched)
    assert torch.equal(model.fuse(features).logits, model(x, mask=mask).logits)
    rows = torch.tensor([2, 0])
    taken = model.fuse({n: f.take(rows) for n, f in features.items()}).logits
    close(taken, model(x, mask=mask).logits[rows])


@pytest.mark.parametrize("name", MAKERS)
def test_a_sample_is_answered_by_itself_alone(name: str) -> None:
    model, x = made(MAKERS[name]()), data()
    whole = model(x).logits
    close(model({n: v[1:2] for n, v in x.items()}).logits, whole[1:2])
    order = torch.tensor([2, 0, 1])
    close(model({n: v[order] for n, v in x.items()}).logits, whole[order])


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("lost", ["rgb", "skeleton", "inertial"])
def test_an_absent_modality_contributes_nothing(name: str, lost: str) -> None:
    model, x = made(MAKERS[name]()), data()
    absent = {lost: torch.zeros(3, dtype=torch.bool)}
    here = model(x, mask=absent, need=("weights",))
    there = model({**x, lost: x[lost] + 5.0}, mask=absent)
    assert torch.equal(here.logits, there.logits)
    left_out = {n: v for n, v in x.items() if n != lost}
    close(model(left_out, mask=absent).logits, here.logits)
    assert not torch.equal(here.logits, model(x).logits)
    if here.weights is not None:
        assert not here.weights[lost].any()
    some = {lost: torch.tensor([True, False, True])}
    mixed = model(x, mask=some).logits
    close(mixed[[0, 2]], model(x).logits[[0, 2]])
    close(mixed[1], here.logits[1])


@pytest.mark.parametrize("name", MAKERS)
def test_every_input_and_parameter_has_a_gradient(name: str) -> None:
    model = made(MAKERS[name]())
    x = {n: v.requires_grad_() for n, v in data().items()}
    out = model(x, need=("auxiliary",))
    assert out.auxiliary is not None
    (out.logits.square().sum() + sum(a.square().sum() for a in out.auxiliary.values())).backward()
    for v in x.values():
        assert v.grad is not None
        assert bool((v.grad.flatten(1).abs().sum(dim=1) > 0).all())
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", MAKERS)
def test_only_what_is_asked_for_is_made(name: str) -> None:
    model, x = made(MAKERS[name]()), data()
    calls: list[str] = []
    for n, head in model.heads.items():
        head.register_forward_hook(lambda *_, n=n: calls.append(n))
    plain = model(x)
    assert (plain.auxiliary, plain.latents, plain.weights, plain.attention) == (None, None, None, None)
    assert calls == []
    full = model(x, need=("auxiliary", "latents", "weights"))
    assert torch.equal(full.logits, plain.logits)
    assert calls == ["rgb", "skeleton", "inertial"]
    assert full.auxiliary is not None
    assert full.latents is not None
    assert list(full.latents) == ["rgb", "skeleton", "inertial", "fused"]
    for n, head in model.heads.items():
        close(head(full.latents[n]), full.auxiliary[n])
    if name.startswith(("amr", "odd_one_out")):
        assert full.weights is not None
        close(torch.stack(list(full.weights.values())).sum(dim=0), torch.full((3,), 3.0, dtype=torch.float64))
    else:
        assert full.weights is None


def test_auxiliary_heads_read_what_is_not_yet_reweighted() -> None:
    model, x = made(AMR(width=8)), data()
    out = model(x, need=("latents", "weights"))
    own = model.encode("rgb", x["rgb"]).value
    assert torch.equal(out.latents["rgb"], own)
    scaled = torch.cat([out.latents[n] * out.weights[n][:, None] for n in model.modalities], dim=1)
    close(out.latents["fused"], scaled)


def test_without_auxiliary_heads_there_are_no_parameters_for_them() -> None:
    model = made(Concat(), auxiliary=False)
    assert not any(n.startswith("heads") for n, _ in model.named_parameters())
    assert model(data(), need=("auxiliary",)).auxiliary is None


def test_one_encoder_is_a_unimodal_model() -> None:
    model = made(Concat(hidden=0), names=("skeleton",))
    x = data()
    close(model(x).logits, model({"skeleton": x["skeleton"]}).logits)


def test_mmtm_reweights_maps_on_the_way() -> None:
    model, x = made(MMTM(at={"rgb": "layer2", "skeleton": "conv6"}), names=("rgb", "skeleton")), data()
    rgb, skeleton = model.encoders["rgb"], model.encoders["skeleton"]
    maps = {"rgb": rgb.run(x["rgb"], to="layer2"), "skeleton": skeleton.run(x["skeleton"], to="conv6")}
    tokens = {"rgb": maps["rgb"].flatten(2).mean(2), "skeleton": maps["skeleton"].amax(2).flatten(2).mean(2)}
    scale = model.fusion.gates(0, tokens, None).scale
    scaled = {n: m * scale[n].view(*scale[n].shape, 1, 1, 1) for n, m in maps.items()}
    rest = {
        "rgb": rgb.run(scaled["rgb"], after="layer2").flatten(2).mean(2),
        "skeleton": skeleton.run(scaled["skeleton"], after="conv6"),
    }
    expected = sum(model.fusion.late.heads[n](r) for n, r in rest.items()) / 2
    close(model(x).logits, expected)


def test_an_attack_on_one_modality_runs_the_other_branch_once() -> None:
    model, x = made(Concat(hidden=8)), data()
    calls = {"rgb": 0, "skeleton": 0}
    for n in calls:
        model.encoders[n].get_submodule(model.encoders[n].stages[0]).register_forward_hook(
            lambda *_, n=n: calls.__setitem__(n, calls[n] + 1)
        )
        if n == "skeleton":
            model.encoders[n].streams[0].register_forward_hook(
                lambda *_: calls.__setitem__("skeleton", calls["skeleton"] + 1)
            )
    threat = cg.ThreatModel(rgb=cg.Linf(0.05, bounds=(0, 1)))
    result = cg.attacks.pgd(model, x, torch.tensor([0, 1, 2]), threat, steps=4, stop="never")
    assert calls["rgb"] >= 5
    assert calls["skeleton"] <= 3
    assert bool((result.margin <= cg.SingleLabel(5).margin(model(x).logits, torch.tensor([0, 1, 2]))).all())


@pytest.mark.parametrize("name", MAKERS)
def test_state_goes_by_file_into_a_new_model(name: str, tmp_path: Path) -> None:
    model, x = made(MAKERS[name]()), data()
    other = made(MAKERS[name]())
    for tensor in other.state_dict().values():
        tensor.zero_()
    write_safetensors(tmp_path / "model.safetensors", model.state_dict())
    other.load_state_dict(read_safetensors(tmp_path / "model.safetensors"))
    assert torch.equal(other(x).logits, model(x).logits)


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("names", [("skeleton",), ("rgb", "skeleton"), ("rgb", "skeleton", "inertial")])
def test_every_fusion_takes_any_number_of_modalities(name: str, names: tuple[str, ...]) -> None:
    model, x = made(FUSIONS[name](), names=names), data()
    out = model(x, need=("weights", "odd_one_out"))
    assert out.logits.shape == (3, 5)
    assert (out.odd_one_out is None) == (name != "odd_one_out")
    if out.weights is not None:
        close(torch.stack(list(out.weights.values())).sum(dim=0), torch.full((3,), float(len(names))).double())
    nobody = model(x, mask={n: torch.zeros(3, dtype=torch.bool) for n in names})
    assert bool(nobody.logits.isfinite().all())
    close(nobody.logits, nobody.logits[:1].expand(3, -1))


@pytest.mark.parametrize("name", ["concat", "mean", "amr", "odd_one_out", "exfmem"])
def test_a_vote_is_the_mean_of_the_heads_that_are_there(name: str) -> None:
    plain, voting = made(MAKERS[name]()), made(MAKERS[name](), inference="vote")
    voting.load_state_dict(plain.state_dict())
    x, real = data(), torch.tensor([True, False, True])
    out = plain(x, mask={"rgb": real}, need=("auxiliary",))
    told = voting(x, mask={"rgb": real})
    assert told.auxiliary is None
    assert out.auxiliary is not None
    others = out.logits + out.auxiliary["skeleton"] + out.auxiliary["inertial"]
    close(told.logits[[0, 2]], (others + out.auxiliary["rgb"])[[0, 2]] / 4)
    close(told.logits[1], others[1] / 3)
    close(voting(x).logits.log_softmax(1).exp(), _product(plain(x, need=("auxiliary",)), 4))
    trained: list[Tensor] = []
    for model in (plain, voting):
        torch.manual_seed(0)  # the same dropout
        trained.append(model.train()(x).logits)
    assert torch.equal(*trained)


def _product(out: Output, heads: int) -> Tensor:
    """The normalised geometric mean of all heads' beliefs."""
    assert out.auxiliary is not None
    beliefs = [out.logits.softmax(1), *(a.softmax(1) for a in out.auxiliary.values())]
    joint = torch.stack(beliefs).prod(dim=0) ** (1 / heads)
    return joint / joint.sum(dim=1, keepdim=True)


def test_a_vote_needs_heads() -> None:
    with pytest.raises(ModelError, match="'vote' or 'committee' with auxiliary heads"):
        made(Concat(), auxiliary=False, inference="vote")
    with pytest.raises(ModelError, match="found inference 'voted'"):
        made(Concat(), inference="voted")


def test_at_one_width_latents_and_heads_are_of_it() -> None:
    model = made(Concat(hidden=0, width=7))
    out = model(data(), need=("latents", "auxiliary"))
    assert out.latents is not None
    assert {n: z.shape[1] for n, z in out.latents.items()} == {"rgb": 7, "skeleton": 7, "inertial": 7, "fused": 21}
    rgb = model.encoders["rgb"](data()["rgb"]).flatten(2).mean(2)
    close(out.latents["rgb"], rgb @ model.fusion.project["rgb"].weight.T)


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ({"rgb": "layer5", "skeleton": "conv6"}, "did you mean 'layer"),
        ({"rgb": "layer4"}, "name each once"),
        ({"rgb": ("layer3", "layer4"), "skeleton": "conv6"}, "as many stages"),
        ({"rgb": ("layer4", "layer3"), "skeleton": ("conv5", "conv6")}, "shallow to deep"),
        ({"rgb": (), "skeleton": ()}, "as many stages"),
    ],
)
def test_impossible_places_are_named(at: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        made(AMR(at=at), names=("rgb", "skeleton"))


def test_misuse_is_explained() -> None:
    model, x = made(Concat()), data()
    with pytest.raises(ModelError, match="needs 'rgb'"):
        model({n: v for n, v in x.items() if n != "rgb"})
    with pytest.raises(ModelError, match="no branch 'audio'"):
        model.encode("audio", x["rgb"])
    with pytest.raises(ModelError, match="nothing to fuse"):
        model.fuse({})
    with pytest.raises(ModelError, match="at least one encoder"):
        FusionModel({}, Concat(), 3)
    with pytest.raises(ModelError, match=r"expected a crossguard\.models\.Encoder"):
        FusionModel({"rgb": nn.Linear(2, 2)}, Concat(), 3)
    with pytest.raises(ModelError, match="is for insert"):
        made(AMR({"rgb": 32}), names=("rgb",))


@pytest.mark.parametrize("name", ["a.b", "", "keys", "training"])
def test_a_name_that_torch_keeps_for_itself(name: str) -> None:
    with pytest.raises(ModelError, match="cannot name a branch"):
        FusionModel({name: SeriesNet(features=3)}, Concat(), 2)
