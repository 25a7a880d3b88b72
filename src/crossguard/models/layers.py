"""A model with other forwards at some of its submodules, while the model itself is left as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from crossguard.core.errors import ModelError


@dataclass
class Layer:
    """Stands in for a submodule's forward: records what `inner` answers, or answers `value` without one."""

    inner: Callable[..., Any] | None = None
    value: Any = None
    calls: int = 0

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        self.calls += 1
        if self.inner is not None:
            self.value = self.inner(*args, **keywords)
        return self.value

    def check(self, name: str, path: str) -> None:
        """Raise ModelError unless it ran once and has a tensor."""
        if self.calls != 1:
            raise ModelError(
                f"cut: {path!r} ran {self.calls} times for {name!r}, expected once; cut where the modality passes "
                f"once, and (for a model with branches) before branches first exchange anything"
            )
        if not isinstance(self.value, Tensor):
            raise ModelError(
                f"cut: {path!r} answers {type(self.value).__name__}, expected a tensor; cut at a submodule inside it"
            )


def with_layers(model: nn.Module, layers: Mapping[str, Layer]) -> nn.Module:
    """The model with other forwards at dotted paths: shallow copies on the way there, all else shared."""
    whole = _twin(model)
    for path, layer in layers.items():
        here = whole
        for part in path.split("."):
            child = here._modules[part]  # pyright: ignore[reportPrivateUsage]
            assert child is not None
            here._modules[part] = child = _twin(child)  # pyright: ignore[reportPrivateUsage]
            here = child
        # On the instance: the submodule keeps its type, attributes and hooks, which others may look at.
        here.__dict__.update(forward=layer, _compiled_call_impl=None)
    return whole


def _twin(module: nn.Module) -> nn.Module:
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__, _modules=dict(module._modules))  # pyright: ignore[reportPrivateUsage]
    return twin
