"""A borrowed model comes back exactly as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg
from crossguard.core.model import borrowed, forward, takes_mask
from tests.models_for_tests import Mixed


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
