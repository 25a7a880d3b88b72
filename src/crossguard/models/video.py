"""3-D residual networks for video (Tran et al., CVPR 2018): R3D-18, and small ones by the same code."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossguard.core.batch import expand_mask
from crossguard.core.errors import ModelError
from crossguard.models.encoder import Encoder, affine, check_sizes, mean_over_time, moved, scales
from crossguard.models.folded import Normed, normed


class VideoResNet(Encoder):
    """Video "NCTHW" in its unit to (N, 8 width, T', H', W'); stages stem, layer1 to layer4.

    (x - `mean`) / `std` is the first layer: one number, or one a channel, in the input's unit ([0, 1] for pictures, mm
    for depth), or None: the clip's own mean by channel over what is there, so that a body is seen alike at any
    distance. What is masked out (N, 1, T, H, W) becomes the mean, and frames that hold nothing real are 0 after every
    convolution, so that a padded clip is answered as the same one unpadded; `outline` adds a channel that is 1 where
    the mask is: no attacker moves it. In training each clip is moved by up to `shift` pixels up or down and aside, the
    mean filling what comes in; inner attacks, in eval mode, see it in its place.
    `blocks` are the residual blocks a layer, `stem` and `stride` the first convolution's kernel and stride over
    (T, H, W). The defaults suit small clips; `width=64, blocks=(2, 2, 2, 2), stem=(3, 7, 7), stride=(1, 2, 2)` is
    R3D-18.
    """

    stages = ("stem", "layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int = 16,
        blocks: tuple[int, int, int, int] = (1, 1, 1, 1),
        stem: tuple[int, int, int] = (3, 3, 3),
        stride: tuple[int, int, int] = (2, 2, 2),
        mean: float | tuple[float, ...] | None = 0.5,
        std: float | tuple[float, ...] = 0.25,
        outline: bool = False,
        shift: int = 0,
    ) -> None:
        super().__init__()
        check_sizes("VideoResNet", channels=channels, width=width, stem=min(stem), stride=min(stride))
        if shift < 0:
            raise ModelError(f"VideoResNet: shift is {shift}, expected a whole number of pixels >= 0")
        if min(blocks) < 1:
            raise ModelError(f"VideoResNet: found blocks={blocks}, expected at least one block in each of four layers")
        self.channels, self.outline, self.shift = channels, outline, shift
        self.mean: Tensor | None
        self.std: Tensor
        centre = None if mean is None else _per_channel(affine(mean, channels, "VideoResNet mean"))
        self.register_buffer("mean", centre, persistent=False)
        self.register_buffer("std", _per_channel(scales(std, channels, "VideoResNet std")), persistent=False)
        widths = (width, 2 * width, 4 * width, 8 * width)
        padding = (stem[0] // 2, stem[1] // 2, stem[2] // 2)
        first = nn.Conv3d(channels + outline, width, stem, stride, padding, bias=False)
        self.stem = Normed(first, nn.BatchNorm3d(width), nn.ReLU())
        before = width
        for i, (size, count) in enumerate(zip(widths, blocks, strict=True)):
            layers = [Block(before if j == 0 else size, size, 2 if i and j == 0 else 1) for j in range(count)]
            self.add_module(f"layer{i + 1}", Blocks(*layers))
            before = size
        self.dims = dict(zip(self.stages, (width, *widths), strict=True))
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def prepare(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Normalised video, 0 where it is masked out."""
        self.expect(x, "NCTHW", C=self.channels)
        real = None if mask is None else expand_mask(mask, x)
        x = (x - (_own_mean(x, real) if self.mean is None else self.mean)) / self.std
        x = x if real is None else torch.where(real, x, torch.zeros_like(x))
        if self.outline:
            shown = torch.ones_like(x[:, :1]) if real is None else real[:, :1].to(x.dtype).expand_as(x[:, :1])
            x = torch.cat([x, shown], dim=1)
        return moved(x, self.shift) if self.training and self.shift else x

    def stage(self, name: str, x: Tensor, mask: Tensor | None) -> Tensor:
        """A stage, kept 0 at steps that are not real."""
        frames = _frames(mask)
        # Most often every frame holds something. To look would break a compiled graph and have the host wait for a GPU,
        # which mask at next to no cost.
        looks = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if frames is not None and looks and bool(frames.all()):
            frames = None
        layer, real = self.get_submodule(name), self._steps(frames)
        return layer(x, real) if isinstance(layer, Blocks) else _keep(layer(x), real)

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The mean over places and real steps."""
        real = self._steps(_frames(mask))
        return mean_over_time(x, None if real is None else _halved(real, x.shape[2]))

    def _steps(self, frames: Tensor | None) -> Tensor | None:
        """(N, T'): which steps behind the stem are real, of (N, T)."""
        conv = self.stem[0]
        assert isinstance(conv, nn.Conv3d)
        return None if frames is None else _coarser(frames, conv.kernel_size[0], conv.stride[0])


class Blocks(nn.Sequential):
    """The blocks of one layer."""

    def forward(self, input: Tensor, real: Tensor | None = None) -> Tensor:  # noqa: A002 (named as in the base)
        """As an nn.Sequential of the same; `real` as in `Block`."""
        for block in self:
            input = block(input, real)  # noqa: A001
        return input


class Block(nn.Module):
    """A basic residual block of two 3x3x3 convolutions (He et al., CVPR 2016), its shortcut projected where the shape
    changes."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(before, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm3d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != width:
            self.shortcut = Normed(nn.Conv3d(before, width, 1, stride, bias=False), nn.BatchNorm3d(width))

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        """(N, C, T, H, W) to (N, width, T', H', W'), 0 at steps at which `real`, of the steps behind the stem, is
        False."""
        y = _keep(normed(self.conv1, self.norm1, x).relu(), real)
        return _keep((normed(self.conv2, self.norm2, y) + self.shortcut(x)).relu(), real)


def _frames(mask: Tensor | None) -> Tensor | None:
    """(N, T): which frames hold anything real; None where the mask tells no times apart."""
    if mask is None or mask.dim() < 3 or mask.shape[2] == 1:
        return None
    # amax takes a tenth of the time of any
    return mask.amax(dim=[axis for axis in range(mask.dim()) if axis not in (0, 2)])


def _coarser(real: Tensor, kernel: int, stride: int) -> Tensor:
    """(N, T) to (N, T'): a step of a convolution, padded by kernel // 2, is real where any frame from its centre up to
    the next one's is: as many are as of the real frames alone, padded at their end."""
    even = 1 - kernel % 2  # the centre of an even kernel are two frames
    padded = F.pad(real[:, None].float(), (even, stride - 1 + even))
    return F.max_pool1d(padded, stride + even, stride)[:, 0] > 0


def _halved(real: Tensor, steps: int) -> Tensor:
    """(N, T) at a half, a quarter, … of its resolution until there are at most `steps`."""
    while real.shape[1] > steps:
        real = _coarser(real, 3, 2)
    return real


def _keep(x: Tensor, real: Tensor | None) -> Tensor:
    return x if real is None else x.where(_halved(real, x.shape[2])[:, None, :, None, None], x.new_zeros(()))


def _own_mean(x: Tensor, real: Tensor | None) -> Tensor:
    """(N, C, 1, 1, 1) mean of (N, C, T, H, W) over what is there; 0 where nothing is."""
    if real is None:
        return x.mean(dim=(2, 3, 4), keepdim=True)
    total = x.where(real, torch.zeros_like(x)).sum(dim=(2, 3, 4), keepdim=True)
    return total / real.expand_as(x).sum(dim=(2, 3, 4), keepdim=True).clamp_min(1)


def _per_channel(values: list[float]) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1, 1)
