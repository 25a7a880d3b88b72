"""CORSMAL's layout, made small; and the real features where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crossguard import data
from crossguard.core import DataError
from crossguard.data.corsmal import corsmal

KINDS = ((0, 0), (1, 1), (1, 2), (3, 2))


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "features"
    for container in range(1, 10):
        for n, (kind, level) in enumerate(KINDS):
            name = f"s0_fi{kind}_fu{level}_b0_l{n % 2}"
            for folder, ending, length, width in (
                ("vggish", "audio_vggish", n + 1, 128),
                ("r21d_c4", "c4_rgb", 2, 512),
            ):
                (root / folder / str(container)).mkdir(parents=True, exist_ok=True)
                values = np.full((length, width), container, np.float32)
                np.save(root / folder / str(container) / f"{name}_{ending}.npy", values)
    return root


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_folds_test_on_containers_that_training_never_sees(folder: Path, fold: int) -> None:
    splits = corsmal(folder, fold=fold)
    assert sorted(set(splits.test.groups)) == [f"container{fold + c}" for c in (1, 4, 7)]
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [20, 4, 12]
    assert not set(splits.train.groups) & set(splits.validation.groups)
    batch = splits.test.read([0, 2])
    assert batch.inputs["audio"].shape == (2, 3, 128)
    assert batch.mask["audio"].sum(1).tolist() == [1, 3]
    assert batch.inputs["camera4"].shape == (2, 2, 512)
    assert (batch.inputs["camera4"] == fold + 1).all()


def test_both_tasks(folder: Path) -> None:
    assert corsmal(folder).classes == ("none", "pasta", "water")
    finer = corsmal(folder, task="type_level", inputs=("audio",))
    assert finer.classes == ("none", "pasta half", "pasta full", "water full")
    assert finer.test.targets[:4].tolist() == [0, 1, 2, 3]


def test_what_is_not_in_this_layout(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        corsmal(tmp_path / "none")
    with pytest.raises(DataError, match="no features of audio"):
        corsmal(tmp_path, inputs=("audio",))
    with pytest.raises(DataError, match="expected some of audio"):
        corsmal(folder, inputs=("sound",))
    np.save(folder / "vggish/1/s0_fi9_fu0_b0_l0_audio_vggish.npy", np.zeros((1, 128), np.float32))
    with pytest.raises(DataError, match=r"s0_fi9_fu0_b0_l0_audio_vggish\.npy: not named as expected"):
        corsmal(folder)


def test_damage_is_named_or_left_out(folder: Path) -> None:
    file = folder / "vggish/2/s0_fi0_fu0_b0_l0_audio_vggish.npy"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged: 1\n  2/s0_fi0_fu0_b0_l0"):
        corsmal(folder)
    with pytest.warns(UserWarning, match="1 samples are left out"):
        assert len(corsmal(folder, bad="skip", fold=1).test) == 11
    assert data.check("corsmal", folder).problems[0].startswith("damaged: 2/s0_fi0")


def test_the_real_features(shared_data: Path) -> None:
    splits = corsmal(shared_data / "corsmal", task="type_level")
    assert splits.classes == ("none", "pasta half", "pasta full", "rice half", "rice full", "water half", "water full")
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 684
    assert len(splits.test) == 228
    batch = splits.train.read(range(16))
    assert batch.inputs["audio"].shape[2] == 128
    assert batch.inputs["camera4"].shape[2] == 512
    assert batch.inputs["audio"].shape[1] != batch.inputs["camera4"].shape[1]
