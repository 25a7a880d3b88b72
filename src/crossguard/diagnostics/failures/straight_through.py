"""Gradients through what blocks them: BPDA for every step of a model at once, found while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from crossguard.core.batch import Inputs, Output
from crossguard.core.errors import ModelError
from crossguard.core.model import bare, forward


class StraightThrough(nn.Module):
    """`model`, the same logits to the bit, with gradients that go through what blocks or flattens them.

    The idea is BPDA's (Athalye, Carlini and Wagner, ICML 2018); that it is applied to each torch function as the
    model calls it is our choice, and so are the stand-ins: the identity for `detach`, `no_grad`, rounding, signs,
    clamps, integer casts and a trip through numpy that comes back in the same shape; a sigmoid as wide as the
    operands' mean distance for comparisons; sigmoid, tanh and softmax at the temperature that lifts them out of
    saturation. Without gradients to compute the model runs as it is. What torch does not show (an autograd.Function,
    inference mode, a change of shape outside of torch) stays as it is.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.viewed = bare(model)
        self.casts = True

    def forward(self, inputs: Inputs, mask: Mapping[str, Tensor] | None = None) -> Output:
        """The model's logits; other parts of its answer are left out."""
        if not torch.is_grad_enabled():
            return Output(forward(self.viewed, inputs, mask).logits)
        if self.casts:
            try:
                with Passage(casts=True):
                    return Output(forward(self.viewed, inputs, mask).logits)
            except ModelError:
                raise
            except (IndexError, RuntimeError, TypeError):
                self.casts = False  # an integer was needed as an integer: an index, a size
        with Passage(casts=False):
            return Output(forward(self.viewed, inputs, mask).logits)


class Passage(TorchFunctionMode):
    """While active, torch functions have the gradients that `StraightThrough` speaks of."""

    def __init__(self, casts: bool) -> None:
        super().__init__()
        self.casts = casts
        self.sent: dict[torch.Size, Tensor] = {}  # tensors that went out to numpy

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.sent:
            args = tuple(self._returned(a) for a in args)
        x: Any = args[0] if args else kwargs.get("input")
        if func is _SET_GRAD:
            return func(True)
        if func in _COPIES and isinstance(x, Tensor):
            return x
        if func in _EXPORTS and isinstance(x, Tensor):
            self.sent[x.shape] = x
            with torch.no_grad():
                return func(x.detach(), *args[1:], **kwargs)
        value = func(*args, **kwargs)
        if not isinstance(value, Tensor) or not isinstance(x, Tensor):
            return self._returned(value)
        if func in _STEPS and x.requires_grad:
            return _instead(value, x)
        if func in _COMPARISONS:
            return _marked(value, x, args[1] if len(args) > 1 else kwargs.get("other"), _COMPARISONS[func])
        if func in _SATURATED and x.requires_grad:
            return _instead(value, _SATURATED[func](x, func, args[1:], kwargs))
        soft: Tensor | None = getattr(x, "soft", None)
        if soft is not None and value.is_floating_point() and value.shape == soft.shape and func in _CASTS:
            return _instead(value, soft.to(value.dtype))
        if func in _PRODUCTS:
            return _product(value, args, kwargs)
        if func in _CHOICES:
            return _chosen(value, func, args, kwargs)
        if self.casts and func in _CASTS and _integer(value) and x.is_floating_point() and x.requires_grad:
            return _instead(value.to(x.dtype), x)
        return value

    def _returned(self, value: Any) -> Any:
        """What comes back from numpy, as a changed copy of what went there in the same shape."""
        if not isinstance(value, Tensor) or value.requires_grad or value.shape not in self.sent:
            return value
        if not value.is_floating_point() or value.device.type != "cpu" or value.untyped_storage().resizable():
            return value
        sent = self.sent[value.shape]
        return _instead(value, sent.to(value.device, value.dtype)) if sent.requires_grad else value


def _instead(value: Tensor, near: Tensor) -> Tensor:
    """The value of one, to the bit, with the gradient of the other."""
    return value.detach() + (near - near.detach()) if near.shape == value.shape else value


def _integer(x: Tensor) -> bool:
    return not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool


