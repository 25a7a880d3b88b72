"""What every data set is: samples by index, three splits, and a loader whose order is a function of seed and epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from crossguard.core.batch import Batch, Inputs, Mask, check_finite, check_mask
from crossguard.core.errors import DataError, InputError
from crossguard.core.modality import Modality
from crossguard.core.random import bits, combine, text_key
from crossguard.core.task import MultiLabel, SingleLabel
from crossguard.data.windows import Windows


class Dataset(Protocol):
    """Samples that are read by index; `ids` are unique, `groups` say who a sample is of (subject, speaker, video)."""

    @property
    def name(self) -> str: ...
    @property
    def modalities(self) -> dict[str, Modality]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def ids(self) -> tuple[str, ...]: ...
    @property
    def groups(self) -> tuple[str, ...]: ...
    @property
    def targets(self) -> Tensor:
        """(N,) int64, or (N, C) of zeros and ones, sparse where there are millions."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: Sequence[int]) -> Batch:
        """The samples at `index`, in that order, floating point in physical units."""
        ...


@dataclass(frozen=True, eq=False)
class TensorDataset:
    """A data set whose samples are tensors in memory, batch first.

    Inputs are floating point in the modality's unit, or uint8 codes of a modality with bounds (0, 1), which `read`
    turns into float32 by /255 (a quarter of the memory). `ids` default to row numbers, `groups` to the ids. Raises
    DataError for an empty set or lengths that differ, InputError for a wrong rank, mask or target and for NaN or
    Inf (samples named by id).
    """

    name: str
    modalities: dict[str, Modality]
    classes: tuple[str, ...]
    inputs: Inputs
    targets: Tensor
    mask: Mask = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        samples = self.targets.shape[0] if self.targets.dim() else 0
        if samples == 0:
            raise DataError(f"data set {self.name!r} is empty; expected at least one sample")
        ids = self.ids or tuple(str(i) for i in range(samples))
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "groups", self.groups or ids)
        if set(self.inputs) != set(self.modalities) or not self.inputs:
            raise DataError(
                f"data set {self.name!r}: inputs are {sorted(self.inputs)}, modalities {sorted(self.modalities)}; "
                f"expected one entry each, by the same names"
            )
        lengths = {f"inputs[{k!r}]": x.shape[0] if x.dim() else 0 for k, x in self.inputs.items()}
        lengths |= {"ids": len(ids), "groups": len(self.groups)}
        for what, length in lengths.items():
            if length != samples:
                raise DataError(f"data set {self.name!r}: {what} has {length} entries, the targets {samples}")
        repeated = [i for i, times in Counter(ids).items() if times > 1]
        if repeated:
            raise DataError(f"data set {self.name!r}: the id {repeated[0]!r} occurs twice; ids must be unique")
        for name, x in self.inputs.items():
            _check_input(self.modalities[name], x)
        check_mask(self.mask, self.inputs)
        task = SingleLabel if self.targets.dim() == 1 else MultiLabel
        task(len(self.classes)).check(self.targets)
        check_finite({k: x for k, x in self.inputs.items() if x.is_floating_point()}, ids)

    def __len__(self) -> int:
        return self.targets.shape[0]

    def read(self, index: Sequence[int]) -> Batch:
        """The samples at `index`, in that order."""
        batch = Batch(self.inputs, self.targets, self.mask, self.ids, self.groups).take(index)
        return batch.with_inputs({k: _physical(x) for k, x in batch.inputs.items()})

    def subset(self, index: Sequence[int]) -> TensorDataset:
        """The samples at `index` as a data set of their own; raises DataError where there are none."""
        rows = torch.as_tensor(index, dtype=torch.long)
        return replace(
            self,
            inputs={k: x[rows] for k, x in self.inputs.items()},
            targets=self.targets[rows],
            mask={k: m[rows] for k, m in self.mask.items()},
            ids=tuple(self.ids[i] for i in index),
            groups=tuple(self.groups[i] for i in index),
        )


def _check_input(modality: Modality, x: Tensor) -> None:
    if x.dtype != torch.uint8:
        modality.check(x)
        return
    modality.check(x[:0].float())
    if modality.bounds != (0.0, 1.0):
        raise InputError(
            f"modality {modality.name!r}: uint8 codes are read as code/255, so its bounds must be (0, 1), found "
            f"{modality.bounds}; give floating point in {modality.unit}"
        )


def _physical(x: Tensor) -> Tensor:
    return x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x


