"""`crossguard data`: where things are read from and kept, and names of the user's as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Crossguard

SIZES = ("train=3", "validation=1", "test=1", "size=16", "frames=4", "seconds=1")
SMALL = [part for s in SIZES for part in ("--set", s)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, a test's own."""
    monkeypatch.setenv("CROSSGUARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A manifest whose names look like rich's markup."""
    folder = tmp_path / "mine"
    folder.mkdir()
    lines = ["id,targets,group,split,[noise],[/rgb]"]
    for i, split in enumerate(("train", "train", "test")):
        np.save(folder / f"{i}.npy", np.zeros((2, 3), np.float32))
        lines.append(f"c{i},[laughter],g{i},{split},{i}.npy,{i}.npy")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder


def test_a_generated_set_is_prepared_in_the_cache(crossguard: Crossguard, cache: Path) -> None:
    result = crossguard("data", "prepare", "events", *SMALL)
    assert result.exit_code == 0, result.stderr
    kept = sorted(file.name for file in cache.glob("*.npz"))
    assert len(kept) == 3
    assert crossguard("data", "show", "events", *SMALL).exit_code == 0
    assert sorted(file.name for file in cache.glob("*.npz")) == kept, "read from there"


@pytest.mark.parametrize("command", ["prepare", "check"])
def test_a_path_of_what_reads_none_is_refused(crossguard: Crossguard, tmp_path: Path, command: str) -> None:
    result = crossguard("data", command, "figures", tmp_path / "folder")
    assert result.exit_code == 2
    assert f"figures is generated and reads no folder, found the path {tmp_path / 'folder'}; leave" in result.stderr
    assert not (tmp_path / "folder").exists()
    needy = crossguard("data", command, "manifest")
    assert needy.exit_code == 2
    assert "path" in needy.stderr


def test_a_generated_set_has_nothing_to_check(crossguard: Crossguard) -> None:
    result = crossguard("data", "check", "events")
    assert result.exit_code == 0
    assert "there are no files to check" in result.stdout


def test_a_folder_is_prepared(crossguard: Crossguard, mine: Path, cache: Path) -> None:
    for arguments in ((mine,), ("--set", f"path={mine}")):
        result = crossguard("data", "prepare", "manifest", *arguments)
        assert result.exit_code == 0, result.stderr
        assert len(list(cache.glob("manifest-*.npz"))) == 1


@pytest.mark.parametrize("command", ["prepare", "check"])
def test_names_are_said_as_they_are(crossguard: Crossguard, mine: Path, command: str) -> None:
    result = crossguard("data", command, "manifest", mine)
    assert result.exit_code == 0, result.stderr
    cells = [cell.strip() for line in result.stdout.splitlines() for cell in line.split("│")]
    assert "[noise]" in cells
    assert "[/rgb]" in cells
    assert command == "check" or "1 classes: [laughter]" in result.stdout
