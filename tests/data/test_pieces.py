"""Decoded pieces: built once, mapped, built anew when the file changes or the piece is damaged."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from crossguard.data.pieces import piece


def test_built_once_and_mapped(tmp_path: Path) -> None:
    file, cache = tmp_path / "a.bin", tmp_path / "cache"
    file.write_bytes(b"one")
    calls: list[int] = []

    def build() -> np.ndarray:
        calls.append(1)
        return np.arange(6).reshape(2, 3)

    for _ in range(3):
        np.testing.assert_array_equal(piece(file, {"rate": 1}, build, cache), np.arange(6).reshape(2, 3))
    assert len(calls) == 1
    kept = piece(file, {"rate": 1}, build, cache)
    assert isinstance(kept, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        kept[0, 0] = 7
    piece(file, {"rate": 2}, build, cache)
    assert len(calls) == 2
    file.write_bytes(b"another")
    piece(file, {"rate": 1}, build, cache)
    assert len(calls) == 3
    os.utime(file, ns=(1, 1))
    piece(file, {"rate": 1}, build, cache)
    assert len(calls) == 4


def test_damage_is_mended_and_failure_leaves_nothing(tmp_path: Path) -> None:
    file, cache = tmp_path / "a.bin", tmp_path / "cache"
    file.write_bytes(b"one")

    def fails() -> np.ndarray:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        piece(file, {}, fails, cache)
    assert not list(cache.rglob("*.npy"))
    piece(file, {}, lambda: np.ones(100), cache)
    (kept,) = cache.rglob("*.npy")
    kept.write_bytes(kept.read_bytes()[:200])
    np.testing.assert_array_equal(piece(file, {}, lambda: np.ones(100), cache), np.ones(100))
    assert isinstance(piece(file, {}, fails, cache), np.memmap)


def test_a_folder_is_built_anew_when_a_file_in_it_changes(tmp_path: Path) -> None:
    folder, cache = tmp_path / "clip", tmp_path / "cache"
    folder.mkdir()
    for name in ("0.png", "1.png"):
        (folder / name).write_bytes(b"one")
    calls: list[int] = []

    def build() -> np.ndarray:
        calls.append(1)
        return np.zeros(2)

    def read() -> int:
        piece(folder, {}, build, cache)
        return len(calls)

    assert [read(), read()] == [1, 1]
    (folder / "1.png").write_bytes(b"another")
    assert read() == 2
    os.utime(folder / "0.png", ns=(1, 1))
    assert read() == 3
    (folder / "1.png").rename(folder / "2.png")
    assert read() == 4
    (folder / "3.png").symlink_to(folder / "nowhere")
    assert [read(), read()] == [4, 4]
