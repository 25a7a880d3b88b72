"""The demo, whole but tiny: every model trained and attacked, one page, its path the last line; then reused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import crossguard as cg
from crossguard.cli.demo import MODELS
from crossguard.recipe import load
from tests.cli.conftest import Shell


def test_the_quick_demo(shell: Shell, tmp_path: Path) -> None:
    first = shell("demo", "--quick", "--out", "out")
    assert first.returncode == 0, first.stderr
    page = Path(first.stdout.splitlines()[-1])
    assert page == tmp_path / "out" / "page.html"
    text = page.read_text(encoding="utf-8")
    records = {name: cg.Record.load(tmp_path / "out" / name) for name in MODELS}
    for name, record in records.items():
        assert name in text
        assert record.name == name
        assert {"clean", "only:rgb", "only:skeleton", "any_one", "joint", "noise"} <= set(record.conditions)


@pytest.mark.slow
def test_what_is_finished_is_reused(shell: Shell, tmp_path: Path) -> None:
    kept: list[list[object]] = []
    for _ in range(2):
        done = shell("demo", "--quick", "--out", "out")
        assert done.returncode == 0, done.stderr
        folders = [tmp_path / "out" / name for name in MODELS]
        kept.append([((f / "model.safetensors").read_bytes(), cg.Record.load(f).meta["created"]) for f in folders])
    assert kept[0] == kept[1]


def test_demo_models_are_compared_fairly() -> None:
    folder = Path(cg.__file__).parent / "recipes" / "demo"
    recipes = {name: load(folder / f"{name}.yaml") for name in MODELS}
    assert {file.stem for file in folder.glob("*.yaml")} == set(MODELS)
    for part in ("data", "threat", "evaluate"):
        assert len({str(recipe.document[part]) for recipe in recipes.values()}) == 1, part
    concat, amr = recipes["concat-adversarial"].document, recipes["amr-adversarial"].document
    assert concat["train"] == amr["train"]
    assert concat["objective"] == amr["objective"]
    assert concat["model"]["encoders"] == amr["model"]["encoders"]


def test_ctrl_c_says_how_to_go_on_and_the_next_call_does(tmp_path: Path, small: list[str], shell: Shell) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "figures" / "concat-standard.yaml"
    settings = [part for setting in small if not setting.startswith("train.epochs") for part in ("--set", setting)]
    settings += ["--set", "train.epochs=400", "--set", "train.validate_every=400"]
    command = [sys.executable, "-m", "crossguard", "train", str(recipe), *settings, "--out", "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    latest = tmp_path / "run" / "checkpoint" / "latest.json"
    started = time.monotonic()
    while not latest.exists() and process.poll() is None and time.monotonic() - started < 120:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    unfinished = shell("evaluate", "run")
    assert unfinished.returncode == 1
    assert "is not finished" in unfinished.stderr
