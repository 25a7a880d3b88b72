"""An AMR put into a model that is not ours."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crossguard.core import ModelError, Output, forward, takes_mask
from crossguard.models import adapt
from crossguard.models.fusion import AMR, insert
from crossguard.models.fusion.fusion import scale_channels

DIMS = {"rgb": 4, "skeleton": 6}
AT = {"rgb": "rgb.layer4", "skeleton": "skeleton.conv6"}


class Theirs(nn.Module):
    """Two branches, the second run after the first is quite done; a model's own handler of exceptions."""

    def __init__(self, amr: AMR | None = None) -> None:
        super().__init__()
        self.rgb = nn.ModuleDict(
            {
                "layer3": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
                "layer4": nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3)),
            }
        )
        self.skeleton = nn.ModuleDict({"conv6": nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh())})
        self.head = nn.Sequential(nn.Linear(10, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))
        self.amr = amr
        self.runs = 0

    def forward(self, rgb: Tensor, skeleton: Tensor) -> Tensor:
        self.runs += 1
        a = self.rgb["layer4"](self.rgb["layer3"](rgb))
        if self.amr is None:
            a = a.relu().mean(dim=(2, 3))
            try:
                b = self.skeleton["conv6"](skeleton)
            except Exception as error:
                raise AssertionError("the model was not asked to handle this") from error
        else:
            b = self.skeleton["conv6"](skeleton)
            scale = self.amr.gates(0, {"rgb": a.flatten(2).mean(dim=2), "skeleton": b}, None).scale
            a = scale_channels(a, scale["rgb"]).relu().mean(dim=(2, 3))
            b = scale_channels(b, scale["skeleton"])
        return self.head(torch.cat([a, b], dim=1))


def pair(**options: Any) -> tuple[Theirs, AMR, Theirs]:
    """Their model, a trained-looking AMR, and a copy of both in one hand-built model."""
    torch.manual_seed(0)
    net, amr = Theirs(), AMR(DIMS, width=8, **options)
    for p in amr.parameters():
        p.data.normal_()
    built = Theirs(copy.deepcopy(amr))
    built.load_state_dict(net.state_dict(), strict=False)
    return net, amr, built


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 3, 8, 8, generator=generator), torch.randn(5, 5, generator=generator)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"gate": "channel"}, {"residual": True, "floor": 0.2}])
def test_it_equals_a_model_built_by_hand_to_the_bit(training: bool, options: dict[str, Any]) -> None:
    net, amr, built = pair(**options)
    both = insert(net, amr, at=AT).train(training)
    built.train(training)
    leaves = [[v.clone().requires_grad_() for v in data()] for _ in range(2)]
    first, second = both(*leaves[0]), built(*leaves[1])
    assert torch.equal(first, second)
    first.square().sum().backward()
    second.square().sum().backward()
    for a, b in zip(*leaves, strict=True):
        assert torch.equal(a.grad, b.grad)
    ours = {**dict(net.named_parameters()), **{f"amr.{n}": p for n, p in amr.named_parameters()}}
    for n, p in built.named_parameters():
        torch.testing.assert_close(ours[n].grad, p.grad, rtol=0, atol=0)
    for n, buffer in net.named_buffers():
        assert torch.equal(buffer, dict(built.named_buffers())[n]), n


def test_it_changes_nothing_before_it_is_trained() -> None:
    net, _, _ = pair()
    net.eval()
    torch.testing.assert_close(insert(net, AMR(DIMS), at=AT).eval()(*data()), net(*data()))


def test_all_of_it_trains() -> None:
    net, amr, _ = pair()
    both = insert(net, amr, at=AT)
    names = {n for n, _ in both.named_parameters()}
    assert {n.split(".")[0] for n in names} == {"model", "reweight"}
    assert set(both.state_dict()) >= names
    before = {n: p.detach().clone() for n, p in both.named_parameters()}
    optimiser = torch.optim.SGD(both.parameters(), lr=0.1)
    both(*data()).square().sum().backward()
    optimiser.step()
    moved = {n for n, p in both.named_parameters() if not torch.equal(p, before[n])}
    # a shift that all channels share is undone by the batch normalisation after it, up to rounding
    assert {n for n in names if "bias" not in n} <= moved


def test_the_model_runs_twice_and_keeps_no_hooks() -> None:
    net, amr, _ = pair()
    both = insert(net, amr, at=AT).eval()
    both(*data())
    assert net.runs == 2
    assert hooks(both) == 0
    with pytest.raises(AssertionError):
        both(torch.zeros(5, 3, 8, 8), torch.zeros(5, 9))
    assert hooks(both) == 0
    net.head[0].register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyError("late")))
    with pytest.raises(KeyError):
        both(*data())
    assert hooks(both) == 1


def test_a_failed_first_pass_leaves_the_statistics_alone() -> None:
    net, amr, _ = pair()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(AssertionError):
        insert(net, amr, at=AT)(torch.randn(5, 3, 8, 8), torch.zeros(5, 9))
    for n, v in net.state_dict().items():
        assert torch.equal(v, before[n])


