"""The registry, and the look at the files of a set."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest
from scipy.io import savemat

from crossguard import data
from crossguard.core import DataError
from tests.data.conftest import Write

CLIPS = tuple(f"a{a}_s{s}_t{t}" for a in (1, 9) for s in (1, 2, 5) for t in (1, 2))


@pytest.mark.parametrize("name", list(data.SOURCES))
def test_every_source_is_described_and_can_be_asked_by_a_recipe(name: str) -> None:
    source = data.SOURCES[name]
    assert data.SETS[name] is source.load
    assert source.name == name
    assert all((source.summary, source.origin, source.licence, source.layout))
    signature = inspect.signature(source.load, eval_str=True)
    assert signature.return_annotation is data.Splits
    assert all(p.annotation is not p.empty for p in signature.parameters.values())
    assert source.needs_path == (source.look is not None)  # what is fetched can be damaged


def test_a_whole_folder(make_utd: Write) -> None:
    folder = make_utd(CLIPS, frames=2, rgb=True)
    report = data.check("utd_mhad", folder)
    assert report.ok
    assert report.path == folder
    assert report.header == ("kind", "files", "actions", "subjects", "missing", "damaged")
    assert report.rows == tuple((kind, "12", "2", "3", "0", "0") for kind in ("depth", "skeleton", "inertial", "rgb"))
    assert report.notes == ()


def test_gaps_are_notes_and_damage_is_a_problem(make_utd: Write) -> None:
    folder = make_utd(CLIPS, frames=2)
    (folder / "Skeleton/a9_s5_t1_skeleton.mat").unlink()
    (folder / "Skeleton/a9_s5_t2_skeleton.mat").unlink()
    broken = folder / "Depth/a1_s1_t1_depth.mat"
    broken.write_bytes(broken.read_bytes()[:500])
    savemat(folder / "Inertial/a1_s2_t2_inertial.mat", {"other": 1})
    report = data.check("utd_mhad", folder)
    assert not report.ok
    assert report.rows == (
        ("depth", "12", "2", "3", "0", "1"),
        ("skeleton", "10", "2", "3", "2", "0"),
        ("inertial", "12", "2", "3", "0", "1"),
        ("rgb", "0", "0", "0", "12", "0"),
    )
    assert report.notes == ("skeleton: 2 clips have none (a9_s5_t1, a9_s5_t2)", "no rgb file: it cannot be asked for")
    assert len(report.problems) == 2
    assert "a1_s1_t1_depth.mat: truncated or damaged" in report.problems[0]
    assert "a1_s2_t2_inertial.mat: found ['other']" in report.problems[1]


def test_what_cannot_be_looked_at(tmp_path: Path, make_utd: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    generated = data.check("figures")
    assert generated.ok
    assert "generated" in generated.notes[0]
    with pytest.raises(DataError, match="did you mean 'utd_mhad'"):
        data.check("utd_mhat", tmp_path)
    with pytest.raises(DataError, match="known: figures"):
        data.check("zzz", tmp_path)
    with pytest.raises(DataError, match="give its path"):
        data.check("utd_mhad")
    with pytest.raises(DataError, match="no file of UTD-MHAD"):
        data.check("utd_mhad", tmp_path)
    folder = make_utd(CLIPS[:1], frames=2)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DataError, match=r"crossguard\[data\]"):
        data.check("utd_mhad", folder)


@pytest.mark.slow
def test_the_real_folder_is_whole(shared_data: Path) -> None:
    report = data.check("utd_mhad", shared_data / "utd_mhad")
    assert report.ok
    assert [row[:4] for row in report.rows[:3]] == [(k, "319", "10", "8") for k in ("depth", "skeleton", "inertial")]
