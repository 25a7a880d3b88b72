"""Anyone's model in the shape that crossguard calls: inputs by modality in, logits out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from crossguard.core.batch import Inputs, Need, Output
from crossguard.core.errors import ModelError
from crossguard.models.fusion.fusion import nearest

Style: TypeAlias = Literal["auto", "positional", "keyword", "tuple", "dict"]
Answer: TypeAlias = Literal["logits", "probabilities", "multilabel_probabilities"]
Select: TypeAlias = str | int | Callable[[Any], Tensor]
# By how much probabilities, and their sums, may be off: bfloat16 has three digits.
_ROUNDING = 0.01
# A few logits may lie in [0, 1] by chance.
_ENOUGH = 16


def adapt(
    net: nn.Module,
    *,
    inputs: Sequence[str] | Mapping[str, str],
    style: Style = "auto",
    output: Answer = "logits",
    select: Select | None = None,
    masks: Mapping[str, str] | None = None,
    attention: Select | None = None,
) -> Adapted:
    """`net` as a model that takes inputs by modality.

    `inputs` names the modalities in the order of its arguments, or maps each to the name of its argument. `style` is
    how they are given: "positional" net(a, b), "keyword" net(x=a, y=b), "tuple" net((a, b)), "dict" net({"x": a,
    "y": b}); "auto" is positional for a sequence and keyword for a mapping. `select` says which part of the answer
    counts: a key or attribute, an index, or a function; without it, a tensor, an Output, or what is called `logits`.
    `output` says what that part is: probabilities (single-label, or one a class) are turned into logits, and the first
    answer that cannot be such is refused. `masks` maps modalities to the keyword (with "dict", the key) that takes
    their mask; without it the net takes none. `attention` says which part of the answer are its attention maps, a tuple
    of (N, heads, queries, keys); the net is then called with `output_attentions=True` where they are wanted, as models
    of `transformers` are ("attentions"; build them with attn_implementation="eager").
    Raises ModelError for a style, modality or answer that cannot be.
    """
    return (Adapted if masks is None else MaskedAdapted)(net, inputs, style, output, select, masks or {}, attention)


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
        attention: Select | None = None,
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
        self.training = net.training  # or every attack would switch it, and back
        self.output: Answer = output
        self.select, self.masks, self.attention = select, dict(masks), attention
        self.believed = output == "logits"

    def forward(self, inputs: Inputs, *, need: Sequence[Need] = ()) -> Output:
        """Logits of inputs by modality; others than those named are ignored."""
        return self._call(inputs, {}, need)

    def _call(self, inputs: Inputs, mask: Mapping[str, Tensor], need: Sequence[Need]) -> Output:
        missing = [name for name in self.names if name not in inputs]
        if missing:
            raise ModelError(f"the model needs {missing}, the inputs are {sorted(inputs)}")
        given = {argument: inputs[name] for name, argument in self.names.items()}
        extra: dict[str, Any] = {argument: mask[name] for name, argument in self.masks.items() if name in mask}
        watched = self.attention is not None and "attention" in need
        if watched:
            extra["output_attentions"] = True
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
        said = selected(answer, self.select)
        if not self.believed:
            check_probabilities(said, self.output)
            # Further answers are believed: to look at them, a GPU must be waited for and a compiled graph be left.
            self.believed = said.numel() >= _ENOUGH
        logits = as_logits(said, self.output)
        return Output(logits, attention=_maps(answer, self.attention) if watched else None)


class MaskedAdapted(Adapted):
    """A wrapped net that takes masks, so that "missing" can be said to it."""

    def forward(self, inputs: Inputs, mask: Mapping[str, Tensor] | None = None, *, need: Sequence[Need] = ()) -> Output:
        """Logits of inputs and masks by modality."""
        return self._call(inputs, mask or {}, need)


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


def _maps(answer: Any, select: Select | None) -> tuple[Tensor, ...]:
    """The attention maps in a model's answer; raises ModelError where they are none."""
    try:
        found: Any = select(answer) if callable(select) else _part(answer, select or "attentions")
    except (KeyError, IndexError, AttributeError, TypeError):
        found = None
    if not isinstance(found, tuple | list) or not all(isinstance(a, Tensor) and a.dim() == 4 for a in found):
        raise ModelError(
            f"adapt: {select!r} of the model's answer, {_shape(answer)}, holds no attention maps (N, heads, queries, "
            f"keys); build the model so that it returns them (transformers: attn_implementation='eager')"
        )
    return tuple(cast("Sequence[Tensor]", found))


def check_probabilities(x: Tensor, output: Answer) -> None:
    """Raise ModelError where what is said to be probabilities cannot be; NaN is left to who measures the model."""
    if not x.numel():
        return
    low, high = (float(v) for v in torch.aminmax(x.detach().nan_to_num(nan=0.5)))
    total = x.detach().float().sum(dim=-1)
    off = total[(total - 1).abs() > _ROUNDING] if output == "probabilities" else total[:0]
    if low < -_ROUNDING or high > 1 + _ROUNDING or off.numel():
        sums = f", and rows sum to {float(off.flatten()[0]):.3g}" if off.numel() else ""
        expected = "numbers in [0, 1]" + (" that sum to 1 in each row" if output == "probabilities" else "")
        raise ModelError(
            f"adapt: output={output!r}, but the net answers from {low:.3g} to {high:.3g}{sums}; expected {expected}: "
            f"leave output= out for logits, and say 'multilabel_probabilities' where classes have one each"
        )


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
