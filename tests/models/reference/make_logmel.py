"""Writes logmel.npz: what torchaudio makes of short waveforms, for tests/models/test_logmel.py.

Needs torchaudio's wheel unpacked somewhere on the path, its folder `lib` emptied: torchaudio is then imported without
its compiled extension, which does not load beside a CPU torch and which these transforms do not use.

    pip download torchaudio==2.11.0 --no-deps && unzip torchaudio-*.whl -d unpacked && rm unpacked/torchaudio/lib/*.so
    PYTHONPATH=unpacked python tests/models/reference/make_logmel.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torchaudio

CASES = {
    "audioset": {"sample_rate": 16000, "n_fft": 4096, "win_length": 1024, "hop_length": 400, "n_mels": 64},
    "speech": {"sample_rate": 16000, "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 80},
    "digits": {"sample_rate": 8000, "n_fft": 256, "win_length": 256, "hop_length": 128, "n_mels": 32},
    "band": {
        "sample_rate": 16000, "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 64,
        "f_min": 125.0, "f_max": 7500.0, "power": 1.0,
    },
}  # fmt: skip


def waveforms() -> torch.Tensor:
    """(3, 1650): a rising tone, noise, and noise that is nearly silent; float32 in [-1, 1]."""
    time = torch.arange(1650, dtype=torch.float64) / 16000
    noise = torch.rand(2, 1650, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    tone = 0.8 * torch.sin(2 * torch.pi * (200 + 12000 * time) * time)
    return torch.cat([tone[None], noise[:1], 1e-4 * noise[1:]]).float()


def main() -> None:
    """Waveforms, mel energies and their decibels, frames before bands, in float32 of float64 sums."""
    wave = waveforms()
    arrays = {"wave": wave.numpy(), "versions": np.array([f"torch {torch.__version__}, torchaudio 2.11.0"])}
    for name, settings in CASES.items():
        layer = torchaudio.transforms.MelSpectrogram(**settings, center=True, pad_mode="constant").double()
        mel = layer(wave.double())
        loud = torchaudio.transforms.AmplitudeToDB("power", top_db=None)(mel)
        arrays[f"{name}/mel"] = mel.transpose(1, 2).float().numpy()
        arrays[f"{name}/db"] = loud.transpose(1, 2).float().numpy()
    np.savez_compressed(Path(__file__).with_name("logmel.npz"), **arrays)


if __name__ == "__main__":
    main()