@dataclass(frozen=True)
class Splits:
    """Training, validation (groups of its own, never of the test ones) and test set.

    Raises DataError where their classes or modalities differ, or a sample is in two of them.
    """

    train: Dataset
    validation: Dataset
    test: Dataset

    def __post_init__(self) -> None:
        for part in (self.validation, self.test):
            if part.classes != self.train.classes or part.modalities != self.train.modalities:
                raise DataError(f"splits of {self.train.name!r} and {part.name!r}: classes or modalities differ")
        for a, b in ((self.train, self.validation), (self.train, self.test), (self.validation, self.test)):
            shared = sorted(set(a.ids) & set(b.ids))
            if shared:
                raise DataError(f"splits of {self.train.name!r}: sample {shared[0]!r} is in two of them")

    @property
    def modalities(self) -> dict[str, Modality]:
        """What the inputs are."""
        return self.train.modalities

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the targets."""
        return self.train.classes


class Loader:
    """Iterates over Batches of `dataset`; with `shuffle`, in an order that is a function of (seed, epoch) alone, with
    `window` one that reads files front to back (see `Windows`).

    Rank r of `world` reads every world-th sample of that order from r on, so that the ranks together read each sample
    exactly once, and the i-th batches of all ranks together are the i-th batch of one process with `world` times
    the batch size. The last batches may differ in size, and by one in number: right for evaluation. Training under
    DDP needs equal numbers of steps: `drop_last` leaves out the end of the order (other samples every epoch), so that
    every rank has the same number of full batches. Raises DataError where no batch would be left, or a window is asked
    for and samples do not lie in files.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        window: int | None = None,
    ) -> None:
        if len(dataset) == 0:
            raise DataError(f"data set {dataset.name!r} is empty; expected at least one sample")
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}, expected a whole number >= 1")
        if not 0 <= rank < world:
            raise DataError(f"rank {rank} of world {world}: expected 0 <= rank < world")
        if drop_last and len(dataset) < batch_size * world:
            raise DataError(
                f"data set {dataset.name!r} has {len(dataset)} samples, fewer than one batch of {batch_size} on each "
                f"of {world} ranks, and drop_last leaves out what is not full; take a smaller batch_size"
            )
        self.dataset = dataset
        self.windows = Windows.of(dataset, window)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world = world
        self.drop_last = drop_last
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def order(self) -> list[int]:
        """The samples of all ranks in this epoch's order."""
        samples = len(self.dataset)
        if self.shuffle and self.windows is not None:
            order = self.windows.order(self.seed, self.epoch)
        elif self.shuffle:
            # Sorting random keys: torch.randperm may change between versions and devices.
            key = combine(torch.tensor([text_key("order")]), self.seed, self.epoch)
            order = bits(key, samples)[0].argsort(stable=True).tolist()
        else:
            order = list(range(samples))
        whole = self.batch_size * self.world
        return order[: samples // whole * whole] if self.drop_last else order

    def __len__(self) -> int:
        samples = len(self.dataset)
        if self.drop_last:
            return samples // (self.batch_size * self.world)
        mine = len(range(self.rank, samples, self.world))
        return (mine + self.batch_size - 1) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        mine = self.order()[self.rank :: self.world]
        for start in range(0, len(mine), self.batch_size):
            yield self.dataset.read(mine[start : start + self.batch_size])


def hold_out(
    groups: Sequence[str], *, count: int | None = None, share: float | None = None, seed: int = 0
) -> tuple[list[int], list[int]]:
    """Split the training samples by whole groups: indices that stay, and indices held out for validation.

    `count` groups are held out, or a `share` of the groups (at least one). The choice depends on the groups' names
    and the seed, not on the order of the samples. Raises DataError where no group would stay or be held out.
    """
    if (count is None) == (share is None):
        raise DataError("hold_out: give either count or share")
    names = sorted(set(groups))
    wanted = max(1, round(len(names) * share)) if share is not None else count or 0
    if not 1 <= wanted < len(names):
        raise DataError(
            f"cannot hold out {wanted} of the {len(names)} training groups ({', '.join(names[:8])}): at least one must "
            f"be held out and one must stay"
        )
    keys = {name: int(combine(torch.tensor([text_key(name)]), seed)) for name in names}
    held = set(sorted(names, key=lambda name: (keys[name], name))[:wanted])
    kept = [i for i, group in enumerate(groups) if group not in held]
    return kept, [i for i, group in enumerate(groups) if group in held]
