"""A convolutional network on log-mel spectrograms, as audio tagging uses it (Li et al., ICASSP 2022)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from crossguard.core.batch import expand_mask
from crossguard.core.errors import ModelError
from crossguard.models.encoder import Encoder, check_sizes, frame_mask, mean_over_time
from crossguard.models.folded import normed
from crossguard.models.logmel import LogMel, Preset, Settings, log_mel
from crossguard.models.passes import add_ending


class AudioCNN(Encoder):
    """Waveforms "NT" in [-1, 1], or without a `front` features "NTD" such as log-mel, to (N, C, T').

    Stages conv1 to conv5; attend where `passes` > 0: one Transformer layer of `heads` heads, so many times over; gather
    where `gather`: gated pooling to (N, C). Published: two passes of 8 heads, then the pooling.

    `front` names a preset of `LogMel`, changed by `settings`; without it the input has `mels` bands. Each stage is two
    3x3 convolutions of `width` channels, twice as many in the next, and a pooling by two over frequency, and over time
    in the first `time_poolings` (so many of ours). Ten convolutions and five poolings are published, and `width=32`
    gives 1024 features a step for 64 bands. What is masked out, (N, T) of the input (or of the frames), is 0 at every
    depth, so that a padded clip is answered as the same one unpadded.
    """

    convolutions = ("conv1", "conv2", "conv3", "conv4", "conv5")

    def __init__(
        self,
        *,
        front: Preset | None = "audioset",
        settings: Settings | None = None,
        mels: int = 64,
        width: int = 32,
        time_poolings: int = 2,
        passes: int = 0,
        heads: int = 8,
        gather: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_sizes("AudioCNN", mels=mels, width=width)
        if not 0 <= time_poolings <= len(self.convolutions) or (settings and front is None):
            raise ModelError(
                f"AudioCNN: found time_poolings {time_poolings}, front {front}, settings {settings}; expected 0 to "
                f"{len(self.convolutions)} poolings, and settings only of a front end"
            )
        self.frontend: LogMel | None = None if front is None else log_mel(front, settings or {})
        self.mels = mels if self.frontend is None else self.frontend.mels
        self.time_poolings = time_poolings
        before, bands = 1, self.mels
        for i, name in enumerate(self.convolutions):
            self.add_module(name, ConvPool(before, width << i, 2 if i < time_poolings else 1))
            before, bands = width << i, -(-bands // 2)
        self.dims = {name: width << i for i, name in enumerate(self.convolutions)}
        self.dims["conv5"] *= bands
        self.stages = self.convolutions
        add_ending(self, passes, heads, gather, dropout)

    def prepare(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Log-mel as one picture, (N, 1, frames, mels), 0 where it is masked out."""
        if self.frontend is None:
            self.expect(x, "NTD", D=self.mels)
        else:
            self.expect(x, "NT")
        # A mask over frames comes with features that were cut out behind the front end: x is a stand-in then.
        if mask is not None and (mask.dim() < 2 or mask.shape[1] in (1, x.shape[1])):
            x = x.where(expand_mask(mask, x), x.new_zeros(()))
        if self.frontend is not None:
            x = self.frontend(x)
        return _keep(x[:, None], self.real(mask, x.shape[1]))

    def stage(self, name: str, x: Tensor, mask: Tensor | None) -> Tensor:
        """A stage; conv5 hands over a step's channels and bands as its features."""
        x = self.get_submodule(name)(x, self.real(mask, x.shape[2]))
        return x.transpose(2, 3).flatten(1, 2).contiguous() if name == self.convolutions[-1] else x

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The mean over bands and real steps, of what is not pooled yet."""
        return x if x.dim() == 2 else mean_over_time(x, self.real(mask, x.shape[2]))

    def real(self, mask: Tensor | None, steps: int) -> Tensor | None:
        """(N, steps): which steps of a map hold anything real."""
        if mask is None or mask.dim() < 2 or mask.shape[1] == 1:
            return frame_mask(mask, steps)
        frames = mask.flatten(2).any(dim=2) if mask.dim() > 2 else mask
        if self.frontend is not None:
            heard = _halved(self.frontend.real(frames), steps)
            if heard.shape[1] == steps:
                return heard
        return _halved(frames, steps)


class ConvPool(nn.Module):
    """Two convolutions and a maximum over `pool` frames and two bands."""

    def __init__(self, before: int, width: int, pool: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, 1, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        # Rounded up, so that no real frame is lost at the end of a clip: what is masked out is 0, as no maximum of
        # rectified values is below.
        self.pool = nn.MaxPool2d((pool, 2), ceil_mode=True)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        """(N, C, T, F) to (N, width, T', F'), 0 where `real` (N, T) is False."""
        x = _keep(normed(self.conv1, self.norm1, x).relu(), real)
        return self.pool(_keep(normed(self.conv2, self.norm2, x).relu(), real))


def _keep(x: Tensor, real: Tensor | None) -> Tensor:
    return x if real is None else x.where(real[:, None, :, None], x.new_zeros(()))


def _halved(real: Tensor, steps: int) -> Tensor:
    """(N, T) at a half, a quarter, … of its resolution (rounded up) until there are at most `steps`."""
    while real.shape[1] > steps:
        real = F.pad(real, (0, real.shape[1] % 2)).unflatten(1, (-1, 2)).any(dim=2)
    return real
