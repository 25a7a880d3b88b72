"""How fast YouTube-8M's records become float tensors, beside the loader of the `tfrecord` package.

    python benchmarks/youtube8m.py [--path SHARD] [--rounds 5]

One thread, CPU seconds, the best of several rounds in turn, the file in the page cache. Without --path a shard of
`moments` is written (256 videos of 16 to 300 seconds). The package checks no checksum and hands out byte strings by
frame, which its user stacks and converts: that is counted, done the quickest way. Where it is not installed, its row is
left out.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch

from crossguard.data import crc32c as checksum
from crossguard.data.moments import video
from crossguard.data.tfrecord import records, write_records
from crossguard.data.youtube8m import YouTube8M
from crossguard.data.youtube8m_index import index

Run = Callable[[Path], int]


def ours(path: Path) -> int:
    """Framing, checksums, messages, checks, de-quantised tensors and targets."""
    return sum(1 for _ in YouTube8M(path.parent, path.name))


def portable(path: Path) -> int:
    """The same with the checksum that needs no package."""
    quick, checksum._quick = checksum._quick, None
    try:
        return ours(path)
    finally:
        checksum._quick = quick


def framing(path: Path) -> int:
    """Framing and checksums alone."""
    return sum(1 for _ in records(path))


def peer(path: Path) -> int:
    """The `tfrecord` package, each list stacked and de-quantised."""
    from tfrecord.reader import sequence_loader

    count = 0
    for _, lists in sequence_loader(str(path), None):
        for frames in lists.values():
            codes = np.frombuffer(b"".join(frames), np.uint8).reshape(len(frames), -1)
            torch.from_numpy(codes.astype(np.float32)).mul_(4 / 255).add_(4 / 512 - 2)
        count += 1
    return count


def indexed(path: Path) -> int:
    """By index: the pass that finds every example."""
    with tempfile.TemporaryDirectory() as cache:
        return len(index(path.parent, path.name, [str(i) for i in range(3862)], cache=Path(cache)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path: Path = given.path or Path(folder) / "train0000.tfrecord"
        if given.path is None:
            write_records(path, (video("train", n, 1024, 300, 0) for n in range(256)))
        size = path.stat().st_size / 1e6
        runs: list[Run] = [ours, portable, framing, indexed]
        try:
            import tfrecord  # noqa: F401

            runs.append(peer)
        except ImportError:
            pass
        best = dict.fromkeys(runs, float("inf"))
        for _ in range(given.rounds):
            for run in runs:
                start = time.process_time()
                count = run(path)
                best[run] = min(best[run], time.process_time() - start)
        print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {path.name}, "
              f"{count} examples, {size:.1f} MB")  # fmt: skip
        for run, seconds in best.items():
            said = (run.__doc__ or "").strip()
            print(f"{size / seconds:7.0f} MB/s of a core   {count / seconds:6.0f} examples/s   {run.__name__}: {said}")
        if peer in best:
            ratio, plain = (best[peer] / best[run] for run in (ours, portable))
            print(f"ours / peer: {ratio:.2f}; with the portable checksum {plain:.2f}")


if __name__ == "__main__":
    main()
