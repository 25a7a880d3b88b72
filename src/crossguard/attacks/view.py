"""The model as a function of its attacked inputs alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from crossguard.core.batch import Feature, Inputs, Mask, Output, take
from crossguard.core.model import Branched, caller


@dataclass(frozen=True)
class View:
    """What attacked inputs do not touch is computed once: whole branches where the model can run them apart.

    `precision` is what the forward pass is run in (autocast); logits are float32 or wider all the same. `bucketed`
    fills the rows up to a power of two, so that compiled graphs are not rebuilt whenever a row leaves. `spent`: the
    sample-forwards that making it took. `names` is the order of the inputs, which a model may count on.
    """

    call: Callable[..., Output]
    branched: Branched | None
    fixed: Inputs
    features: dict[str, Feature]
    mask: Mask
    names: tuple[str, ...]
    precision: torch.dtype | None = None
    bucketed: bool = False
    spent: int = 0

    def logits(self, point: Inputs) -> Tensor:
        """(R, C) logits of rows whose attacked inputs are `point`."""
        if self.bucketed:
            x = next(iter(point.values()))
            rows = torch.arange(1 << max(len(x) - 1, 0).bit_length(), device=x.device).clamp_max(len(x) - 1)
            return take(replace(self, bucketed=False), rows).logits(take(point, rows))[: len(x)]
        device = next(iter(point.values())).device.type
        with nullcontext() if self.precision is None else torch.autocast(device, self.precision):
            found = self._logits(point)
        # The caller may run the attack under autocast: what is climbed and compared is float32 all the same.
        return found.float() if found.dtype in (torch.bfloat16, torch.float16) else found

    def _logits(self, point: Inputs) -> Tensor:
        if self.branched is None:
            whole = {**self.fixed, **point}
            return self.call({n: whole[n] for n in self.names}, self.mask).logits
        attacked = {n: self.branched.encode(n, x, self.mask.get(n)) for n, x in point.items()}
        return self.branched.fuse({**self.features, **attacked}).logits


def view(model: nn.Module, inputs: Inputs, mask: Mapping[str, Tensor], attacked: tuple[str, ...], check: bool) -> View:
    """A View of `model` at `inputs`; encodes the branches of un-attacked modalities, without gradients.

    With `check` branches are run apart only where that gives what the model itself says of the first sample: a split
    that is not the model, or a branch that draws random numbers, would have the attack climb something else.
    """
    fixed = {n: x for n, x in inputs.items() if n not in attacked}
    plain = View(caller(model), None, fixed, {}, dict(mask), tuple(inputs))
    branches: tuple[str, ...] = getattr(model, "modalities", ())
    rest = [n for n in fixed if n in branches]
    if not attacked or not rest or not set(attacked) <= set(branches) or not isinstance(model, Branched):
        return plain
    first = torch.zeros(min(1, len(inputs[attacked[0]])), dtype=torch.int64, device=inputs[attacked[0]].device)
    point = {n: inputs[n].index_select(0, first) for n in attacked}
    with torch.no_grad():
        # Before its branches are, the model itself is called: it says what is wrong with a call.
        whole = take(plain, first).logits(point) if check else None
        features = {n: model.encode(n, fixed[n], mask.get(n)) for n in rest}
        kept = {n: mask[n] for n in attacked if n in mask}
        apart = View(plain.call, model, {}, features, kept, plain.names)
        if whole is None:
            return apart
        same = _agree(take(apart, first).logits(point), whole)
    return replace(apart if same else plain, spent=2 * len(first))


def hastened(seen: View, precision: torch.dtype | None, compiled: bool) -> View:
    """The same View in another precision, or through torch.compile."""
    if not compiled:
        return replace(seen, precision=precision)
    branched = None if seen.branched is None else _Compiled(seen.branched)
    return replace(
        seen, precision=precision, bucketed=True, call=torch.compile(seen.call, dynamic=False), branched=branched
    )


class _Compiled:
    """A Branched model through torch.compile, which keeps its graphs with the model's own code."""

    def __init__(self, model: Branched) -> None:
        self.encode = torch.compile(model.encode, dynamic=False)
        self.fuse = torch.compile(model.fuse, dynamic=False)


def _agree(one: Tensor, two: Tensor) -> bool:
    """Whether logits are the same up to rounding."""
    slack = 2.0**-5 if torch.finfo(one.dtype).bits < 32 else 1e-3  # of the largest logit
    return bool(((one - two).abs() <= slack * two.abs().amax().clamp_min(1e-6)).all()) if two.numel() else True
