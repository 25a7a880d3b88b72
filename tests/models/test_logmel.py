"""The log-mel layer: torchaudio's numbers, closed forms, gradients, masks, what cannot be."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossguard.core import ModelError
from crossguard.models.logmel import PRESETS, LogMel, PowerSpectrum, log_mel, mel_bank

REFERENCE = Path(__file__).parent / "reference" / "logmel.npz"
PLAIN = {"mean": 0.0, "std": 1.0, "scale": "db", "floor": 1e-10, "offset": 0.0}
CASES: dict[str, LogMel] = {
    "audioset": log_mel("audioset", PLAIN),
    "speech": log_mel("speech", PLAIN),
    "digits": log_mel("digits", PLAIN),
    "band": log_mel("vggish", PLAIN),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_torchaudio_s(name: str, dtype: torch.dtype) -> None:
    with np.load(REFERENCE, allow_pickle=False) as file:
        wave, mel, loud = (torch.from_numpy(file[key]).to(dtype) for key in ("wave", f"{name}/mel", f"{name}/db"))
    found = CASES[name].to(dtype)(wave)
    frames = found.shape[1]
    assert frames == math.ceil(wave.shape[1] / CASES[name].hop) >= mel.shape[1] - 1
    energy = 10 ** (found / 10)
    assert float(((energy - mel[:, :frames]).abs().amax(dim=(1, 2)) / mel.amax(dim=(1, 2))).max()) < 1e-5
    if dtype == torch.float64:  # in float32, decibels of what nearly cancels are as uncertain as theirs are
        assert float((found - loud[:, :frames]).abs().max()) < 1e-5


def test_a_tone_is_loudest_in_its_band_by_its_power() -> None:
    layer = LogMel(rate=16000, n_fft=512, window=512, hop=128, mels=20, mean=0.0, std=1.0)
    tone = (torch.arange(4096) * (2 * math.pi * 64 / 512)).cos()[None]  # bin 64: 2 kHz
    level = layer(tone)[0, 16]
    # A Hann window sums to 256; half of that is the peak's height, and a quarter of it either side.
    share = layer.bank[63:66]
    expected = 10 * (share.T @ torch.tensor([0.25, 1.0, 0.25]) * (256 / 2) ** 2).log10()
    best = int(level.argmax())
    assert best == int(layer.bank[64].argmax())
    assert float(level[best]) == pytest.approx(float(expected[best]), abs=1e-3)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.01, 1.0), st.integers(1, 900))
def test_twice_the_amplitude_is_six_decibels(amplitude: float, samples: int) -> None:
    layer = CASES["digits"].double()
    noise = torch.rand(1, samples, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5
    found, louder = layer(noise * amplitude), layer(noise * amplitude * 2)
    assert found.shape == (1, -(-samples // 128), 32)
    torch.testing.assert_close(louder - found, torch.full_like(found, 20 * math.log10(2)), rtol=0, atol=1e-6)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wave = torch.rand(3, 5000, dtype=torch.float64) - 0.5
    layer = CASES["speech"].double()
    whole = layer(wave)
    monkeypatch.setattr("crossguard.models.logmel._CHUNK", 512 * 7)
    torch.testing.assert_close(layer(wave), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("preset", PRESETS)
def test_gradients_are_finite_and_right(preset: str) -> None:
    layer = log_mel(preset, {"hop": 200} if preset == "audioset" else {}).double()  # type: ignore[arg-type]
    wave = 0.1 * torch.randn(1, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    leaf = wave.clone().requires_grad_()
    gradient = torch.autograd.grad(layer(leaf).sum(), leaf)[0]
    step = 1e-6 * torch.randn(1, 300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = (layer(wave + step) - layer(wave - step)).sum() / 2
    assert float(moved) == pytest.approx(float((gradient * step).sum()), rel=1e-5)
    silent = torch.zeros(1, 300, dtype=torch.float64, requires_grad=True)
    assert bool(torch.autograd.grad(layer(silent).sum(), silent)[0].isfinite().all())


@pytest.mark.parametrize(("n", "width"), [(16, 16), (16, 10), (15, 9), (2, 2), (1, 1)])
def test_the_power_spectrum_has_its_first_and_second_derivative(n: int, width: int) -> None:
    x = torch.randn(3, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def power(x: Tensor) -> Tensor:
        return PowerSpectrum.apply(x, n)  # pyright: ignore

    torch.testing.assert_close(power(x), torch.fft.rfft(x, n=n).abs().square())
    assert torch.autograd.gradcheck(power, x)
    assert torch.autograd.gradgradcheck(power, x)


def test_padding_with_silence_adds_frames_and_changes_none() -> None:
    layer = CASES["digits"].double()
    wave = torch.rand(2, 1000, dtype=torch.float64) - 0.5
    padded = torch.nn.functional.pad(wave, (0, 777))
    mask = torch.zeros(2, 1777, dtype=torch.bool)
    mask[:, :1000] = True
    assert layer.real(mask).sum(dim=1).tolist() == [8, 8] == [layer.frames(1000)] * 2
    torch.testing.assert_close(layer(padded)[:, :8], layer(wave), rtol=1e-12, atol=1e-12)
    assert layer.real(mask).shape[1] == layer.frames(1777)


def test_the_paper_s_size() -> None:
    assert log_mel("audioset", {})(torch.zeros(1, 160000)).shape == (1, 400, 64)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"window": 8192}, "window 8192, n_fft 4096"),
        ({"low": 9000.0}, "bands from 9000 to 8000 Hz"),
        ({"high": 8001.0}, "<= 8000"),
        ({"n_fft": 256, "window": 256, "mels": 128}, r"of 128 bands hold no frequency"),
        ({"std": 0.0}, "std: found 0"),
        ({"floor": 0.0}, "the logarithm of 0"),
        ({"hop": 0}, "hop is 0"),
    ],
)
def test_impossible_settings(changed: dict[str, float], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        LogMel(**changed)  # type: ignore[arg-type]


def test_other_impossible_things() -> None:
    with pytest.raises(ModelError, match=r"\(N, T\), mono, at 16000 Hz"):
        LogMel()(torch.zeros(2, 2, 100))
    with pytest.raises(ModelError, match="no preset 'mfcc'; known: audioset"):
        log_mel("mfcc", {})  # type: ignore[arg-type]


def test_the_bank_is_a_partition_between_its_peaks() -> None:
    bank = mel_bank(16000, 4096, 40, 0.0, 8000.0)
    first, last = (int(bank[:, i].argmax()) + shift for i, shift in ((0, 1), (-1, 0)))
    torch.testing.assert_close(bank[first:last].sum(dim=1), torch.ones(last - first))
