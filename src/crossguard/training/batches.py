"""The training batches of an epoch: from any batch on, shared out over ranks, read one ahead."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from crossguard.core.batch import Batch
from crossguard.core.errors import InputError
from crossguard.data.base import Dataset, Loader
from crossguard.data.windows import Ahead


def batches_per_epoch(samples: int, batch_size: int, world: int = 1) -> int:
    """As few batches of at most `batch_size` (over all ranks) as hold all samples.

    Raises InputError where a batch would leave a rank without a sample.
    """
    count = -(-samples // batch_size)
    if samples // count < world:
        raise InputError(f"{samples} samples in batches of {batch_size} cannot be shared out over {world} processes")
    return count


def epoch_batches(
    dataset: Dataset, epoch: int, *, batch_size: int, seed: int, window: int | None = None, first: int = 0,
    rank: int = 0, world: int = 1,
) -> Generator[tuple[Batch, int]]:  # fmt: skip
    """Yield (this rank's share, samples over all ranks) of each batch from the `first` on.

    The order is a function of (seed, epoch). Batches differ by at most one sample in size: every sample is seen in
    every epoch, and no small last batch upsets batch normalisation. A thread reads the next batch meanwhile; reading
    must be a function of the indices alone. With `window` (samples) another has files read front to back before that.
    """
    loader = Loader(dataset, batch_size, shuffle=True, seed=seed, window=window)
    loader.set_epoch(epoch)
    order = loader.order()
    count = batches_per_epoch(len(order), batch_size, world)
    cuts = [len(order) * i // count for i in range(first, count + 1)]
    shares: list[Sequence[int]] = [order[a:b] for a, b in pairwise(cuts)]
    with ThreadPoolExecutor(1, "crossguard-fetch") as fetching, ThreadPoolExecutor(1, "crossguard-read") as pool:
        fetched = None if loader.windows is None else Ahead(loader.windows, order, cuts[0], fetching)

        def read(i: int) -> Batch:
            if fetched is not None:
                fetched.wait(cuts[i + 1])
            return dataset.read(shares[i][rank::world])

        ahead = None
        for i, share in enumerate(shares):
            current = ahead or pool.submit(read, i)
            ahead = pool.submit(read, i + 1) if i + 1 < len(shares) else None
            yield current.result(), len(share)
