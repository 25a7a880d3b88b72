"""Models cut at a submodule: head and tail are the model, and the model is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.attacks import apgd, pgd
from crossguard.core import Branched, forward, takes_mask


class Frontend(nn.Module):
    """Log energy of frames of ten, (N, T) to (N, T / 10, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.bands = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bands(x.unflatten(1, (-1, 10))).square().add(1e-3).log()


class Net(nn.Module):
    """Audio through a front end, and pictures a frame at a time, as foreign models are."""

    def __init__(self) -> None:
        super().__init__()
        self.frontend = Frontend()
        self.norm = nn.BatchNorm1d(4)
        self.frames = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
        self.head = nn.Linear(9, 3)

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        sound = self.norm(self.frontend(audio).mean(dim=1))
        n, t = video.shape[:2]
        pictures = self.frames(video.flatten(0, 1)).unflatten(0, (n, t)).mean(dim=1)
        return self.head(torch.cat([sound, pictures], dim=1))


def _adapted(n: int = 12) -> tuple[nn.Module, cg.Inputs]:
    torch.manual_seed(0)
    model = cg.adapt(Net(), inputs=("audio", "video"))
    return model.eval(), {"audio": torch.randn(n, 80), "video": torch.randn(n, 7, 6)}


def _fused(fusion: Any = None) -> tuple[nn.Module, cg.Inputs]:
    torch.manual_seed(0)
    encoders = {n: cg.models.SeriesNet(features=3, width=4) for n in ("audio", "video")}
    model = cg.FusionModel(encoders, fusion or cg.fusion.Concat(), 3)
    return model.eval(), {"audio": torch.randn(12, 16, 3), "video": torch.randn(12, 16, 3)}


def _state(model: nn.Module) -> list[Any]:
    return [
        [(n, id(m), m.training, id(m.forward.__func__)) for n, m in model.named_modules()],
        [(n, id(p), p.grad, p.requires_grad) for n, p in model.named_parameters()],
        [(n, t.clone().tolist()) for n, t in model.state_dict().items()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        torch.get_rng_state().tolist(),
    ]


CUTS: list[tuple[Any, dict[str, str], dict[str, tuple[int, ...]]]] = [
    (_adapted, {"audio": "net.frontend"}, {"audio": (12, 8, 4), "video": (12, 7, 6)}),
    (_adapted, {"audio": "net.frontend.bands"}, {"audio": (12, 8, 4), "video": (12, 7, 6)}),
    (_adapted, {"audio": "net.norm", "video": "net.frames.0"}, {"audio": (12, 4), "video": (12, 7, 5)}),
    (_fused, {"audio": "encoders.audio.layer1"}, {"audio": (12, 4, 8), "video": (12, 16, 3)}),
    (_fused, {"audio": "encoders.audio.layer2", "video": "encoders.video.layer1"},
     {"audio": (12, 8, 4), "video": (12, 4, 8)}),
]  # fmt: skip


@pytest.mark.parametrize(("build", "at", "shapes"), CUTS)
def test_head_and_tail_are_the_model(build: Any, at: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> None:
    model, x = build()
    before = _state(model)
    head, tail = cg.cut(model, at)
    features = head(x)
    assert {n: tuple(f.shape) for n, f in features.items()} == shapes
    assert not any(f.requires_grad for f in features.values())
    assert torch.equal(forward(tail, features).logits, forward(model, x).logits)
    assert tail.level == at
    assert takes_mask(tail) == takes_mask(model)
    assert {id(p) for p in tail.parameters()} == {id(p) for p in model.parameters()}
    tail(features, need=("latents",))
    assert _state(model) == before


@pytest.mark.parametrize("attack", [pgd, apgd])
def test_an_attack_on_the_tail_is_one_on_features_by_hand(attack: Any) -> None:
    model, x = _adapted(32)
    net = model.net
    assert isinstance(net, Net)

    class ByHand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.frames, self.head = net.norm, net.frames, net.head

        def forward(self, inputs: cg.Inputs) -> Tensor:
            sound = self.norm(inputs["audio"].mean(dim=1))
            pictures = self.frames(inputs["video"].flatten(0, 1)).unflatten(0, (-1, 7)).mean(dim=1)
            return self.head(torch.cat([sound, pictures], dim=1))

    head, tail = cg.cut(model, {"audio": "net.frontend"})
    targets = forward(model, x).logits.argmax(dim=1)
    features = head(x)
    model.train()
    before = _state(model)
    threat = cg.ThreatModel(audio=cg.Linf(0.5), video=cg.L2(0.2))
    one = attack(tail, features, targets, threat, ids=list(range(32)), steps=6)
    assert _state(model) == before
    two = attack(ByHand(), features, targets, threat, ids=list(range(32)), steps=6)
    assert torch.equal(one.success, two.success)
    assert torch.equal(one.margin, two.margin)
    assert one.success.any()
    assert not one.success.all()
    assert all(torch.equal(one.inputs[n], two.inputs[n]) for n in features)
    assert threat.contains(one.inputs, features).all()


def test_branches_of_the_tail_can_be_run_apart() -> None:
    model, x = _fused()
    head, tail = cg.cut(model, {"audio": "encoders.audio.layer1"})
    assert isinstance(tail, Branched)
    assert tail.modalities == model.modalities
    features = head(x)
    encoded = {n: tail.encode(n, f) for n, f in features.items()}
    assert torch.equal(tail.fuse(encoded).logits, model(x).logits)
    runs = {"audio": 0, "video": 0}
    for name in runs:

        def count(*_: object, name: str = name) -> None:
            runs[name] += 1

        model.get_submodule(f"encoders.{name}.layer1").register_forward_hook(count)
    targets = model(x).logits.argmax(dim=1)
    runs.update(audio=0, video=0)
    pgd(tail, features, targets, cg.ThreatModel(audio=cg.Linf(0.01)), steps=10)
    assert runs["audio"] >= 10
    assert runs["video"] <= 3


def test_the_head_runs_in_eval_mode() -> None:
    model, x = _adapted()
    head, _ = cg.cut(model, {"audio": "net.norm"})
    expected = head(x)["audio"]
    before = _state(model.train())
    assert torch.equal(head(x)["audio"], expected)
    assert _state(model) == before


def test_hooks_at_the_cut_act_once() -> None:
    model, x = _adapted()
    model.net.frontend.register_forward_hook(lambda module, given, answer: answer * 2)
    head, tail = cg.cut(model, {"audio": "net.frontend"})
    assert torch.equal(forward(tail, head(x)).logits, forward(model, x).logits)


def test_masks_go_on_to_the_model() -> None:
    model, x = _fused()
    mask = {"audio": torch.arange(12) % 2 == 0}
    head, tail = cg.cut(model, {"audio": "encoders.audio.layer1"})
    features = head(x, mask)
    assert torch.equal(tail(features, mask).logits, model(x, mask).logits)
    targets = model(x, mask).logits.argmax(dim=1)
    found = pgd(tail, features, targets, cg.ThreatModel(audio=cg.Linf(0.5)), mask=mask, stop="never").inputs
    assert torch.equal(found["audio"][1::2], features["audio"][1::2])


def test_parameters_stay_shared_when_the_model_changes() -> None:
    model, x = _adapted()
    head, tail = cg.cut(model, {"audio": "net.frontend"})
    head(x)
    model.double()
    with torch.no_grad():
        model.net.head.weight.mul_(3)
    x = {n: v.double() for n, v in x.items()}
    assert torch.equal(forward(tail, head(x)).logits, forward(model, x).logits)
    model.train()
    tail.eval()
    assert not any(m.training for m in model.modules())


class Twice(nn.Module):
    """Wrong in each of the ways that a cut must tell."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.front, self.unused, self.way = nn.Linear(4, 4), nn.Linear(4, 4), way
        self.pair = Pair()

    def forward(self, inputs: cg.Inputs) -> Tensor:
        x = inputs["a"]
        if self.way == "twice":
            return self.front(self.front(x))
        if self.way == "around":
            return self.front(x) + x
        if self.way == "pair":
            return self.pair(x)[0]
        if self.way == "time first":
            return self.front(torch.stack([x, 2 * x]).flatten(0, 1)).unflatten(0, (2, -1)).sum(dim=0)
        if self.way == "pooled":
            return self.front(x.mean(dim=0)) + 0 * x
        return x


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("way", "path", "words"),
    [
        ("twice", "front", "ran 2 times"),
        ("never", "unused", "ran 0 times"),
        ("around", "front", "around"),
        ("pair", "pair", "answers tuple"),
        ("time first", "front", "side by side"),
        ("pooled", "front", "4 rows for 6 samples"),
    ],
)
def test_what_cannot_be_cut_is_told(way: str, path: str, words: str) -> None:
    model = Twice(way)
    head, tail = cg.cut(model, {"a": path})
    with pytest.raises(cg.ModelError, match=words):
        head({"a": torch.randn(6, 4)})
    with pytest.raises(cg.ModelError, match="head to be called once"):
        tail({"a": torch.randn(6, 4)})


def test_paths_are_checked_at_once() -> None:
    model, x = _adapted()
    with pytest.raises(cg.ModelError, match=r"did you mean 'net\.frontend'"):
        cg.cut(model, {"audio": "frontend"})
    with pytest.raises(cg.ModelError, match=r"did you mean 'net\.frontend'"):
        cg.cut(model, {"audio": "net.frontent"})
    for at in ({}, {"audio": "net.norm", "video": "net.norm"}):
        with pytest.raises(cg.ModelError, match="submodule of its own"):
            cg.cut(model, at)
    head, tail = cg.cut(model, {"sound": "net.frontend"})
    with pytest.raises(cg.ModelError, match="'sound'"):
        head(x)
    with pytest.raises(cg.ModelError, match="'sound'"):
        tail(x)


def test_a_cut_behind_the_first_exchange_is_told() -> None:
    fusion = cg.fusion.MMTM(at={"audio": ("layer1",), "video": ("layer1",)})
    model, x = _fused(fusion)
    head, _ = cg.cut(model, {"audio": "encoders.audio.layer3"})
    with pytest.raises(cg.ModelError, match="around"):
        head(x)
