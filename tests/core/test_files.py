"""Files are whole or absent."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import crossguard as cg
from crossguard.core import files

FORK = multiprocessing.get_context("fork")


def test_round_trips(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a" / "x.json", {"é": [1, None]})
    assert files.read_json(tmp_path / "a" / "x.json") == {"é": [1, None]}
    files.write_npz(tmp_path / "x.npz", {"u/v": np.arange(3), "s": np.array(["a", "bb"])})
    assert files.read_npz(tmp_path / "x.npz")["s"].tolist() == ["a", "bb"]
    files.write_safetensors(tmp_path / "x.safetensors", {"w": torch.eye(2).T})
    assert torch.equal(files.read_safetensors(tmp_path / "x.safetensors")["w"], torch.eye(2))


def test_files_may_be_read_by_others(tmp_path: Path) -> None:
    files.write_json(tmp_path / "x.json", 1)
    (tmp_path / "plain").touch()
    assert (tmp_path / "x.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(cg.RunError, match=r"No space left.*untouched"):
        files.write_json(path, "new")
    monkeypatch.undo()
    assert files.read_json(path) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def _write_for_ever(path: Path) -> None:
    files.write_atomic(path, lambda file: (file.write(b"half"), file.flush(), time.sleep(600)))


def test_what_a_killed_writer_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    processes = [FORK.Process(target=_write_for_ever, args=(path,)) for _ in range(2)]
    for process in processes:
        process.start()
    while len(list(tmp_path.glob(".x.json.*.part"))) < 2:
        time.sleep(0.01)
    processes[0].kill()
    processes[0].join()
    (tmp_path / ".x.json.of-somebody-else").touch()
    files.write_json(path, "new")
    assert len(list(tmp_path.glob(".x.json.*.part"))) == 1
    assert (tmp_path / ".x.json.of-somebody-else").exists()
    processes[1].kill()
    processes[1].join()
    files.write_json(path, "newer")
    assert {p.name for p in tmp_path.iterdir()} == {"x.json", ".x.json.of-somebody-else"}


def test_where_there_are_no_locks_files_are_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    (tmp_path / ".x.json.abc.part").touch()
    files.write_json(tmp_path / "x.json", 1)
    with files.locked(tmp_path, patience=0):
        assert (tmp_path / ".x.json.abc.part").exists(), "nobody can tell whose it is"
    monkeypatch.setattr(files, "fcntl", None)
    files.write_json(tmp_path / "x.json", 2)
    with files.locked(tmp_path, patience=0):
        assert files.read_json(tmp_path / "x.json") == 2


def test_nothing_is_pickled(tmp_path: Path) -> None:
    with pytest.raises(cg.RunError, match="pickle"):
        files.write_npz(tmp_path / "x.npz", {"o": np.array([{}], dtype=object)})
    with (tmp_path / "evil.npz").open("wb") as file:
        np.savez(file, o=np.array([{}], dtype=object))
    with pytest.raises(cg.RunError):
        files.read_npz(tmp_path / "evil.npz")


@pytest.mark.parametrize("suffix", ["json", "npz", "safetensors"])
def test_damaged_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(b"PK\x03\x04 not what it says")
    read = {"json": files.read_json, "npz": files.read_npz, "safetensors": files.read_safetensors}[suffix]
    with pytest.raises(cg.RunError, match=str(path)):
        read(path)
