"""How a model is called, and how it is borrowed and given back exactly as it was."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from crossguard.core.batch import Feature, Inputs, Need, Output
from crossguard.core.errors import InputError, ModelError


@runtime_checkable
class Branched(Protocol):
    """A model whose branches can be run apart: attacks compute what they do not touch only once."""

    def encode(self, name: str, x: Tensor, mask: Tensor | None = None) -> Feature:
        """Everything of one branch before branches first exchange anything."""
        ...

    def fuse(self, features: dict[str, Feature], need: Sequence[Need] = ()) -> Output:
        """Everything after."""
        ...


# What Python and torch say where a dict, or a name in it, is used as a tensor.
_TAKEN_FOR_TENSOR = re.compile(
    r"\bdict\b|(not|got \(?) ?str\b|unhashable type: 'slice'|forward\(\) missing \d+ required positional"
)


def bare(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel; attacks must not call `DDP.forward`."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _keywords(model: nn.Module) -> set[str]:
    # torch.compile hides the signature behind (*args, **kwargs).
    inner: nn.Module = getattr(model, "_orig_mod", model)
    named = _named(getattr(inner.forward, "__func__", inner.forward))
    # A view of another model can only pass on what that model takes.
    viewed = getattr(inner, "viewed", None)
    return named & _keywords(viewed) if isinstance(viewed, nn.Module) else named


@lru_cache(maxsize=256)
def _named(function: Callable[..., Any]) -> set[str]:
    """Which of the keywords that we know a forward takes; looking costs as much as a small model's pass."""
    parameters = inspect.signature(function).parameters.values()
    known = {"mask", "need"}
    return known if any(p.kind is p.VAR_KEYWORD for p in parameters) else known & {p.name for p in parameters}


def takes_mask(model: nn.Module) -> bool:
    """Whether the model's forward has a `mask` argument, so that "missing" can be said to it."""
    return "mask" in _keywords(model)


def takes_need(model: nn.Module) -> bool:
    """Whether the model's forward has a `need` argument, by which further answers are asked for."""
    return "need" in _keywords(model)


def _as_output(answer: Any) -> Output:
    if isinstance(answer, Tensor):
        return Output(answer)
    if isinstance(answer, Output):
        return answer
    raise ModelError(
        f"model returned {type(answer).__name__}, expected cg.Output or a logits tensor; wrap it: cg.adapt(model, …)"
    )


def caller(model: nn.Module) -> Callable[..., Output]:
    """`forward` with the model's keywords looked up once, for loops."""
    known = _keywords(model)

    def call(inputs: Inputs, mask: Mapping[str, Tensor] | None = None, need: Sequence[Need] = ()) -> Output:
        options: dict[str, Any] = {}
        if mask and "mask" in known:
            options["mask"] = mask
        if need and "need" in known:
            options["need"] = need
        try:
            answer: Any = model(inputs, **options)
        except (AttributeError, KeyError, RuntimeError, TypeError) as error:
            _explain(error, model, inputs)
            raise
        return _as_output(answer)

    return call


def _explain(error: Exception, model: nn.Module, inputs: Inputs) -> None:
    """Raise what a model's own error most likely says about the caller; nothing where it is of another kind."""
    if isinstance(error, RuntimeError):
        _explain_types(error, model, inputs)
    # The names of modalities are texts: who asks for a number or a slice takes the dict for a tensor.
    elif _TAKEN_FOR_TENSOR.search(str(error)) or (
        isinstance(error, KeyError) and not all(isinstance(key, str) for key in error.args)
    ):
        said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise ModelError(
            f"{type(model).__name__} fails on inputs by modality, a dict ({said}); if its forward takes the tensors "
            f"themselves, wrap it: cg.adapt(net, inputs={list(inputs)})"
        ) from error


def _explain_types(error: RuntimeError, model: nn.Module, inputs: Inputs) -> None:
    """Raise InputError where types do not fit and an input is of another precision than all of the parameters."""
    known = [p.dtype for p in model.parameters() if p.is_floating_point()]
    for name, x in inputs.items() if "type" in str(error) and known else ():
        if x.is_floating_point() and x.dtype not in known:
            found, expected = (str(dtype).removeprefix("torch.") for dtype in (x.dtype, known[0]))
            how = {"float32": "float()", "float64": "double()"}.get(expected, f"to(torch.{expected})")
            raise InputError(
                f"modality {name!r} is {found}, the model's parameters are {expected}; give inputs[{name!r}].{how}"
            ) from error


def forward(
    model: nn.Module, inputs: Inputs, mask: Mapping[str, Tensor] | None = None, need: Sequence[Need] = ()
) -> Output:
    """Call a model that takes `inputs` and, if its forward names them, `mask` and `need`; a bare tensor is logits.

    Raises ModelError where the answer is neither an Output nor a tensor.
    """
    return caller(model)(inputs, mask, need)


def attack_view(model: nn.Module) -> nn.Module:
    """What attacks should follow: the `attack_view()` that a borrowed model offers, in eval mode, else the model.

    Raises ModelError where that is no module.
    """
    offered: Any = getattr(model, "attack_view", None)
    if not callable(offered):
        return model
    view = offered()
    if not isinstance(view, nn.Module):
        raise ModelError(f"attack_view() of {type(model).__name__} gave {type(view).__name__}, expected a torch module")
    return view if view is model or not view.training else view.eval()


class _Buffers:
    """The buffers of one module, as they are now."""

    def __init__(self, table: dict[str, Tensor | None]) -> None:
        self.table, self.before = table, dict(table)
        # That a buffer was written in place can be seen afterwards, but not undone without a copy. Who made its buffers
        # under inference mode has none that autograd lets anyone write.
        self.copies = {
            n: (b._version, b.clone()) for n, b in self.before.items() if b is not None and not b.is_inference()
        }

    def give_back(self) -> None:
        """Every buffer in its place again, with what it held; those that nobody wrote are left alone."""
        self.table.clear()
        self.table.update(self.before)
        for name, (version, copy) in self.copies.items():
            buffer = self.before[name]
            if buffer is not None and buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(copy)


@contextmanager
def borrowed(model: nn.Module, seed: int = 0, device: torch.device | None = None) -> Generator[nn.Module]:
    """Lend a model in eval mode with gradients on and a seeded generator; give back every flag, all buffers and all
    RNG state."""
    modules = list(model.modules())
    # Only what trains is switched: for a small model that is in eval mode already, this costs more than its pass.
    training = [m for m in modules if m.training]
    # Torch's own layers write no buffer in eval mode, and have most of them: statistics of normalisation.
    others = (m for m in modules if not type(m).__module__.startswith("torch.nn."))
    kept = [_Buffers(table) for m in others if (table := m._buffers)]  # pyright: ignore[reportPrivateUsage]
    used = {p.device for p in model.parameters()} | ({device} if device is not None else set[torch.device]())
    cuda = [torch.cuda.current_device() if str(d) == "cuda" else d.index for d in used if d.type == "cuda"]
    generators = [torch.default_generator, *(torch.cuda.default_generators[index] for index in sorted(set(cuda)))]
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        if training:
            model.eval()
        with torch.inference_mode(False), torch.enable_grad():
            yield bare(model)
    finally:
        for module in training:
            module.training = True
        for buffers in kept:
            buffers.give_back()
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
