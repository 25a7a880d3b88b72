"""A borrowed model comes back exactly as it was."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.core.model import borrowed, forward, takes_mask
from tests.models_for_tests import Mixed
from tests.training.toys import TwoBranch


def _state(model: nn.Module) -> list[object]:
    return [
        [(n, m.training) for n, m in model.named_modules()],
        [(n, p.requires_grad, p.grad) for n, p in model.named_parameters()],
        [(n, t.clone().tolist()) for n, t in model.state_dict().items()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
        torch.get_rng_state().tolist(),
    ]


@pytest.mark.parametrize("fail", [False, True])
def test_everything_is_given_back(fail: bool) -> None:
    model = Mixed().train()
    model.norm.eval()
    model.a.weight.requires_grad_(False)
    before = _state(model)
    try:
        with borrowed(model, seed=3) as net:
            assert not any(m.training for m in net.modules())
            torch.randn(5)
            if fail:
                raise RuntimeError
    except RuntimeError:
        assert fail
    assert _state(model) == before


def test_gradients_flow_whatever_the_caller_forbids() -> None:
    with torch.inference_mode(), borrowed(Mixed()):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


class _Plain(nn.Module):
    def forward(self, inputs: cg.Inputs) -> Tensor:
        return inputs["a"]


class _Full(nn.Module):
    def forward(self, inputs: cg.Inputs, mask: object = None, need: object = ()) -> cg.Output:
        return cg.Output(inputs["a"], weights={"seen": torch.tensor(mask is not None and bool(need))})


def test_only_known_keywords_are_passed() -> None:
    x = {"a": torch.zeros(2, 3)}
    assert forward(_Plain(), x, {"a": torch.ones(2, dtype=torch.bool)}, ("weights",)).logits is x["a"]
    said = forward(_Full(), x, {"a": torch.ones(2, dtype=torch.bool)}, ("weights",))
    assert said.weights == {"seen": torch.tensor(True)}
    assert takes_mask(_Full())
    assert not takes_mask(_Plain())


def test_an_answer_that_is_no_output_is_refused() -> None:
    class Dictionary(nn.Module):
        def forward(self, inputs: cg.Inputs) -> dict[str, Tensor]:
            return inputs

    with pytest.raises(cg.ModelError, match="adapt"):
        forward(Dictionary(), {"a": torch.zeros(1, 2)})


def test_a_compiled_model_is_called_as_the_one_inside() -> None:
    plain = torch.compile(_Plain(), backend="eager")
    assert not takes_mask(plain)
    x = torch.randn(2, 3)
    real = torch.ones(2, dtype=torch.bool)
    assert torch.equal(forward(plain, {"a": x}, mask={"a": real}, need=("weights",)).logits, x)


class _Tensors(nn.Module):
    """Not wrapped: takes tensors, in one of the ways that nets do."""

    def __init__(self, way: Callable[..., Tensor]) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(x)


class _Two(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


UNWRAPPED: dict[str, nn.Module] = {
    "linear": nn.Linear(3, 2),
    "convolution": nn.Conv1d(3, 2, 1),
    "flattened": nn.Sequential(nn.Flatten(), nn.Linear(3, 2)),
    "two": _Two(),
    "attribute": _Tensors(lambda x: x.mean(dim=1)),
    "operator": _Tensors(lambda x: x @ torch.ones(3, 2)),
    "index": _Tensors(lambda x: x[0]),
    "slice": _Tensors(lambda x: x[:, 0]),
    "unpacked": _Tensors(lambda x: torch.cat(list(x), dim=1)),
}


@pytest.mark.parametrize("net", UNWRAPPED.values(), ids=list(UNWRAPPED))
def test_a_net_that_is_not_wrapped_is_told_how(net: nn.Module) -> None:
    x, y = {"a": torch.zeros(4, 3), "b": torch.zeros(4, 3)}, torch.zeros(4, dtype=torch.int64)
    threat = cg.ThreatModel(a=cg.Linf(0.1))
    for work in (lambda: forward(net, x), lambda: cg.attacks.pgd(net, x, y, threat),
                 lambda: cg.evaluate(net, [cg.Batch(x, y)], threat)):  # fmt: skip
        with pytest.raises(cg.ModelError, match=r"wrap it: cg\.adapt\(net, inputs=\['a', 'b'\]\)"):
            work()


class _Faulty(nn.Module):
    def forward(self, inputs: cg.Inputs) -> Tensor:
        if "a" in inputs:
            return inputs["depth"]
        raise TypeError("an error of its own")


def test_other_errors_of_a_model_stay_its_own() -> None:
    with pytest.raises(KeyError, match="depth"):
        forward(_Faulty(), {"a": torch.zeros(1, 2)})
    with pytest.raises(TypeError, match="of its own"):
        forward(_Faulty(), {"b": torch.zeros(1, 2)})
    with pytest.raises(RuntimeError, match="shapes"):
        forward(Mixed(), {"a": torch.zeros(2, 9), "b": torch.zeros(2, 4)})


@pytest.mark.parametrize("wide", [("a",), ("b",), ("a", "b")])
def test_inputs_of_another_precision_than_the_model_are_named(wide: tuple[str, ...]) -> None:
    x = {n: torch.randn(4, 3, dtype=torch.float64 if n in wide else torch.float32) for n in "ab"}
    y, threat = torch.zeros(4, dtype=torch.int64), cg.ThreatModel(a=cg.Linf(0.1))
    model = TwoBranch()
    for work in (lambda: forward(model, x), lambda: cg.attacks.pgd(model, x, y, threat),
                 lambda: cg.evaluate(model, [cg.Batch(x, y)], threat)):  # fmt: skip
        said = rf"'{wide[0]}' is float64, the model's parameters are float32; give .*\.float\(\)"
        with pytest.raises(cg.InputError, match=said):
            work()
    doubled = model.double()
    x = {n: v.double() for n, v in x.items()}
    assert cg.attacks.pgd(doubled, x, y, threat).margin.dtype == torch.float64
    x = {n: v.float() for n, v in x.items()}
    with pytest.raises(cg.InputError, match=r"'a' is float32, the model's parameters are float64; give .*\.double\(\)"):
        forward(doubled, x)


class _Remembering(nn.Module):
    """Writes each of its buffers in another way, whenever it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(3)
        self.written: Tensor
        self.replaced: Tensor
        self.register_buffer("written", torch.zeros(3))
        self.register_buffer("replaced", torch.zeros(3))
        self.register_buffer("none", None)
        self.register_buffer("still", torch.arange(3.0).expand(2, 3))

    def forward(self, inputs: cg.Inputs) -> Tensor:
        x = inputs["a"]
        self.written.mul_(0.9).add_(x.detach().mean(dim=0))
        self.replaced = self.replaced + 1
        self.none = x.detach().clone()
        self.register_buffer("late", x.detach().clone())
        return self.layer(self.norm(x + self.written))


@pytest.mark.parametrize("fail", [False, True])
def test_buffers_that_a_forward_writes_are_given_back(fail: bool) -> None:
    model = _Remembering().train()
    held = dict(model.named_buffers())
    before = {n: b.clone() for n, b in held.items()}
    versions = {n: b._version for n, b in held.items()}
    with suppress(ZeroDivisionError), borrowed(model) as net:
        first = net({"a": torch.ones(4, 3)})
        assert bool((net({"a": torch.ones(4, 3)}) != first).any()), "it remembers while it is lent"
        if fail:
            raise ZeroDivisionError
    after = dict(model.named_buffers())
    assert after.keys() == before.keys()
    assert all(after[n] is held[n] and torch.equal(after[n], before[n]) for n in before)
    assert {n for n, b in after.items() if b._version != versions[n]} == {"written"}, "others are left alone"
    with torch.inference_mode():
        made = _Remembering()
        with suppress(RuntimeError), borrowed(made) as net:
            net({"a": torch.ones(4, 3)})
        assert made.none is None
