"""A small 1-D residual network for time series such as inertial signals."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossguard.core.batch import expand_mask
from crossguard.core.errors import ModelError
from crossguard.models.encoder import Encoder, affine, check_sizes, frame_mask, mean_over_time, scales
from crossguard.models.folded import Normed, normed


class SeriesNet(Encoder):
    """Series "NTD" in its unit to (N, 4 width, T'); stages layer1 to layer3, each a residual block of stride 2.

    (x - `mean`) / `std` is the first layer: one number, or one a feature. Every layer is masked again (N, T), so that
    a padded series is answered as the same one unpadded. The shape is ours; blocks as in He et al., CVPR 2016.
    """

    stages = ("layer1", "layer2", "layer3")

    def __init__(
        self,
        *,
        features: int,
        width: int = 16,
        kernel: int = 5,
        mean: float | tuple[float, ...] = 0.0,
        std: float | tuple[float, ...] = 1.0,
    ) -> None:
        super().__init__()
        check_sizes("SeriesNet", features=features, width=width, kernel=kernel)
        if kernel % 2 == 0:
            raise ModelError(f"SeriesNet: kernel is {kernel}, expected an odd number: an even one has no centre")
        self.features = features
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(affine(mean, features, "SeriesNet mean")), persistent=False)
        self.register_buffer("std", torch.tensor(scales(std, features, "SeriesNet std")), persistent=False)
        before = features
        for i, name in enumerate(self.stages):
            self.add_module(name, SeriesBlock(before, width << i, kernel))
            before = width << i
        self.dims = {name: width << i for i, name in enumerate(self.stages)}

    def prepare(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Normalised series, (N, D, T), 0 where it is masked out."""
        self.expect(x, "NTD", D=self.features)
        x = (x - self.mean) / self.std
        x = x if mask is None else x.where(expand_mask(mask, x), torch.zeros_like(x))
        return x.transpose(1, 2)

    def stage(self, name: str, x: Tensor, mask: Tensor | None) -> Tensor:
        """A block, kept 0 at times that are not real."""
        return self.get_submodule(name)(x, _times(mask, 2 ** (self.stages.index(name) + 1)))

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The mean over real times."""
        return mean_over_time(x, _centres(mask, x.shape[2]))

    def real(self, mask: Tensor | None, steps: int) -> Tensor | None:
        """(N, steps): which steps of a map have a real centre, whatever the padding."""
        centres = _centres(mask, steps)
        return frame_mask(mask if centres is None else centres, steps)


class SeriesBlock(nn.Module):
    """Two convolutions, the first of stride 2, and a projected shortcut."""

    def __init__(self, before: int, width: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(before, width, kernel, 2, kernel // 2, bias=False)
        self.norm1 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, width, kernel, 1, kernel // 2, bias=False)
        self.norm2 = nn.BatchNorm1d(width)
        self.shortcut = Normed(nn.Conv1d(before, width, 1, 2, bias=False), nn.BatchNorm1d(width))

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        """(N, C, T) to (N, width, T / 2), 0 where `real` (N, T / 2) is False."""
        y = _keep(normed(self.conv1, self.norm1, x).relu(), real)
        return _keep((normed(self.conv2, self.norm2, y) + self.shortcut(x)).relu(), real)


def _times(mask: Tensor | None, every: int) -> Tensor | None:
    """(N, T / every): which centres of strided convolutions are real; None where the mask tells no times apart."""
    if mask is None or mask.dim() < 2 or mask.shape[1] == 1:
        return None
    return mask.reshape(*mask.shape[:2], -1).any(dim=2)[:, ::every]


def _centres(mask: Tensor | None, steps: int) -> Tensor | None:
    """`_times` at a half, a quarter, … of its resolution until there are at most `steps`."""
    real = _times(mask, 1)
    while real is not None and real.shape[1] > steps:
        real = real[:, ::2]
    return real


def _keep(x: Tensor, real: Tensor | None) -> Tensor:
    return x if real is None else x.where(real[:, None], torch.zeros_like(x))
