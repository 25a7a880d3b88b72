"""Hierarchical co-occurrence network for skeletons (Li et al., IJCAI 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossguard.core.batch import expand_mask
from crossguard.core.errors import ModelError
from crossguard.models.encoder import Encoder, check_sizes, scales
from crossguard.models.folded import Normed


class HCN(Encoder):
    """Skeletons "NMTVC" in metres to (N, 8 width); stages streams, conv5, conv6, fc7.

    Two streams, positions and their differences in time, are each convolved along time a joint at a time; then joints
    become channels, so that every filter sees all of them. Persons run side by side until fc7 takes their maximum; any
    number of them. Maps are (N, C, M, T', K). Positions are taken relative to the mean of joint `centre` over real
    persons and frames (None: as they are), in units of `std` metres; what is masked out, (N, M, T) or by joint, is 0 in
    both streams, and a person who is absent takes no part in the maximum. `width=64, frames=32` is the published size.
    `norm` adds batch normalisation to the convolutions, without which (as published) small sets are hardly learnt.
    """

    stages = ("streams", "conv5", "conv6", "fc7")

    def __init__(
        self,
        *,
        joints: int = 25,
        coords: int = 3,
        frames: int = 32,
        width: int = 64,
        dropout: float = 0.4,
        centre: int | None = 0,
        std: float = 0.5,
        norm: bool = True,
    ) -> None:
        super().__init__()
        check_sizes("HCN", joints=joints, coords=coords, frames=frames, width=width)
        scales(std, 1, "HCN std")
        if centre is not None and not 0 <= centre < joints:
            raise ModelError(f"HCN: centre is joint {centre} of {joints}; give one of 0 to {joints - 1}, or None")
        self.joints, self.coords, self.frames, self.centre, self.std = joints, coords, frames, centre, std
        self.streams = nn.ModuleList([Stream(joints, coords, width, dropout, norm) for _ in range(2)])
        self.conv5 = _conv(2 * width, 2 * width, norm, nn.ReLU(), nn.Dropout(dropout), _halve())
        self.conv6 = _conv(2 * width, 4 * width, norm, nn.ReLU(), nn.Dropout(dropout), _halve())
        cells = _sixteenth(frames) * _sixteenth(max(1, width // 2))
        self.fc7 = nn.Sequential(nn.Linear(4 * width * cells, 8 * width), nn.ReLU(), nn.Dropout(dropout))
        self.dims = {"streams": 2 * width, "conv5": 2 * width, "conv6": 4 * width, "fc7": 8 * width}

    def prepare(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Both streams side by side, (N, 2 C, M, T, V)."""
        self.expect(x, "NMTVC", T=self.frames, V=self.joints, C=self.coords)
        real = None if mask is None else expand_mask(mask, x).expand_as(x)
        if self.centre is not None:
            middle = x[:, :, :, self.centre : self.centre + 1]
            if real is None:
                middle = middle.mean(dim=(1, 2), keepdim=True)
            else:
                seen = real[:, :, :, self.centre : self.centre + 1]
                total = middle.where(seen, torch.zeros_like(middle)).sum(dim=(1, 2), keepdim=True)
                middle = total / seen.sum(dim=(1, 2), keepdim=True).clamp_min(1)
            x = x - middle
        x = x / self.std
        moved = x[:, :, 1:] - x[:, :, :-1]
        if real is not None:
            x = x.where(real, torch.zeros_like(x))
            moved = moved.where(real[:, :, 1:] & real[:, :, :-1], torch.zeros_like(moved))
        motion = torch.cat([torch.zeros_like(x[:, :, :1]), moved], dim=2)
        return torch.cat([x, motion], dim=4).permute(0, 4, 1, 2, 3)

    def stage(self, name: str, x: Tensor, mask: Tensor | None) -> Tensor:
        """The streams run apart; fc7 takes the maximum over persons first."""
        if name == "streams":
            halves = x.split(self.coords, dim=1)
            return torch.cat([stream(half) for stream, half in zip(self.streams, halves, strict=True)], dim=1)
        if name == "fc7":
            x = _over_persons(x, mask).flatten(1)
        return self.get_submodule(name)(x)

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The mean over cells of the maximum over persons."""
        return x if x.dim() == 2 else _over_persons(x, mask).flatten(2).mean(dim=2)


class Stream(nn.Module):
    """conv1 to conv4 on positions or motion: points, then time, then all joints at once."""

    def __init__(self, joints: int, coords: int, width: int, dropout: float, norm: bool) -> None:
        super().__init__()
        cells = max(1, width // 2)
        self.conv1 = _conv(coords, width, norm, nn.ReLU(), kernel=(1, 1, 1))
        self.conv2 = _conv(width, cells, norm, kernel=(1, 3, 1))
        self.conv3 = _conv(joints, cells, norm, _halve())
        self.conv4 = _conv(cells, width, norm, _halve(), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, M, T, V) to (N, width, M, T', K): the channels of conv2 become places, the joints channels."""
        x = self.conv2(self.conv1(x)).permute(0, 4, 2, 3, 1)
        return self.conv4(self.conv3(x))


def _conv(
    before: int, width: int, norm: bool, *then: nn.Module, kernel: tuple[int, int, int] = (1, 3, 3)
) -> nn.Sequential:
    """A convolution that keeps persons apart, so that the batch axis stays the samples' own."""
    padding = (0, kernel[1] // 2, kernel[2] // 2)
    conv = nn.Conv3d(before, width, kernel, 1, padding)
    return Normed(conv, nn.BatchNorm3d(width), *then) if norm else nn.Sequential(conv, *then)


def _halve() -> nn.Module:
    return nn.MaxPool3d((1, 2, 2), ceil_mode=True)


def _sixteenth(size: int) -> int:
    return -(-size // 16)


def _over_persons(x: Tensor, mask: Tensor | None) -> Tensor:
    """(N, C, T', K): the maximum over the persons that are there; 0 where none is."""
    if mask is None or mask.dim() < 2 or mask.shape[1] == 1:
        return x.amax(dim=2)
    there = mask.reshape(*mask.shape[:2], -1).any(dim=2)
    best = x.masked_fill(~there[:, None, :, None, None], torch.finfo(x.dtype).min).amax(dim=2)
    return best.where(there.any(dim=1)[:, None, None, None], torch.zeros_like(best))
