"""Log-mel spectrograms of waveforms as a differentiable layer, so that an attack on the waveform goes through it."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Recipes check options against it; pydantic wants this one before Python 3.12.
from typing_extensions import TypedDict

from crossguard.core.errors import ModelError
from crossguard.models.encoder import check_sizes, scales


class Settings(TypedDict, total=False):
    """The options of `LogMel` that a preset is changed by."""

    # Read by recipes: else a misspelt option would be dropped in silence.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  # pyright: ignore[reportGeneralTypeIssues]

    rate: int
    n_fft: int
    window: int
    hop: int
    mels: int
    low: float
    high: float | None
    power: float
    scale: Literal["db", "log"]
    floor: float
    offset: float
    mean: float
    std: float


Preset: TypeAlias = Literal["audioset", "vggish", "speech", "digits"]

PRESETS: dict[Preset, Settings] = {
    # The sizes of Li et al., ICASSP 2022: 400 x 64 for 10 s; mean and std, to bring it to about [-2, 2], are ours.
    "audioset": {"rate": 16000, "n_fft": 4096, "window": 1024, "hop": 400, "mels": 64},
    # The sizes of Hershey et al., ICASSP 2017: magnitudes, log(m + 0.01).
    "vggish": {
        "rate": 16000, "n_fft": 512, "window": 400, "hop": 160, "mels": 64, "low": 125.0, "high": 7500.0,
        "power": 1.0, "scale": "log", "floor": 0.0, "offset": 0.01, "mean": 0.0, "std": 1.0,
    },
    # 25 ms every 10 ms, as recognisers of speech take it.
    "speech": {
        "rate": 16000, "n_fft": 512, "window": 400, "hop": 160, "mels": 80, "scale": "log", "mean": -5.0, "std": 5.0,
    },
    # A spoken word at 8 kHz, small (ours).
    "digits": {"rate": 8000, "n_fft": 256, "window": 256, "hop": 128, "mels": 32},
}  # fmt: skip

# Spectra are made so many numbers at a time that a processor's cache holds them.
_CHUNK = 1 << 18


class LogMel(nn.Module):
    """Waveforms (N, T) in [-1, 1] to (N, ceil(T / hop), mels): (log-mel - `mean`) / `std`, frames centred on 0, hop, ….

    A periodic Hann window of `window` samples (silence beyond the ends) in a transform of `n_fft`; |X|^`power` through
    triangles on the HTK scale from `low` to `high` hertz (None: half the `rate`); 10 log10 ("db") or the natural
    logarithm ("log") of max(m, `floor`) + `offset`. Raises ModelError for settings that leave a band empty.
    """

    def __init__(
        self,
        *,
        rate: int = 16000,
        n_fft: int = 4096,
        window: int = 1024,
        hop: int = 400,
        mels: int = 64,
        low: float = 0.0,
        high: float | None = None,
        power: float = 2.0,
        scale: Literal["db", "log"] = "db",
        floor: float = 1e-10,
        offset: float = 0.0,
        mean: float = -20.0,
        std: float = 20.0,
    ) -> None:
        super().__init__()
        check_sizes("LogMel", rate=rate, n_fft=n_fft, window=window, hop=hop, mels=mels)
        scales((power, std), 2, "LogMel power, std")
        if window > n_fft or scale not in ("db", "log") or min(floor, offset) < 0 or floor + offset == 0:
            raise ModelError(
                f"LogMel: found window {window}, n_fft {n_fft}, scale {scale!r}, floor {floor:g}, offset {offset:g}; "
                f"expected window <= n_fft, 'db' or 'log', floor or offset > 0: the logarithm of 0 has no gradient"
            )
        self.rate, self.n_fft, self.window, self.hop, self.mels = rate, n_fft, window, hop, mels
        self.power, self.scale, self.floor, self.offset = power, scale, floor, offset
        self.mean, self.std = mean, std
        self.hann: Tensor
        self.bank: Tensor
        self.register_buffer("hann", torch.hann_window(window), persistent=False)
        bank = mel_bank(rate, n_fft, mels, low, rate / 2 if high is None else high)
        self.register_buffer("bank", bank, persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """Normalised log-mel, (N, frames, mels)."""
        if wave.dim() != 2 or not wave.shape[1]:
            raise ModelError(
                f"LogMel: found a waveform of shape {tuple(wave.shape)}, expected (N, T), mono, at {self.rate} Hz"
            )
        frames = self.frames(wave.shape[1])
        after = (frames - 1) * self.hop + self.window - self.window // 2 - wave.shape[1]
        padded = F.pad(wave, (self.window // 2, max(after, 0)))
        pieces = (padded.unfold(1, self.window, self.hop)[:, :frames] * self.hann.to(wave.dtype)).flatten(0, 1)
        bank = self.bank.to(wave.dtype)
        mel = torch.cat([self._power(piece) @ bank for piece in pieces.split(max(1, _CHUNK // self.n_fft))])
        loud = mel.clamp_min(self.floor) + self.offset
        level = loud.log10() * 10 if self.scale == "db" else loud.log()
        return ((level - self.mean) / self.std).unflatten(0, (wave.shape[0], frames))

    def frames(self, samples: int) -> int:
        """How many frames so many samples give: those whose centre is one of them."""
        return -(-samples // self.hop)

    def real(self, mask: Tensor) -> Tensor:
        """(N, frames): which frames are real, of a mask (N, T) over samples; what attacks on the log-mel need."""
        return mask[:, :: self.hop]

    def _power(self, pieces: Tensor) -> Tensor:
        # Where the window lies in the transform turns phases alone; torch.stft puts it in the middle.
        power: Tensor = PowerSpectrum.apply(pieces, self.n_fft)  # pyright: ignore[reportAssignmentType]
        # The derivative of a root at 0 is infinite; so small a number is lost in any floor.
        return power if self.power == 2 else power.clamp_min(1e-20) ** (self.power / 2)


class PowerSpectrum(torch.autograd.Function):
    """|rfft(x, n)|^2 of (R, W): (R, n / 2 + 1).

    Its gradient is one real inverse transform; autograd's own takes a complex one of twice the length, and two passes
    for the real and the imaginary part.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, n: int) -> Tensor:
        spectrum = torch.fft.rfft(x, n=n)
        ctx.n = n
        ctx.save_for_backward(x, spectrum)
        real, imaginary = spectrum.real, spectrum.imag
        return torch.addcmul(real * real, imaginary, imaginary)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None]:
        x, spectrum = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: it goes through the spectrum too
            spectrum = torch.fft.rfft(x, n=ctx.n)
        # d|X_k|^2 / dx is 2 Re(X_k e^(2 pi i k t / n)); the inverse transform counts all but the ends twice.
        weight = above[0].new_ones(above[0].shape[1])
        weight[0] = 2
        if ctx.n % 2 == 0:
            weight[-1] = 2
        gradient = torch.fft.irfft(spectrum * (above[0] * weight), n=ctx.n, norm="forward")
        return gradient[:, : x.shape[1]], None


