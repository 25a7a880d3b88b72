"""The generated action set as a data set: determinism, splits, regimes, cache."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from crossguard.core.errors import InputError
from crossguard.core.modality import Modality
from crossguard.data.base import Splits
from crossguard.data.figures import BONES, CLASSES, figures, generate
from crossguard.data.figures.clips import CAST
from crossguard.data.figures.regimes import REGIMES, Regime

SMALL = {"size": 24, "frames": 4}


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return figures(train=48, validation=24, test=24, cache=tmp_path_factory.mktemp("cache"), **SMALL)


def test_shapes_units_and_ids(splits: Splits) -> None:
    batch = splits.train.read([5, 2])
    assert batch.inputs["rgb"].shape == (2, 3, 4, 24, 24)
    assert batch.inputs["skeleton"].shape == (2, 2, 4, 25, 3)
    assert batch.inputs["rgb"].min() >= 0
    assert batch.inputs["rgb"].max() <= 1
    assert batch.mask["skeleton"].shape == (2, 2, 4)
    assert batch.ids == ("figures-balanced-train-00005", "figures-balanced-train-00002")
    assert batch.targets.tolist() == [5, 2]
    skeleton = splits.modalities["skeleton"]
    assert (skeleton.axes, skeleton.unit, skeleton.rate) == ("NMTVC", "metre", 2.0)
    assert len(skeleton.bones) == 24
    assert Modality.from_dict(skeleton.to_dict()) == skeleton


def test_bones_span_all_joints() -> None:
    assert sorted({child for _, child in BONES} | {0}) == list(range(25))


def test_classes_are_balanced_and_performers_disjoint(splits: Splits) -> None:
    parts = (splits.train, splits.validation, splits.test)
    for part in parts:
        assert set(Counter(part.targets.tolist()).values()) == {len(part) // len(CLASSES)}
    seen = [set(part.groups) for part in parts]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    spans = [set(range(first, first + count)) for first, count in CAST.values()]
    assert sum(map(len, spans)) == len(set.union(*spans))


def test_people_stand_about_three_metres_away() -> None:
    true = generate("train", 24, regime="balanced", seed=0, **SMALL).true
    assert 2.0 < true[..., 2].min() < true[..., 2].max() < 4.5
    assert 2.5 < true[..., 0, 2].mean() < 3.5


def test_absent_and_lost_people_are_masked_and_finite() -> None:
    clips = generate("train", 96, regime="skeleton-weak", seed=0, size=16, frames=8)
    assert torch.isfinite(clips.skeleton).all()
    people = clips.mask.any(dim=2)
    assert people.any(dim=1).all(), "someone is tracked in every clip"
    assert 0 < people.all(dim=1).float().mean() < 0.4, "now and then there are two"
    assert (clips.skeleton[~people] == 0).all()
    lost = people[:, :, None] & ~clips.mask
    assert lost.any()
    after = lost[:, :, 1:]
    held = (clips.skeleton[:, :, 1:] == clips.skeleton[:, :, :-1]).all(dim=(-1, -2))
    assert held[after].all(), "a lost person stands as last seen"


@pytest.mark.parametrize("split", list(CAST))
def test_a_clip_depends_on_its_number_alone(split: str) -> None:
    many = generate(split, 70, regime="balanced", seed=3, **SMALL)
    few = generate(split, 13, regime="balanced", seed=3, **SMALL)
    for name in ("rgb", "skeleton", "mask"):
        assert torch.equal(getattr(many, name)[:13], getattr(few, name)), name


def test_chunks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = generate("train", 24, regime="rgb-weak", seed=0, **SMALL)
    monkeypatch.setattr("crossguard.data.figures._PICTURES", 20)
    torch.set_num_threads(2)
    pieces = generate("train", 24, regime="rgb-weak", seed=0, **SMALL)
    assert torch.equal(whole.rgb, pieces.rgb)
    assert torch.equal(whole.skeleton, pieces.skeleton)


def test_seeds_and_splits_differ() -> None:
    one = generate("train", 12, regime="balanced", seed=0, **SMALL)
    for other in (
        generate("train", 12, regime="balanced", seed=1, **SMALL),
        generate("test", 12, regime="balanced", seed=0, **SMALL),
    ):
        assert (one.rgb != other.rgb).flatten(1).any(dim=1).all()
        assert (one.skeleton != other.skeleton).flatten(1).any(dim=1).all()


@pytest.mark.parametrize(
    ("regime", "same", "changed"), [("rgb-weak", "skeleton", "rgb"), ("skeleton-weak", "rgb", "skeleton")]
)
def test_a_regime_changes_only_its_modality(regime: Regime, same: str, changed: str) -> None:
    plain = generate("train", 24, regime="balanced", seed=0, **SMALL)
    hard = generate("train", 24, regime=regime, seed=0, **SMALL)
    assert torch.equal(plain.true, hard.true)
    assert torch.equal(getattr(plain, same), getattr(hard, same))
    assert (getattr(plain, changed) != getattr(hard, changed)).flatten(1).any(dim=1).float().mean() > 0.9


def test_weak_regimes_are_worse_in_every_respect() -> None:
    (clear, steady), (murky, _), (_, shaky) = (REGIMES[r] for r in ("balanced", "rgb-weak", "skeleton-weak"))
    for better, worse in ((clear, murky), (steady, shaky)):
        assert all(getattr(better, f) <= getattr(worse, f) for f in better.__dataclass_fields__)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.npz"))}


def test_cache_is_read_again_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"train": 12, "validation": 12, "test": 12, **SMALL}
    monkeypatch.setenv("CROSSGUARD_CACHE", str(tmp_path))
    first = figures(**asked)
    kept = _bytes(tmp_path)
    assert len(kept) == 3
    damaged = next(tmp_path.glob("*train*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    again = figures(**asked)
    assert _bytes(tmp_path) == kept, "built anew to the same bytes"
    rows = list(range(12))
    for name in ("rgb", "skeleton"):
        assert torch.equal(first.train.read(rows).inputs[name], again.train.read(rows).inputs[name])
    assert torch.equal(first.train.read(rows).mask["skeleton"], again.train.read(rows).mask["skeleton"])

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the cache was not read")

    monkeypatch.setattr("crossguard.data.figures.generate", never)
    figures(**asked)


def test_every_option_has_its_own_cache_file(tmp_path: Path) -> None:
    asked = {"train": 1, "validation": 1, "test": 1, "size": 16, "frames": 2, "cache": tmp_path}
    figures(**asked)
    for option, value in {"regime": "rgb-weak", "size": 18, "frames": 3, "seed": 1, "train": 2}.items():
        before = len(_bytes(tmp_path))
        figures(**{**asked, option: value})
        assert len(_bytes(tmp_path)) > before, option


@pytest.mark.parametrize(
    ("option", "value"), [("train", 0), ("test", -1), ("size", 8), ("frames", 1), ("regime", "sunny"), ("seed", 2**70)]
)
def test_impossible_options_are_refused(option: str, value: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{option} is {value!r}"):
        figures(**{option: value, "cache": tmp_path})
    assert not list(tmp_path.iterdir())