def _marked(value: Tensor, left: Tensor, right: Any, sign: float) -> Tensor:
    """A comparison that remembers its soft version, which takes its place where it is used as a number."""
    gap = sign * (left - right)
    if gap.is_floating_point() and gap.requires_grad:
        width = gap.detach().abs().mean().clamp_min(torch.finfo(gap.dtype).tiny)
        value.soft = torch.sigmoid(gap / width)  # pyright: ignore[reportAttributeAccessIssue]
    return value


def _product(value: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """A product with a comparison, as one with its soft version."""
    factors = [*args[:2], *kwargs.values()][:2]
    if len(factors) < 2 or not any(hasattr(f, "soft") for f in factors):
        return value
    numbers = [_instead(f.to(value.dtype), f.soft.to(value.dtype)) if hasattr(f, "soft") else f for f in factors]
    return _instead(value, numbers[0] * numbers[1])


def _chosen(value: Tensor, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """A choice by a comparison, as a mixture by its soft version."""
    given = [*args, *kwargs.values()]
    if len(given) < 3:
        return value
    mask, yes, no = given[:3] if func in (torch.where,) else (given[1], given[2], given[0])
    if func is Tensor.where:
        mask, yes, no = given[1], given[0], given[2]
    if not hasattr(mask, "soft") or not value.is_floating_point():
        return value
    share = _instead(mask.to(value.dtype), mask.soft.to(value.dtype))
    return _instead(value, (share * yes + (1 - share) * no).expand_as(value))


def _warm(x: Tensor, func: Callable[..., Any], rest: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Elementwise at the temperature that brings |x| below 2, where the slope is a good part of its largest."""
    return func(x / (x.detach().abs() / 2).clamp_min(1.0), *rest, **_plain(kwargs))


def _warm_softmax(x: Tensor, func: Callable[..., Any], rest: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Over an axis, at the temperature that brings finite entries to within 4 of each other."""
    axis = next((a for a in (*rest[:1], kwargs.get("dim")) if isinstance(a, int)), -1)
    fixed = x.detach()
    low = fixed.masked_fill(fixed == -torch.inf, torch.inf).amin(dim=axis, keepdim=True)
    spread = (fixed.amax(dim=axis, keepdim=True) - low).nan_to_num(1.0, posinf=1.0, neginf=1.0)
    return func(x / (spread / 4).clamp_min(1.0), *rest, **_plain(kwargs))


def _plain(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in kwargs.items() if k not in ("input", "out")}


_SET_GRAD: Any = torch._C._set_grad_enabled  # pyright: ignore[reportPrivateUsage]
_DATA: Any = Tensor.data
_COPIES: set[Any] = {Tensor.detach, torch.detach, _DATA.__get__}
_EXPORTS: set[Any] = {Tensor.numpy, Tensor.__array__}
_NAMES = ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "clamp", "clamp_min", "clamp_max", "clip")
_STEPS: set[Any] = {
    *(getattr(place, name) for name in _NAMES for place in (torch, Tensor)),
    *(F.hardtanh, torch.fake_quantize_per_tensor_affine, torch.fake_quantize_per_channel_affine),
}
_COMPARISONS: dict[Any, float] = {
    getattr(place, name): sign
    for place in (torch, Tensor)
    for name, sign in {"gt": 1.0, "ge": 1.0, "greater": 1.0, "greater_equal": 1.0, "lt": -1.0, "le": -1.0,
                       "less": -1.0, "less_equal": -1.0}.items()
}  # fmt: skip
_CASTS: set[Any] = {
    getattr(Tensor, name)
    for name in ("to", "type", "type_as", "float", "double", "half", "bfloat16", "int", "long", "short", "byte", "char")
}
_PRODUCTS: set[Any] = {torch.mul, Tensor.mul, Tensor.__rmul__, torch.multiply, Tensor.multiply}
_CHOICES: set[Any] = {torch.where, Tensor.where, torch.masked_fill, Tensor.masked_fill}
_SATURATED: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid, torch.special.expit, F.sigmoid), _warm),
    **dict.fromkeys((torch.tanh, Tensor.tanh, F.tanh), _warm),
    **dict.fromkeys((torch.softmax, Tensor.softmax, F.softmax), _warm_softmax),
}
