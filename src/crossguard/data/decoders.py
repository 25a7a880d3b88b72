"""How one file becomes one sample's tensor: a reader for each suffix, in one registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from crossguard.core.errors import DataError
from crossguard.core.modality import Modality
from crossguard.data.sampling import optional

Read: TypeAlias = Callable[[Path, str | None], Tensor]


@dataclass(frozen=True)
class Decoder:
    """`read(path, part)` gives a sample's floating tensor without the sample axis, `axes` with it; `part` names an
    array within a file that holds several. Raises DataError, naming the file, for what cannot be read. `options` says
    what else decides what is read, so that nothing is taken for it that was read otherwise."""

    read: Read
    axes: str = "NTD"
    unit: str = "feature"
    bounds: tuple[float, float] | None = None
    rate: float | None = None
    options: str = ""

    def modality(self, name: str) -> Modality:
        """What files of this kind hold."""
        return Modality(name, self.axes, self.unit, self.bounds, self.rate)


def _features(path: Path, part: str | None, array: Any) -> Tensor:
    """(T, D) float32 of an array of numbers."""
    where = path if part is None else f"{path}#{part}"
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.ndim != 2:
        found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise DataError(f"{where}: found {found}, expected numbers, T frames x D features")
    return torch.from_numpy(array.astype(np.float32))


def _only(path: Path, names: list[str], part: str | None) -> str:
    """The array that is meant: the one named, or the only one there is."""
    if part in names:
        return part
    if part is None and len(names) == 1:
        return names[0]
    there = ", ".join(names[:8]) or "none"
    if part is None:
        raise DataError(f"{path}: holds {len(names)} arrays ({there}), expected one; name it: {path.name}#NAME")
    raise DataError(f"{path}: holds no array {part!r}; there: {there}")


def read_npy(path: Path, part: str | None = None) -> Tensor:
    """(T, D) of a .npy, or of one array of a .npz."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return _features(path, part, loaded)
            return _features(path, part, loaded[_only(path, loaded.files, part)])
    except DataError:
        raise
    except Exception as error:  # the system, zipfile, zlib and numpy each raise their own
        raise DataError(f"{path}: missing, truncated or damaged ({error})") from error


def read_h5(path: Path, part: str | None = None) -> Tensor:
    """(T, D) of one array of an HDF5 file, named by its path in it."""
    h5py = optional("h5py", "data")
    try:
        with h5py.File(path, "r") as file:
            name = part if part is not None and part in file else _only(path, list(file), part)
            held = file[name]
            return _features(path, name, held[()] if isinstance(held, h5py.Dataset) else held)
    except DataError:
        raise
    except Exception as error:  # the system and HDF5 each raise their own
        raise DataError(f"{path}: missing, truncated or damaged ({error})") from error


DECODERS: dict[str, Decoder] = {
    ".npy": Decoder(read_npy),
    ".npz": Decoder(read_npy),
    ".h5": Decoder(read_h5),
    ".hdf5": Decoder(read_h5),
}
"""Readers by suffix in lower case; a folder has the suffix "", and a reader of one part of a file ".suffix#part"."""
