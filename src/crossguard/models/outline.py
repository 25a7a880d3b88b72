"""What the outline of a body alone tells of its motion: a branch that no budget on values reaches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossguard.core.batch import expand_mask
from crossguard.core.errors import ModelError
from crossguard.models.encoder import Encoder, check_sizes, moved


class OutlineNet(Encoder):
    """Masked video "NCTHW" to (N, width), of its mask (N, 1, T, H, W) alone; stages pace, mix.

    No attack moves a mask, so that what is said here holds under any budget (`fixed`), and is worth as much as the
    threat model is right to leave outlines alone. In each of `segments` parts of the clip: the mean of how the outline
    differs from that of the whole clip, and the mean of how much it changes from frame to frame (after the motion
    energy of Bobick and Davis, PAMI 2001), in cells of `cell` x `cell` pixels. One linear layer mixes them, `dropout`
    before and after it: few people teach a deep one who they are. In training each clip is moved by up to `shift`
    pixels each way. The shape is ours.
    """

    stages = ("pace", "mix")
    fixed = True

    def __init__(
        self,
        *,
        size: int | tuple[int, int] = 32,
        segments: int = 5,
        cell: int = 2,
        width: int = 128,
        dropout: float = 0.5,
        shift: int = 2,
    ) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else size
        check_sizes("OutlineNet", segments=segments, cell=cell, width=width)
        if shift < 0 or cell > min(self.size):
            raise ModelError(
                f"OutlineNet: found shift {shift}, cell {cell} for pictures of {self.size[0]} x {self.size[1]}; "
                f"expected whole pixels >= 0, and cells that fit"
            )
        self.segments, self.cell, self.shift = segments, cell, shift
        cells = -(-self.size[0] // cell) * -(-self.size[1] // cell)
        self.pace = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(2 * segments * cells), nn.Dropout(dropout))
        self.mix = nn.Sequential(nn.Linear(2 * segments * cells, width), nn.ReLU(), nn.Dropout(dropout))
        self.dims = {"pace": 2 * segments * cells, "mix": width}

    def prepare(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(N, 2, segments, H / cell, W / cell)."""
        self.expect(x, "NCTHW", H=self.size[0], W=self.size[1])
        first = x[:, :1].detach()
        shown = torch.ones_like(first) if mask is None else expand_mask(mask, x)[:, :1].to(x.dtype).expand_as(first)
        return self.cells(moved(shown, self.shift) if self.training and self.shift else shown)

    def cells(self, shown: Tensor) -> Tensor:
        """`prepare` of an outline (N, 1, T, H, W), 1 where the body is."""
        # Frames without a body, as after the end of a short clip, are no motion.
        there = shown.amax(dim=(3, 4), keepdim=True)
        mean = shown.sum(dim=2, keepdim=True) / there.sum(dim=2, keepdim=True).clamp_min(1)
        steps = (shown[:, :, 1:] - shown[:, :, :-1]).abs() * there[:, :, 1:] * there[:, :, :-1]
        maps = torch.cat([(shown - mean) * there, F.pad(steps, (0, 0, 0, 0, 1, 0))], dim=1)
        cells = F.avg_pool3d(maps, (1, self.cell, self.cell), ceil_mode=True, count_include_pad=False)
        return F.adaptive_avg_pool3d(cells, (self.segments, None, None))
