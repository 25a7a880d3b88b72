"""How data flows: Inputs and masks by modality, a Batch of samples, the Output of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn, TypeAlias, cast

import torch
from torch import Tensor

from crossguard.core.errors import InputError

Inputs: TypeAlias = dict[str, Tensor]
Mask: TypeAlias = dict[str, Tensor]
Need: TypeAlias = Literal["auxiliary", "latents", "weights", "attention", "odd_one_out"]


def expand_mask(mask: Tensor, x: Tensor) -> Tensor:
    """A mask over the leading axes of `x` (size 1 where it does not tell apart), made broadcastable to `x`."""
    return mask.reshape(mask.shape + (1,) * (x.dim() - mask.dim()))


def outside(x: Tensor, mask: Tensor | None, low: float, high: float) -> tuple[float, float] | None:
    """The lowest and highest entry that a mask leaves of `x`, if one is beyond [low, high]; None if one is NaN."""
    x = x.detach()
    if not x.numel():
        return None
    lowest, highest = (float(v) for v in torch.aminmax(x))
    # What fills the masked part mostly lies inside too: one pass over all of it is many times as fast as a choice.
    if mask is not None and not (low <= lowest and highest <= high):
        real = expand_mask(mask, x)
        lowest = float(torch.where(real, x, math.inf).amin())
        highest = float(torch.where(real, x, -math.inf).amax())
    return (lowest, highest) if lowest < low or highest > high else None


def flat(x: Tensor) -> Tensor:
    """(N, K): all axes but the first as one, of size 1 where there is no other."""
    # Said in full: -1 has no meaning where there are no samples, and flatten(1) none where there is one axis.
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def present(mask: Mapping[str, Tensor] | None, name: str, samples: int) -> Tensor | None:
    """(N,) bool: whether anything of modality `name` is real in each sample; None where nothing is masked."""
    if mask is None or name not in mask:
        return None
    # Said in full: -1 has no meaning where there are no samples.
    return mask[name].reshape(samples, math.prod(mask[name].shape[1:])).any(dim=1)


def check_tensors(inputs: Any, targets: Any, mask: Any = None) -> None:
    """Raise InputError unless inputs, and a mask where there is one, are tensors by modality, and targets a tensor."""
    check_named("inputs", inputs)
    if not isinstance(targets, Tensor):
        raise InputError(f"targets: found a {type(targets).__name__}, expected a tensor: torch.as_tensor(targets)")
    if mask is not None:
        check_named("mask", mask)


def check_named(what: str, found: Any) -> None:
    """Raise InputError unless `found` is a dict of tensors by modality."""
    if not isinstance(found, Mapping):
        raise InputError(f"{what}: found a {type(found).__name__}, expected a dict of tensors by modality")
    for name, x in cast("Mapping[Any, Any]", found).items():
        if not isinstance(x, Tensor):
            raise InputError(
                f"{what} of {name!r}: found a {type(x).__name__}, expected a tensor: torch.as_tensor(…), floating "
                f"point in physical units (a mask: bool)"
            )


def check_mask(mask: Mapping[str, Tensor] | None, inputs: Inputs) -> None:
    """Raise InputError unless each mask is bool, of a known modality and fits its leading axes."""
    for name, m in (mask or {}).items():
        if name not in inputs:
            raise InputError(f"mask names {name!r}, but the inputs are {sorted(inputs)}")
        x = inputs[name]
        fits = m.dim() <= x.dim() and all(a in (1, b) for a, b in zip(m.shape, x.shape, strict=False))
        if m.dtype != torch.bool or m.dim() < 1 or not fits or m.shape[0] != x.shape[0]:
            raise InputError(
                f"mask of {name!r}: found {m.dtype} of shape {tuple(m.shape)}, expected bool over the leading axes "
                f"of {tuple(x.shape)} (1 where an axis is not told apart)"
            )


def check_finite(inputs: Inputs, ids: Sequence[str | int] | Tensor | None = None) -> None:
    """Raise InputError naming the first samples with NaN or Inf."""
    for name, x in inputs.items():
        # A sum is finite only if all of its terms are, and quick; large terms may overflow, so then each is looked at.
        if bool(x.detach().sum().isfinite()):
            continue
        bad = ~flat(torch.isfinite(x)).all(dim=1)
        if bool(bad.any()):
            rows: list[int] = bad.nonzero().flatten().tolist()
            named = rows if ids is None else [ids[i] for i in rows]
            shown = ", ".join(str(i) for i in named[:5]) + (", …" if len(rows) > 5 else "")
            raise InputError(
                f"modality {name!r}: NaN or Inf in {len(rows)} of {x.shape[0]} samples ({shown}); "
                f"repair or drop them, or mask what is missing and fill it with a finite value"
            )


@dataclass(frozen=True)
class Batch:
    """Samples that travel together: inputs and masks by modality, targets, ids and groups.

    `targets` is (N,) int64 (single label) or (N, C) (multi-label); `groups` names what splits and intervals must
    keep together (subject, speaker, video). A mask of None is no mask. Raises InputError for what is no tensor.
    """

    inputs: Inputs
    targets: Tensor
    mask: Mask = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_tensors(self.inputs, self.targets, self.mask)
        if self.mask is None:  # pyright: ignore[reportUnnecessaryComparison]
            object.__setattr__(self, "mask", {})

    def __len__(self) -> int:
        return self.targets.shape[0]

    def __iter__(self) -> NoReturn:
        """Raises InputError: whoever goes through a batch wanted a loader."""
        raise InputError("found a Batch, expected a loader, which yields Batches; a list is one: [batch]")

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on a device."""
        return replace(
            self,
            inputs={k: v.to(device, non_blocking=non_blocking) for k, v in self.inputs.items()},
            targets=self.targets.to(device, non_blocking=non_blocking),
            mask={k: v.to(device, non_blocking=non_blocking) for k, v in self.mask.items()},
        )

    def take(self, index: Sequence[int]) -> Batch:
        """The samples at `index`, in that order."""
        rows = torch.as_tensor(index, dtype=torch.long, device=self.targets.device)
        return Batch(
            inputs={k: v[rows] for k, v in self.inputs.items()},
            targets=self.targets[rows],
            mask={k: v[rows] for k, v in self.mask.items()},
            ids=tuple(self.ids[i] for i in index) if self.ids else (),
            groups=tuple(self.groups[i] for i in index) if self.groups else (),
        )

    def present(self, name: str) -> Tensor:
        """(N,) bool: in which samples anything of modality `name` is real."""
        here = present(self.mask, name, len(self))
        return torch.ones(len(self), dtype=torch.bool, device=self.targets.device) if here is None else here

    def with_inputs(self, inputs: Inputs) -> Batch:
        """The same samples with other inputs."""
        return replace(self, inputs=inputs)


