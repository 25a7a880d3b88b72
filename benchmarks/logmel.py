"""The log-mel layer beside a bare torch.stft of the same sizes: forward alone, and with the gradient of the waveform.

python benchmarks/logmel.py                           # 16 clips of 10 s (64 of 1 s at 8 kHz), one thread
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from crossguard.models.logmel import PRESETS, log_mel


def seconds(call: Callable[[], object], rounds: int) -> float:
    """The quickest of some rounds."""
    call()
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def gradient(layer: Callable[[Tensor], Tensor], wave: Tensor) -> Tensor:
    """Of the sum of what a layer answers (of its absolute value where that is complex)."""
    leaf = wave.detach().requires_grad_()
    answer = layer(leaf)
    return torch.autograd.grad((answer.abs() if answer.is_complex() else answer).sum(), leaf)[0]


def main() -> None:
    """One line a preset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"torch {torch.__version__}, {given.threads} thread(s); share of the speed of a bare torch.stft")
    for preset in PRESETS:
        layer = log_mel(preset, {})
        wave = torch.randn(16, 10 * layer.rate) if layer.rate > 8000 else torch.randn(64, layer.rate)

        def bare(wave: Tensor, layer: object = layer) -> Tensor:
            sizes = (layer.n_fft, layer.hop, layer.window)  # pyright: ignore[reportAttributeAccessIssue]
            return torch.stft(wave, *sizes, layer.hann, return_complex=True)  # pyright: ignore[reportAttributeAccessIssue]

        with torch.no_grad():
            forward = [seconds(lambda f=f, wave=wave: f(wave), given.rounds) for f in (bare, layer)]
        both = [seconds(lambda f=f, wave=wave: gradient(f, wave), given.rounds) for f in (bare, layer)]
        print(
            f"{preset:9} n_fft {layer.n_fft:4}: forward {forward[0] / forward[1]:.2f} "
            f"({1e3 * forward[0]:.1f} against {1e3 * forward[1]:.1f} ms), "
            f"with gradient {both[0] / both[1]:.2f} ({1e3 * both[0]:.1f} against {1e3 * both[1]:.1f} ms)"
        )


if __name__ == "__main__":
    main()
