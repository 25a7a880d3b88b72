"""A small 2-D convolutional network that looks at every picture of a video by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossguard.core.batch import expand_mask
from crossguard.models.encoder import Encoder, affine, check_sizes, frame_mask, mean_over_time, scales
from crossguard.models.folded import normed
from crossguard.models.passes import add_ending


class FrameCNN(Encoder):
    """Video "NCTHW" or pictures "NCHW" in their unit to (N, C, T).

    Stages conv1 to conv4, each a half of the picture; attend and gather as in `AudioCNN` where `passes` > 0, `gather`.
    (x - `mean`) / `std` is the first layer: one number, or one a channel; what is masked out, (N, 1, T, H, W), becomes
    the mean. Each stage is two 3x3 convolutions of `width` channels, twice as many in the next, and a maximum over 2 x
    2; the last takes the mean over places. Frames meet in the fusion, or in their mean. The shape is ours.
    """

    convolutions = ("conv1", "conv2", "conv3", "conv4")

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int = 16,
        mean: float | tuple[float, ...] = 0.5,
        std: float | tuple[float, ...] = 0.25,
        passes: int = 0,
        heads: int = 8,
        gather: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_sizes("FrameCNN", channels=channels, width=width)
        self.channels = channels
        self.mean: Tensor
        self.std: Tensor
        centre, spread = affine(mean, channels, "FrameCNN mean"), scales(std, channels, "FrameCNN std")
        self.register_buffer("mean", torch.tensor(centre).view(-1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spread).view(-1, 1, 1, 1), persistent=False)
        before = channels
        for i, name in enumerate(self.convolutions):
            self.add_module(name, Look(before, width << i))
            before = width << i
        self.dims = {name: width << i for i, name in enumerate(self.convolutions)}
        self.stages = self.convolutions
        add_ending(self, passes, heads, gather, dropout)

    def prepare(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Normalised video (N, C, T, H, W), 0 where it is masked out; a picture is a video of one."""
        if x.dim() == 4:
            self.expect(x, "NCHW", C=self.channels)
            x = x[:, :, None]
            mask = mask[:, :, None] if mask is not None and mask.dim() > 2 else mask
        self.expect(x, "NCTHW", C=self.channels)
        x = (x - self.mean) / self.std
        return x if mask is None else x.where(expand_mask(mask, x), x.new_zeros(()))

    def stage(self, name: str, x: Tensor, mask: Tensor | None) -> Tensor:
        """A stage on every frame; conv4 leaves (N, C, T)."""
        if name not in self.convolutions:
            return self.get_submodule(name)(x, self.real(mask, x.shape[2]))
        frames = x.shape[2]
        looked = self.get_submodule(name)(x.transpose(1, 2).flatten(0, 1))
        x = looked.unflatten(0, (-1, frames)).transpose(1, 2)
        return x.mean(dim=(3, 4)) if name == self.convolutions[-1] else x

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The mean over places and real frames, of what is not pooled yet."""
        return x if x.dim() == 2 else mean_over_time(x, self.real(mask, x.shape[2]))

    def real(self, mask: Tensor | None, steps: int) -> Tensor | None:
        """(N, steps): which frames hold anything real."""
        if mask is None:
            return None
        timed = mask.dim() > 2 and mask.shape[2] == steps > 1
        return frame_mask(mask.transpose(1, 2) if timed else mask.reshape(len(mask), -1).any(dim=1), steps)


class Look(nn.Module):
    """Two convolutions and a maximum over 2 x 2."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, 1, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, width, H / 2, W / 2)."""
        x = normed(self.conv1, self.norm1, x).relu()
        return self.pool(normed(self.conv2, self.norm2, x).relu())
