"""Exact neighbours of a set among itself, which density rests on, beside faiss-cpu's exact search, in one run.

python benchmarks/density.py --points 100000 --width 512        # needs faiss-cpu, see requirements-peers.txt
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from crossguard.diagnostics.neighbours import nearest


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall seconds, seconds of all threads, and the answer."""
    wall, processor = time.perf_counter(), time.process_time()
    answer = work()
    return time.perf_counter() - wall, time.process_time() - processor, answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    import faiss  # here, since nothing else needs it

    torch.set_num_threads(given.threads)
    faiss.omp_set_num_threads(given.threads)
    generator = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(given.points, given.width, generator=generator), dim=1)
    index = faiss.IndexFlatL2(given.width)
    index.add(points.numpy())
    theirs = timed(lambda: index.search(points.numpy(), given.k + 1))
    ours = timed(lambda: nearest(points, given.k))
    print(f"{given.points} x {given.width}, k {given.k}, {given.threads} threads")
    for name, (wall, processor, _) in (("faiss-cpu", theirs), ("crossguard", ours)):
        print(f"{name:12} {wall:8.1f} s wall, {processor:8.1f} s of processors")
    print(f"ratio of processor seconds {ours[1] / theirs[1]:.2f}")
    distance = torch.from_numpy(theirs[2][0][:, 1:]).clamp_min(0).sqrt()
    print(f"largest difference of a distance {float((ours[2].distance - distance).abs().max()):.1e}")


if __name__ == "__main__":
    main()