def test_it_says_what_the_model_takes_and_gives_weights() -> None:
    net, amr, _ = pair()
    x = dict(zip(DIMS, data(), strict=True))
    plain = adapt(net, inputs=("rgb", "skeleton")).eval()
    both = insert(plain, amr, at={n: f"net.{p}" for n, p in AT.items()}).eval()
    assert list(inspect.signature(both.forward).parameters) == ["inputs", "need"]
    assert not takes_mask(both)
    out = forward(both, x, mask={"rgb": torch.ones(5, dtype=torch.bool)}, need=("weights",))
    assert isinstance(out, Output)
    assert out.weights is not None
    torch.testing.assert_close(out.weights["rgb"] + out.weights["skeleton"], torch.full((5,), 2.0))
    assert torch.equal(out.logits, insert(net, amr, at=AT).eval()(*data()))
    assert forward(both, x).weights is None
    masked = adapt(net, inputs=("rgb", "skeleton"), masks={"rgb": "m"})
    assert takes_mask(insert(masked, amr, at={n: f"net.{p}" for n, p in AT.items()}))
    assert torch.equal(copy.deepcopy(both)(x).logits, out.logits)


class Missing(nn.Module):
    """A model of inputs by modality that is told what is missing and looks at it all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 4), nn.Conv1d(2, 6, 3), nn.Linear(10, 3)

    def forward(self, inputs: dict[str, Tensor], mask: dict[str, Tensor] | None = None) -> Tensor:
        return self.head(torch.cat([self.a(inputs["a"]), self.b(inputs["b"]).mean(dim=2)], dim=1))


@pytest.mark.parametrize("options", [{}, {"gate": "channel", "floor": 0.2}, {"residual": True}])
def test_what_is_missing_has_no_weight_and_no_say(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    amr = AMR({"a": 4, "b": 6}, width=8, **options)
    for p in amr.parameters():
        p.data.normal_()
    both = insert(Missing(), amr, at={"a": "a", "b": "b"}).eval()
    x = {"a": torch.randn(4, 5), "b": torch.randn(4, 2, 9)}
    gone = torch.tensor([False, True, False, True])
    mask = {"b": ~gone[:, None, None].expand(4, 1, 9)}
    out = forward(both, x, mask, need=("weights",))
    assert out.weights is not None
    assert not out.weights["b"][gone].any()
    torch.testing.assert_close(out.weights["a"][gone], torch.ones(2))
    torch.testing.assert_close(out.weights["a"] + out.weights["b"], torch.where(gone, 1.0, 2.0))
    other = both({**x, "b": 100 + x["b"]}, mask)  # by position
    assert torch.equal(other[gone], out.logits[gone])
    assert not torch.isclose(other[~gone], out.logits[~gone]).all(dim=1).any()
    torch.testing.assert_close(out.logits[~gone], both(x)[~gone])
    plain = both(x)
    for nothing_said in (None, {}, {"c": gone}):
        assert torch.equal(both(x, mask=nothing_said), plain)


def test_a_mask_of_other_rows_than_the_features_is_refused() -> None:
    both = insert(Missing(), AMR({"a": 4, "b": 6}, width=8), at={"a": "a", "b": "b"})
    x = {"a": torch.randn(4, 5), "b": torch.randn(4, 2, 9)}
    with pytest.raises(ModelError, match="gives 4 rows, the mask of 'b' has 2"):
        both(x, {"b": torch.ones(2, dtype=torch.bool)})


class Odd(Theirs):
    """Runs a layer twice, or not at all."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, rgb: Tensor, skeleton: Tensor) -> Tensor:
        for _ in range(self.times):
            self.rgb["layer4"](self.rgb["layer3"](rgb))
        return self.skeleton["conv6"](skeleton)


@pytest.mark.parametrize(("times", "said"), [(0, "never ran"), (2, "more than once")])
def test_layers_that_run_oddly_are_named(times: int, said: str) -> None:
    net = Odd(times)
    with pytest.raises(ModelError, match=said):
        insert(net, AMR(DIMS, width=8), at=AT)(*data())
    assert hooks(net) == 0


@pytest.mark.parametrize(
    ("dims", "at", "said"),
    [
        (DIMS, {**AT, "rgb": "rgb.layer5"}, "did you mean 'rgb.layer"),
        (DIMS, {**AT, "rgb": ""}, "no such submodule"),
        (DIMS, {"rgb": "rgb.layer4"}, "was built for"),
        (DIMS, {"rgb": "head", "skeleton": "head"}, "share a submodule"),
        (None, AT, "needs a built AMR"),
    ],
)
def test_impossible_insertions_are_explained(dims: Any, at: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        insert(Theirs(), AMR(dims, width=8), at=at)


def test_the_channels_must_fit() -> None:
    with pytest.raises(ModelError, match=r"\(5, 4, 4, 4\), expected a tensor \(N, 3, …\)"):
        insert(Theirs(), AMR({"rgb": 3, "skeleton": 6}, width=8), at=AT)(*data())
