"""Random numbers that are a function of a key alone: the same for any batch size, order, device or rank.

A counter-based generator (SplitMix64, Steele, Lea and Flood, OOPSLA 2014) in integer arithmetic, which no kernel
may round differently. int64 multiplication wraps, as it must here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from crossguard.core.batch import Inputs, flat

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)
# How many numbers a thread mixes at a time: 512 KiB, and enough of them for torch to share between all threads.
_PART = 1 << 16


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own keeps the sign."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, elementwise."""
    # In place from the first result on; on a CPU in parts that stay in its caches.
    size = _PART * torch.get_num_threads()
    if x.numel() <= size or x.device.type != "cpu":
        mixed = (x ^ _shift(x, 30)).mul_(_MIX1)
        mixed.bitwise_xor_(_shift(mixed, 27)).mul_(_MIX2)
        return mixed.bitwise_xor_(_shift(mixed, 31))
    mixed = torch.empty(x.shape, dtype=x.dtype)
    for part, place in zip(x.reshape(-1).split(size), mixed.view(-1).split(size), strict=True):
        place.copy_(mix(part))
    return mixed


def text_key(text: str) -> int:
    """A signed 64-bit key of a string, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def combine(key: Tensor, *parts: int | Tensor) -> Tensor:
    """Mix further parts (seed, restart, step, modality…) into a key."""
    for part in parts:
        key = mix(key * 3 + part + _GOLDEN)
    return key


def sample_keys(ids: Sequence[str | int] | Tensor | None, inputs: Inputs) -> Tensor:
    """(N,) int64 keys: of the ids, or of the content where no ids are given."""
    device = next(iter(inputs.values())).device
    if isinstance(ids, Tensor):
        return mix(ids.to(device=device, dtype=torch.int64))
    if ids is not None:
        return torch.tensor([text_key(str(i)) for i in ids], dtype=torch.int64, device=device)
    key = torch.zeros(next(iter(inputs.values())).shape[0], dtype=torch.int64, device=device)
    for name in sorted(inputs):
        words = flat(inputs[name].detach().to(torch.float32)).contiguous().view(torch.int32).to(torch.int64)
        # Multilinear hashing: a sum of words, each times a random odd number of its place.
        place = mix(torch.arange(words.shape[1], device=device, dtype=torch.int64) + text_key(name)) | 1
        key = combine(key, words.mul_(place).sum(dim=1))
    return key


def bits(key: Tensor, count: int) -> Tensor:
    """(N, count) int64 of independent random bits, a row a key."""
    place = torch.arange(1, count + 1, device=key.device, dtype=torch.int64) * _GOLDEN
    return mix(key[:, None] + place)


def uniform(key: Tensor, count: int) -> Tensor:
    """(N, count) float64 uniform on [-1, 1], multiples of 2^-23: exact in float32 too."""
    return _shift(bits(key, count), 40).to(torch.float64).mul_(2.0**-23).sub_(1.0)


def direction(key: Tensor, count: int, free: Tensor | None = None) -> Tensor:
    """(N, count) float64 unit vectors, near isotropic: each entry sums four 16-bit uniforms, so that the norm is a
    sum of integers, which no order of summation rounds. 0 where `free` (N, count) is not set (None: all is)."""
    raw = bits(key, count)
    entry = sum(((raw >> s) & 0xFFFF for s in (0, 16, 32, 48)), start=torch.zeros_like(raw)) - 2 * 0xFFFF
    entry = entry if free is None else entry * free
    norm = (entry * entry).sum(dim=1, keepdim=True).clamp_min(1).to(torch.float64).sqrt()
    return entry.to(torch.float64) / norm
