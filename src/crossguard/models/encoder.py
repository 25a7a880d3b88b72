"""What all encoders share: named stages, so that a fusion can act at several depths."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossguard.core.errors import ModelError


class Encoder(nn.Module):
    """A branch: `prepare`, then the submodules named in `stages`, in order; `dims` has the channels after each.

    A stage maps (N, C, …) to (N, C', …). `mask` is the modality's input mask and reaches every step, so that what
    is not real contributes nothing at any depth. One that looks at the mask alone is `fixed`: no attack moves it.
    """

    stages: tuple[str, ...]
    dims: dict[str, int]
    fixed: bool = False

    def prepare(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Physical units to the first stage's input, differentiable; what is masked out is given a neutral value."""
        raise NotImplementedError

    def stage(self, name: str, x: Tensor, mask: Tensor | None) -> Tensor:
        """One stage."""
        return self.get_submodule(name)(x)

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(N, C) of a feature map; scaling a channel by a positive number scales its pooled value alike."""
        return x.flatten(2).mean(dim=2) if x.dim() > 2 else x

    def real(self, mask: Tensor | None, steps: int) -> Tensor | None:
        """(N, steps): which steps of the last feature map, (N, C, steps), are real, of the input's mask; None: all."""
        return frame_mask(mask, steps)

    def run(self, x: Tensor, mask: Tensor | None = None, after: str | None = None, to: str | None = None) -> Tensor:
        """The stages after `after` (None: from the raw input) up to and with `to` (None: the last)."""
        first = 0 if after is None else self.stages.index(after) + 1
        last = len(self.stages) if to is None else self.stages.index(to) + 1
        if after is None:
            x = self.prepare(x, mask)
        for name in self.stages[first:last]:
            x = self.stage(name, x, mask)
        return x

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The feature map (N, C, …) of the last stage."""
        return self.run(x, mask)

    def expect(self, x: Tensor, axes: str, **sizes: int) -> None:
        """Raise ModelError unless `x` has these axes, and the named ones these sizes."""
        found = dict(zip(axes, x.shape, strict=False))
        if x.dim() != len(axes) or any(found[axis] != size for axis, size in sizes.items()):
            wanted = ", ".join(str(sizes.get(axis, axis)) for axis in axes)
            raise ModelError(
                f"{type(self).__name__}: found an input of shape {tuple(x.shape)}, expected {axes} = ({wanted}); "
                f"build the encoder for this shape, or bring the data to its shape"
            )


def check_sizes(what: str, **sizes: int) -> None:
    """Raise ModelError unless each size is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ModelError(f"{what}: {name} is {size}, expected a whole number >= 1")


def scales(values: float | tuple[float, ...], count: int, what: str) -> list[float]:
    """`affine` for what is divided by; raises ModelError unless all are > 0."""
    listed = affine(values, count, what)
    if min(listed) <= 0:
        raise ModelError(f"{what}: found {min(listed):g}, expected numbers > 0, in the input's unit")
    return listed


def affine(values: float | tuple[float, ...], count: int, what: str) -> list[float]:
    """One number a channel, from one number or as many as there are channels."""
    listed = [float(values)] * count if isinstance(values, int | float) else [float(v) for v in values]
    if len(listed) != count:
        raise ModelError(f"{what}: found {len(listed)} values for {count} channels; give one, or one a channel")
    return listed


def mean_over_time(x: Tensor, real: Tensor | None) -> Tensor:
    """(N, C) mean of (N, C, T', …) over what lies at real times; `real` is (N, T), at the input's or any coarser
    resolution, and a step of the map is real where any input step that it covers is."""
    x = x.flatten(3).mean(dim=3) if x.dim() > 3 else x
    if real is None:
        return x.mean(dim=2)
    if real.shape[1] != x.shape[2]:
        real = F.adaptive_max_pool1d(real.to(x.dtype), x.shape[2])
    weight = real.to(x.dtype)
    return (x * weight[:, None]).sum(dim=2) / weight.sum(dim=1, keepdim=True).clamp_min(1)


def frame_mask(mask: Tensor | None, frames: int) -> Tensor | None:
    """(N, frames) bool of a mask over leading axes: which frames hold anything real; None where nothing is masked.

    A frame of a coarser map is real where any that it covers is; raises ModelError where there are more than in the
    mask.
    """
    if mask is None:
        return None
    real = mask[:, None] if mask.dim() == 1 else mask.flatten(2).any(dim=2) if mask.dim() > 2 else mask
    if real.shape[1] in (1, frames):
        return real.expand(-1, frames)
    if real.shape[1] < frames:
        raise ModelError(
            f"a map of {frames} frames, a mask of {real.shape[1]}; expected at most as many frames as in the mask (a "
            f"class token has its place where frames are pooled last: take pool: attention or mean before that)"
        )
    return F.adaptive_max_pool1d(real.float(), frames) > 0


def moved(x: Tensor, most: int) -> Tensor:
    """Each clip (N, C, T, H, W) moved by its own whole number of pixels, at most `most` each way; 0 comes in."""
    height, width = x.shape[-2:]
    room = F.pad(x, (most, most, most, most))
    places = torch.randint(2 * most + 1, (x.shape[0], 2)).tolist()
    return torch.stack([c[..., i : i + height, j : j + width] for c, (i, j) in zip(room, places, strict=True)])
