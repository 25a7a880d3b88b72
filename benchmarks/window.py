"""What `train: {window: …}` is worth: an epoch of shards read in its order, beside all samples shuffled.

    python benchmarks/window.py [--shards 40] [--window 1024] [--folder WHERE]

Wall seconds of reading alone (records to padded float batches of 64), the shards dropped from the page cache before
each pass, passes of both orders in turn. Shards of `moments` (256 videos, 33 MB each) are written to the folder, or to
a temporary one: put it on the disk that is to be judged. Linux alone, since only there a cache can be dropped.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

from crossguard.data.moments import video
from crossguard.data.tfrecord import write_records
from crossguard.data.youtube8m_index import Indexed, index
from crossguard.training.batches import epoch_batches

VIDEOS = 256  # a shard


def shards(folder: Path, count: int) -> float:
    """Write what is not there; the megabytes of all."""
    for shard in range(count):
        path = folder / f"train{shard:04d}.tfrecord"
        if not path.exists():
            write_records(path, (video("train", VIDEOS * shard + n, 1024, 300, 0) for n in range(VIDEOS)))
    return sum(path.stat().st_size for path in folder.glob("*.tfrecord")) / 1e6


def forget(folder: Path) -> None:
    """Drop the shards from the page cache."""
    for path in folder.glob("*.tfrecord"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds(dataset: Indexed, epoch: int, window: int | None) -> float:
    """How long an epoch takes to read."""
    started = time.perf_counter()
    read = sum(len(batch) for batch, _ in epoch_batches(dataset, epoch, batch_size=64, seed=0, window=window))
    assert read == len(dataset)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = given.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        size = shards(folder, given.shards)
        dataset = index(folder, "train*.tfrecord", [str(i) for i in range(1024)], cache=Path(temporary) / "index")
        best: dict[int | None, float] = {}
        for epoch in range(given.rounds):
            for window in (None, given.window):
                forget(folder)
                took = seconds(dataset, epoch, window)
                best[window] = min(took, best.get(window, took))
        warm = seconds(dataset, 0, None)
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, {len(dataset)} videos, {size:.0f} MB")
    print(f"{size / best[None]:7.0f} MB/s   all samples shuffled, nothing in the page cache")
    print(f"{size / best[given.window]:7.0f} MB/s   windows of {given.window} samples, nothing in the page cache")
    print(f"{size / warm:7.0f} MB/s   all samples shuffled, as the pass before has left the page cache")


if __name__ == "__main__":
    main()