@dataclass(frozen=True)
class Output:
    """What a model returns: `logits` (N, C), and what was asked for in `need`.

    `auxiliary` logits, `latents` and reweighting `weights` ((N,), averaging 1) are by modality; `attention` is one
    (N, heads, queries, keys) map a layer, rows of queries that are not real 0; `odd_one_out` are logits (N, M + 1) of
    which modality disagrees with the others, the last column: none.
    """

    logits: Tensor
    auxiliary: dict[str, Tensor] | None = None
    latents: dict[str, Tensor] | None = None
    weights: dict[str, Tensor] | None = None
    attention: tuple[Tensor, ...] | None = None
    odd_one_out: Tensor | None = None


@dataclass(frozen=True)
class Feature:
    """What one branch hands over before branches first exchange anything: `value` (N, C, …), `present` (N,)."""

    value: Tensor
    present: Tensor | None = None

    def take(self, rows: Tensor) -> Feature:
        """The samples at `rows`."""
        return take(self, rows)

    def to(self, device: torch.device | str) -> Feature:
        """The same on a device."""
        return each(self, lambda x: x.to(device))

    def between(self, other: Feature, share: float | Tensor) -> Feature:
        """`share` of this one and 1 - share of the other, `share` a number or (N,).

        A sample that is there in one of the two alone stays as it is; what is real (`present`, and the mask of feature
        maps) is real in either.
        """
        mine = (
            share.to(self.value.dtype).view(-1, *(1,) * (self.value.dim() - 1)) if isinstance(share, Tensor) else share
        )
        value = mine * self.value + (1 - mine) * other.value
        real = {k: v | vars(other)[k] for k, v in vars(self).items() if isinstance(v, Tensor) and v.dtype == torch.bool}
        if self.present is not None and other.present is not None:
            only = self.value.where(expand_mask(self.present, value), other.value)
            value = value.where(expand_mask(self.present & other.present, value), only)
        return replace(self, value=value, **real)


def each(tree: Any, of: Callable[[Tensor], Tensor]) -> Any:
    """A nest of dicts, tuples, lists and dataclasses (without slots), `of` every tensor in its place."""
    if isinstance(tree, Tensor):
        return of(tree)
    if isinstance(tree, dict):
        return {k: each(v, of) for k, v in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(each(v, of) for v in tree)
    if hasattr(tree, "__dataclass_fields__") and hasattr(tree, "__dict__"):
        # Not through its constructor, which for a frozen class costs more than the indexing of small tensors.
        made = object.__new__(type(tree))
        vars(made).update({name: each(value, of) for name, value in vars(tree).items()})
        return made
    return tree


def take(tree: Any, rows: Tensor) -> Any:
    """Index every tensor of a nest (see `each`) along its first axis."""
    return each(tree, lambda x: x.index_select(0, rows))
