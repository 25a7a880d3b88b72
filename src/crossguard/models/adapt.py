"""Anyone's model in the shape that crossguard calls: inputs by modality in, logits out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from crossguard.core.batch import Inputs, Output
from crossguard.core.errors import ModelError
from crossguard.models.fusion.fusion import nearest

Style: TypeAlias = Literal["auto", "positional", "keyword", "tuple", "dict"]
Answer: TypeAlias = Literal["logits", "probabilities", "multilabel_probabilities"]
Select: TypeAlias = str | int | Callable[[Any], Tensor]


def adapt(
    net: nn.Module,
    *,
    inputs: Sequence[str] | Mapping[str, str],
    style: Style = "auto",
    output: Answer = "logits",
    select: Select | None = None,
    masks: Mapping[str, str] | None = None,
) -> Adapted:
    """`net` as a model that takes inputs by modality.

    `inputs` names the modalities in the order of its arguments, or maps each to the name of its argument. `style` is
    how they are given: "positional" net(a, b), "keyword" net(x=a, y=b), "tuple" net((a, b)), "dict" net({"x": a,
    "y": b}); "auto" is positional for a sequence and keyword for a mapping. `select` says which part of the answer
    counts: a key or attribute, an index, or a function; without it, a tensor, an Output, or what is called `logits`.
    `output` says what that part is: probabilities (single-label, or one a class) are turned into logits. `masks` maps
    modalities to the keyword (with "dict", the key) that takes their mask; without it the net takes none.
    Raises ModelError for a style, modality or answer that cannot be.
    """
    return (Adapted if masks is None else MaskedAdapted)(net, inputs, style, output, select, masks or {})


class Adapted(nn.Module):
    """A wrapped net; made by `adapt`."""

    def __init__(
        self,
        net: nn.Module,
        inputs: Sequence[str] | Mapping[str, str],
        style: Style,
        output: Answer,
        select: Select | None,
        masks: Mapping[str, str],
    ) -> None:
        super().__init__()
        if isinstance(inputs, str) or not inputs:
            raise ModelError(f"adapt: inputs must name the modalities in a list or mapping, found {inputs!r}")
        named = isinstance(inputs, Mapping)
        self.names = dict(inputs) if isinstance(inputs, Mapping) else {name: name for name in inputs}
        self.style: str = ("keyword" if named else "positional") if style == "auto" else style
        if self.style not in get_args(Style):
            raise ModelError(f"adapt: unknown style {style!r}; {nearest(str(style), get_args(Style))}")
        if output not in get_args(Answer):
            raise ModelError(
                f"adapt: unknown output {output!r}; {nearest(str(output), get_args(Answer))} A key or an index of the "
                f"answer goes into select="
            )
        unknown = sorted(set(masks) - set(self.names))
        if unknown:
            raise ModelError(f"adapt: masks name {unknown}, the inputs are {sorted(self.names)}")
        self.net = net
        self.output: Answer = output
        self.select, self.masks = select, dict(masks)

    def forward(self, inputs: Inputs) -> Output:
        """Logits of inputs by modality; others than those named are ignored."""
        return self._call(inputs, {})

    def _call(self, inputs: Inputs, mask: Mapping[str, Tensor]) -> Output:
        missing = [name for name in self.names if name not in inputs]
        if missing:
            raise ModelError(f"the model needs {missing}, the inputs are {sorted(inputs)}")
        given = {argument: inputs[name] for name, argument in self.names.items()}
        extra = {argument: mask[name] for name, argument in self.masks.items() if name in mask}
        if self.style == "positional":
            answer = self.net(*given.values(), **extra)
        elif self.style == "keyword":
            answer = self.net(**given, **extra)
        elif self.style == "tuple":
            answer = self.net(tuple(given.values()), **extra)
        else:
            answer = self.net({**given, **extra})
        if isinstance(answer, Output) and self.select is None and self.output == "logits":
            return answer
        return Output(as_logits(selected(answer, self.select), self.output))


class MaskedAdapted(Adapted):
    """A wrapped net that takes masks, so that "missing" can be said to it."""

    def forward(self, inputs: Inputs, mask: Mapping[str, Tensor] | None = None) -> Output:
        """Logits of inputs and masks by modality."""
        return self._call(inputs, mask or {})


def selected(answer: Any, select: Select | None) -> Tensor:
    """The part of a model's answer that counts; raises ModelError where it is not a tensor."""
    try:
        if callable(select):
            part: Any = select(answer)
        elif select is None:
            part = answer if isinstance(answer, Tensor) else _part(answer, "logits")
        else:
            part = _part(answer, select)
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        raise ModelError(
            f"adapt: no {select or 'logits'!r} in the model's answer, {_shape(answer)}; "
            f"say with select= which part it is"
        ) from error
    if not isinstance(part, Tensor):
        raise ModelError(f"adapt: the selected part is {_shape(part)}, expected a tensor of (N, classes)")
    return part


def as_logits(x: Tensor, output: Answer) -> Tensor:
    """Logits whose softmax (or sigmoid) gives the probabilities back; zeros become the smallest positive number."""
    if output == "logits":
        return x
    tiny = torch.finfo(x.dtype).tiny
    if output == "probabilities":
        return x.clamp_min(tiny).log()
    return x.clamp_min(tiny).log() - (1 - x).clamp_min(tiny).log()


def _part(answer: Any, select: str | int) -> Any:
    if isinstance(select, str) and not isinstance(answer, Mapping):
        return getattr(answer, select)
    return cast("Any", answer)[select]


def _shape(answer: Any) -> str:
    if isinstance(answer, Mapping):
        return f"a {type(answer).__name__} of {sorted(str(k) for k in cast('Mapping[Any, Any]', answer))}"
    if isinstance(answer, tuple | list):
        return f"a {type(answer).__name__} of {len(cast('Sequence[Any]', answer))}"
    return f"a {type(answer).__name__}"
