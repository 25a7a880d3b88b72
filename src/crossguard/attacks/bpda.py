"""Backward pass differentiable approximation: gradients through what has none, or has useless ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crossguard.core.batch import Feature, Inputs, Need, Output
from crossguard.core.errors import ModelError
from crossguard.core.model import Branched, attack_view, bare, forward

Layer = Callable[[Tensor], Tensor]


class BPDA(nn.Module):
    """A layer that answers `function(x)`, to the bit, and has the gradient of `stand_in` (None: of the identity).

    Athalye, Carlini and Wagner, ICML 2018, section 4.1. `stand_in` is any differentiable function near `function`
    with an output of the same shape; its vector-Jacobian product at `x` is taken. Without a gradient to compute only
    `function` runs. Raises ModelError where the shapes differ.
    """

    def __init__(self, function: Layer, stand_in: Layer | None = None) -> None:
        super().__init__()
        self.function = function
        self.stand_in = stand_in

    def forward(self, x: Tensor) -> Tensor:
        """`function(x)`."""
        with torch.no_grad():
            value = self.function(x)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return value
        near = x if self.stand_in is None else self.stand_in(x)
        if near.shape != value.shape:
            raise ModelError(
                f"BPDA: the function gives {tuple(value.shape)}, the stand-in {tuple(near.shape)} for an input of "
                f"{tuple(x.shape)}; give a stand-in whose output has the function's shape"
            )
        return _Instead.apply(value, near)  # pyright: ignore[reportReturnType]


class _Instead(torch.autograd.Function):
    """One tensor's value with another's gradient; their difference would not give the value to the bit."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, near: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


class Preprocessed(nn.Module):
    """A `model` whose inputs go through a layer by modality first: an input defence as part of what is attacked.

    The branches of a Branched model can still be run apart, so a layer must not mix samples.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.viewed = bare(model)
        self.names = tuple(layers)
        self.layers = nn.ModuleList(layers.values())
        self.modalities: tuple[str, ...] = getattr(model, "modalities", ()) if isinstance(model, Branched) else ()

    def forward(self, inputs: Inputs, mask: Mapping[str, Tensor] | None = None, need: Sequence[Need] = ()) -> Output:
        """The model's answer to preprocessed inputs; raises ModelError where one of them is not there."""
        missing = [name for name in self.names if name not in inputs]
        if missing:
            raise ModelError(f"a layer is given for {missing}, the inputs are {sorted(inputs)}")
        return forward(self.viewed, {n: self._layered(n, x) for n, x in inputs.items()}, mask, need)

    def encode(self, name: str, x: Tensor, mask: Tensor | None = None) -> Feature:
        """One branch of a Branched model, preprocessed."""
        assert isinstance(self.viewed, Branched)
        return self.viewed.encode(name, self._layered(name, x), mask)

    def fuse(self, features: dict[str, Feature], need: Sequence[Need] = ()) -> Output:
        """Everything after."""
        assert isinstance(self.viewed, Branched)
        return self.viewed.fuse(features, need)

    def attack_view(self) -> Preprocessed:
        """Itself, or the same layers before the view that the model offers to attackers."""
        view = attack_view(self.viewed)
        return self if view is self.viewed else Preprocessed(view, dict(zip(self.names, self.layers, strict=True)))

    def _layered(self, name: str, x: Tensor) -> Tensor:
        return self.layers[self.names.index(name)](x) if name in self.names else x
