"""What is kept of a look at files, and what is not: a package to install, and what the system refused."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from crossguard.core import DataError
from crossguard.data.decoders import Decoder
from crossguard.data.faults import Faults
from crossguard.data.recordings import File, Row, open_recordings


def rows(folder: Path, suffix: str) -> list[Row]:
    return [Row(str(i), str(i), ("a",), {"x": File(folder / f"{i}{suffix}")}) for i in range(3)]


def test_a_missing_package_is_no_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        with h5py.File(tmp_path / f"{i}.h5", "w") as h5:
            h5["x"] = np.zeros((3, 2))
    faults = Faults()
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "h5py", None)
        with pytest.raises(DataError, match=r"^reading this needs h5py: pip install 'crossguard\[data\]'$"):
            open_recordings("mine", rows(tmp_path, ".h5"), ["a"], faults, cache=tmp_path)
    assert len(open_recordings("mine", rows(tmp_path, ".h5"), ["a"], faults, cache=tmp_path)) == 3
    assert not len(faults)


@pytest.mark.parametrize(
    ("cause", "reads"),
    [(PermissionError("not allowed"), True), (MemoryError("no memory left"), True), (ValueError("no array"), False)],
)
def test_what_the_system_refused_is_tried_again(tmp_path: Path, cause: Exception, reads: bool) -> None:
    for i in range(3):
        (tmp_path / f"{i}.raw").write_bytes(b"")
    seen: list[str] = []

    def opened(refused: str) -> tuple[int, dict[str, int]]:
        def read(path: Path, part: str | None) -> Tensor:
            seen.append(path.stem)
            if path.stem == refused:
                raise DataError(f"{path}: cannot be read") from cause
            return torch.zeros(3, 2)

        faults, decoders = Faults(), {".raw": Decoder(read)}
        found = open_recordings("mine", rows(tmp_path, ".raw"), ["a"], faults, decoders=decoders, cache=tmp_path)
        return len(found), faults.counts

    assert opened("1") == (2, {"damaged": 1})
    assert set(seen) == {"0", "1", "2"}
    seen.clear()
    assert opened("") == ((3, {}) if reads else (2, {"damaged": 1}))
    assert seen == (["1"] if reads else [])  # what was found of the others is kept
