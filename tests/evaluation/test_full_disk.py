"""A disk that fills up during an evaluation, or while a study's figures are written: what was computed stays."""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crossguard as cg
from crossguard.core.files import locked
from crossguard.evaluation import conditions, evaluate
from crossguard.study import EXPORTS, export, page, results
from tests.evaluation.models import Loader, linear, samples
from tests.evaluation.test_evaluate import QUICK, threat_for
from tests.study.planted import planted


def full_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> list[int]:
    """Let so many files be written, then find no more room; says how many were asked for."""
    asked, sync = [0], os.fsync

    def fsync(handle: int) -> None:
        asked[0] += 1
        if asked[0] > writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return asked


def all_files(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> cg.Record:
    model = linear(6, 4)
    loader = Loader(samples(model, 30), 16)
    return evaluate(model, loader, threat_for(model), protocol=QUICK, out=tmp_path_factory.mktemp("whole"))


# Fingerprint, failures, two parts with their states, then larger scales, checks, and the record's own files.
@pytest.mark.parametrize("writes", [0, 1, 3, 4, 6, 9, -3, -2, -1])
def test_an_evaluation_keeps_what_it_has_computed(
    whole: cg.Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    model = linear(6, 4)
    loader, threat = Loader(samples(model, 30), 16), threat_for(model)
    computed: Counter[str] = Counter()
    for name in ("measure", "extend"):
        plain: Any = getattr(conditions, name)

        def counted(case: Any, *given: Any, _plain: Any = plain, _name: str = name) -> Any:
            found = _plain(case, *given)
            computed[f"{_name} {case.batch.ids[0]} {given[-1] if _name == 'extend' else ''}"] += 1
            return found

        monkeypatch.setattr(conditions, name, counted)
    if writes < 0:  # counted from the end
        with monkeypatch.context() as patch:
            asked = full_after(patch, 10**9)
            evaluate(model, loader, threat, protocol=QUICK, out=tmp_path / "count")
            writes += asked[0]
        computed.clear()
    with monkeypatch.context() as patch:
        full_after(patch, writes)
        with pytest.raises(cg.RunError, match=r"No space left.*run the same command again"):
            evaluate(model, loader, threat, protocol=QUICK, out=tmp_path / "run")
    before = all_files(tmp_path / "run")
    assert not [name for name in before if name.endswith(".part")], "nothing half-written"
    assert len([name for name in before if "parts" in name]) >= min(writes, 6) - 2
    done = dict(computed)
    again = evaluate(model, loader, threat, protocol=QUICK, out=tmp_path / "run")
    assert sum(computed.values()) <= len(computed) + 1, "only the piece that could not be written is computed again"
    assert set(done) <= set(computed)
    for key, value in whole.samples.items():
        assert np.array_equal(again.samples[key], value), key
    assert all(np.array_equal(again.clips[k], whole.clips[k]) for k in whole.clips)
    assert again.flags == whole.flags
    assert set(all_files(tmp_path / "run")) == {".lock", "record.json", "samples.npz", "clips.npz"}


def test_a_finished_evaluation_is_read_where_nothing_can_be_written(
    whole: cg.Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = linear(6, 4)
    loader = Loader(samples(model, 30), 16)
    evaluate(model, loader, threat_for(model), protocol=QUICK, out=tmp_path)
    (tmp_path / "parts").mkdir()  # what a kill left that came between the record and the clearing up
    full_after(monkeypatch, 0)
    read = evaluate(model, loader, threat_for(model), protocol=QUICK, out=tmp_path)
    assert all(np.array_equal(read.samples[k], whole.samples[k]) for k in whole.samples)
    assert not (tmp_path / "parts").exists()


def test_a_second_evaluation_in_one_folder_is_told(tmp_path: Path) -> None:
    model = linear(6, 4)
    loader = Loader(samples(model, 30), 16)
    with locked(tmp_path), pytest.raises(cg.RunError, match="another process is at work in"):
        evaluate(model, loader, threat_for(model), protocol=QUICK, out=tmp_path)
    assert set(all_files(tmp_path)) == {".lock"}


def test_a_second_evaluation_waits_for_the_last_moments_of_a_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    model = linear(6, 4)
    loader = Loader(samples(model, 30), 16)
    held, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(tmp_path):
            held.set()
            ended.wait(0.4)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    assert len(evaluate(model, loader, threat_for(model), protocol=QUICK, out=tmp_path)) == 30
    thread.join()


@pytest.mark.parametrize("kind", [*EXPORTS, "page"])
def test_exports_of_a_study_leave_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    plan = planted(tmp_path, "seeds: [0]\nreference: concat-standard\n", samples=40, clips=0)
    found = results(plan)
    write: Any = (lambda: page(found, plan.out / "study.html")) if kind == "page" else (
        lambda: export(found, plan.out, [kind])
    )  # fmt: skip
    write()
    before = all_files(plan.out)
    with monkeypatch.context() as patch:
        full_after(patch, 0)
        with pytest.raises(cg.RunError, match="No space left"):
            write()
    assert all_files(plan.out) == before
    write()
    assert all_files(plan.out).keys() == before.keys()
