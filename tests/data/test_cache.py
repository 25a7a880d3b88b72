"""The cache: built once, rebuilt when its sources or itself change, shared by processes, never half-written."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossguard.core import RunError
from crossguard.data.cache import cache_folder, cache_key, load_or_build

ARRAYS = {"x": np.arange(1000, dtype=np.int32), "y": np.eye(3, dtype=np.float32)}
FORK: Any = multiprocessing.get_context("fork")


class Builder:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, Any]:
        self.calls += 1
        return ARRAYS


def test_built_once_and_read_back(tmp_path: Path) -> None:
    build = Builder()
    for _ in range(2):
        kept = load_or_build("key", build, tmp_path / "deep" / "cache")
        assert set(kept) == {"x", "y"}
        np.testing.assert_array_equal(kept["x"], ARRAYS["x"])
    assert build.calls == 1
    load_or_build("other", build, tmp_path / "deep" / "cache")
    assert build.calls == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_a_damaged_file_is_built_anew(tmp_path: Path, damage: str) -> None:
    build = Builder()
    load_or_build("key", build, tmp_path)
    path = tmp_path / "key.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes({"truncated": data[: len(data) // 2], "flipped": data, "empty": b"", "text": b"not npz"}[damage])
    np.testing.assert_array_equal(load_or_build("key", build, tmp_path)["x"], ARRAYS["x"])
    assert build.calls == 2
    load_or_build("key", build, tmp_path)
    assert build.calls == 2


def test_a_builder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> dict[str, Any]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        load_or_build("key", fail, tmp_path)
    assert not list(tmp_path.glob("*.npz"))
    assert load_or_build("key", Builder(), tmp_path)["x"][3] == 3


def test_the_key_follows_options_version_and_files(tmp_path: Path) -> None:
    file = tmp_path / "a.mat"
    file.write_bytes(b"1234")
    base = cache_key("set", {"size": 48, "frames": 16}, 1, [file])
    assert base == cache_key("set", {"frames": 16, "size": 48}, 1, [file])
    assert base.startswith("set-")
    others = [cache_key("set", {"size": 49, "frames": 16}, 1, [file]), cache_key("set", {"size": 48}, 1, [file])]
    others += [cache_key("set", {"size": 48, "frames": 16}, 2, [file]), cache_key("set", {"size": 48, "frames": 16}, 1)]
    os.utime(file, ns=(1, 1))
    others.append(cache_key("set", {"size": 48, "frames": 16}, 1, [file]))
    file.write_bytes(b"12345")
    os.utime(file, ns=(1, 1))
    others.append(cache_key("set", {"size": 48, "frames": 16}, 1, [file]))
    assert len({base, *others}) == 7
    (tmp_path / "b.mat").write_bytes(b"1234")
    both = [file, tmp_path / "b.mat"]
    assert cache_key("set", {}, 1, both) != cache_key("set", {}, 1, both[::-1]), "arrays may lie in their order"


def test_the_folder_is_a_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CROSSGUARD_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    load_or_build("key", Builder())
    assert (tmp_path / "here" / "key.npz").is_file()
    monkeypatch.delenv("CROSSGUARD_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "crossguard"


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="CROSSGUARD_CACHE"):
        load_or_build("key", Builder(), tmp_path / "file")


def _slow_process(folder: Path) -> None:
    def build() -> dict[str, Any]:
        with (folder / "log").open("a") as log:
            log.write("built\n")
        time.sleep(0.3)
        return ARRAYS

    kept = load_or_build("key", build, folder)
    assert kept["x"].sum() == ARRAYS["x"].sum()


def test_of_several_processes_one_builds_and_the_others_wait(tmp_path: Path) -> None:
    processes = [FORK.Process(target=_slow_process, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


def _hanging_process(folder: Path) -> None:
    def build() -> dict[str, Any]:
        (folder / "started").write_text("")
        time.sleep(600)
        return ARRAYS

    load_or_build("key", build, folder)


def test_a_builder_that_is_killed_blocks_nobody(tmp_path: Path) -> None:
    process = FORK.Process(target=_hanging_process, args=(tmp_path,))
    process.start()
    until = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    build = Builder()
    assert load_or_build("key", build, tmp_path)["x"][5] == 5
    assert build.calls == 1