def log_mel(preset: Preset, settings: Settings) -> LogMel:
    """The front end of a preset, some of its settings changed; raises ModelError for a name that there is not."""
    if preset not in PRESETS:
        raise ModelError(f"LogMel has no preset {preset!r}; known: {', '.join(PRESETS)}")
    chosen = PRESETS[preset].copy()
    chosen.update(settings)
    return LogMel(**chosen)


def mel_bank(rate: int, n_fft: int, mels: int, low: float, high: float) -> Tensor:
    """(n_fft / 2 + 1, mels) float32 triangles of height 1, evenly spaced in 2595 log10(1 + f / 700) (HTK)."""
    if not 0 <= low < high <= rate / 2:
        raise ModelError(f"LogMel: bands from {low:g} to {high:g} Hz, expected 0 <= low < high <= {rate / 2:g}")
    bottom, top = (2595 * math.log10(1 + f / 700) for f in (low, high))
    # In float32, as torchaudio rounds it; on the CPU even where a recipe is checked on a device without memory.
    edges = 700 * (10 ** (torch.linspace(bottom, top, mels + 2, device="cpu") / 2595) - 1)
    bins = torch.linspace(0, rate / 2, n_fft // 2 + 1, device="cpu")[:, None]
    width = edges.diff()
    rising, falling = (bins - edges[:-2]) / width[:-1], (edges[2:] - bins) / width[1:]
    bank = torch.minimum(rising, falling).clamp_min(0)
    empty = (~bank.any(dim=0)).nonzero().flatten().tolist()
    if empty:
        raise ModelError(
            f"LogMel: {len(empty)} of {mels} bands hold no frequency of a transform of {n_fft} at {rate} Hz (the first "
            f"is band {empty[0]}); take fewer mels or a larger n_fft"
        )
    return bank
