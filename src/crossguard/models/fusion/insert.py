"""An AMR put into someone's two-branch model, whose code is not touched."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from crossguard.core.batch import Output, expand_mask, flat
from crossguard.core.errors import ModelError
from crossguard.models.fusion.amr import AMR
from crossguard.models.fusion.fusion import nearest, scale_channels


def insert(model: nn.Module, amr: AMR, *, at: Mapping[str, str]) -> Inserted:
    """`model` with the outputs of its submodules `at` (modality -> path) reweighted by `amr`, built for their channels.

    The branches must meet after those submodules. Raises ModelError for unknown paths or modalities.
    """
    return Inserted(model, amr, at)


class Inserted(nn.Module):
    """`model` and `reweight`, called as the model is.

    All branches' features must be known before any may go on, whatever the order in which the model runs them: a first
    pass collects them and stops at the last one; in a second, each of those submodules hands on its collected output
    times its weight. The price is one more forward pass of the branches; backward is paid once. The first pass works on
    copies of the buffers, so that batch statistics are counted once. `need=("weights",)` adds the weights (N,).
    Where the model is called with a `mask` by modality, what it says is absent has weight 0 and is handed on as 0.
    """

    def __init__(self, model: nn.Module, amr: AMR, at: Mapping[str, str]) -> None:
        super().__init__()
        if len(amr.exchanges) != 1:
            raise ModelError("insert needs a built AMR: AMR({modality: channels, …}); one inside a FusionModel is not")
        self.dims = dict(amr.dims or {})
        if set(self.dims) != set(at):
            raise ModelError(f"insert: at names {sorted(at)}, the AMR was built for {sorted(self.dims)}")
        paths = dict(model.named_modules())
        for name, path in at.items():
            if path not in paths or not path:
                raise ModelError(
                    f"insert: {name!r} at {path!r}, but the model has no such submodule; "
                    f"{nearest(path, [p for p in paths if p])}"
                )
        if len({paths[path] for path in at.values()}) != len(at):
            raise ModelError(f"insert: two modalities share a submodule in {dict(at)}; each branch needs its own")
        self.at = {name: at[name] for name in self.dims}
        self.model = model
        self.reweight = amr
        self._takes_need = any(p.name == "need" or p.kind is p.VAR_KEYWORD for p in _parameters(model))

    @property
    def forward(self) -> Callable[..., Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The model's own signature, so that whoever asks whether it takes a mask is told the truth, and `need`."""
        call = partial(self._run)
        parameters = _parameters(self.model)
        if not self._takes_need:
            parameters.append(inspect.Parameter("need", inspect.Parameter.KEYWORD_ONLY, default=()))
        call.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
        return call

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        weighed = "weights" in (kwargs.get("need") or ())
        if not self._takes_need:
            kwargs.pop("need", None)
        features = self._collect(args, kwargs)
        there = self._there(args, kwargs, next(iter(features.values())))
        if there is not None:
            features = {n: x.where(expand_mask(there[n], x), x.new_zeros(())) for n, x in features.items()}
        real = None if there is None else torch.stack(list(there.values()), dim=1)
        tokens = {name: x.flatten(2).mean(dim=2) if x.dim() > 2 else x for name, x in features.items()}
        gates = self.reweight.gates(0, tokens, real)
        scaled = {name: scale_channels(x, gates.scale[name]) for name, x in features.items()}
        with _Hooks(self, lambda name, _: scaled[name]):
            answer = self.model(*args, **kwargs)
        if not weighed:
            return answer
        if isinstance(answer, Tensor):
            return Output(answer, weights=gates.weights)
        return replace(answer, weights=gates.weights) if isinstance(answer, Output) else answer

    def _collect(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """The features of all branches, by a pass that ends with the last of them."""
        features: dict[str, Tensor] = {}

        def keep(name: str, value: Any) -> None:
            features[name] = self._checked(name, value)
            if len(features) == len(self.at):
                raise _Collected

        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        try:
            with _Hooks(self, keep):
                functional_call(self.model, buffers, args, kwargs)
        except _Collected:
            return {name: features[name] for name in self.at}
        missed = {name: path for name, path in self.at.items() if name not in features}
        raise ModelError(f"insert: the model never ran {missed}, so their features cannot be weighed")

    def _there(self, args: tuple[Any, ...], kwargs: dict[str, Any], some: Tensor) -> dict[str, Tensor] | None:
        """(N,) by modality: whether it is there, as the `mask` of the call says; None where that tells of none."""
        named = inspect.signature(self.model.forward).bind_partial(*args, **kwargs).arguments
        given = kwargs.get("mask", named.get("mask"))
        # A model's own `mask` may be anything else.
        mask = cast("Mapping[str, Any]", given) if isinstance(given, Mapping) else {}
        told = {name: flat(m).any(dim=1) for name in self.at if isinstance(m := mask.get(name), Tensor)}
        if not told:
            return None
        for name, there in told.items():
            if len(there) != len(some):
                raise ModelError(
                    f"insert: {self.at[name]!r} gives {len(some)} rows, the mask of {name!r} has {len(there)}; "
                    f"expected a row a sample: choose a submodule after frames are put together"
                )
        everywhere = torch.ones(len(some), dtype=torch.bool, device=some.device)
        return {name: told.get(name, everywhere) for name in self.at}

    def _checked(self, name: str, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or value.dim() < 2 or value.shape[1] != self.dims[name]:
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ModelError(
                f"insert: {name!r} at {self.at[name]!r} gives {found}, expected a tensor (N, {self.dims[name]}, …); "
                f"build the AMR with the channels of this submodule, or choose another one"
            )
        return value


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    return list(inspect.signature(model.forward).parameters.values())


class _Collected(BaseException):
    """Ends the first pass; no Exception, so that a model's own handlers let it through."""


class _Hooks:
    """Forward hooks at the chosen submodules, gone when the block ends, however it ends; each may run once in it."""

    def __init__(self, inserted: Inserted, act: Callable[[str, Any], Tensor | None]) -> None:
        self.inserted = inserted
        self.act = act

    def __enter__(self) -> None:
        seen: set[str] = set()

        def hook(name: str, value: Any) -> Tensor | None:
            if name in seen:
                raise ModelError(
                    f"insert: {self.inserted.at[name]!r} runs more than once in a forward pass; choose a submodule "
                    f"after the repetition"
                )
            seen.add(name)
            return self.act(name, value)

        def bound(name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
            return lambda module, args, value: hook(name, value)

        self.handles = [
            self.inserted.model.get_submodule(path).register_forward_hook(bound(name))
            for name, path in self.inserted.at.items()
        ]

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
