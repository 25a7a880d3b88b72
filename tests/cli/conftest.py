"""The commands, run in this process or in one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from crossguard.cli import app
from crossguard.cli.console import results

Crossguard = Callable[..., Result]
Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def crossguard(monkeypatch: pytest.MonkeyPatch) -> Crossguard:
    """`crossguard ARGUMENTS` in this process; the result has exit_code, stdout and stderr."""
    monkeypatch.delenv("CROSSGUARD_DEBUG", raising=False)
    # Where COLUMNS is set before the first import, as xdist does, rich never asks again.
    monkeypatch.setattr(results, "_width", 200)
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    return lambda *arguments: runner.invoke(app, [str(a) for a in arguments])


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """`crossguard ARGUMENTS` as a process of its own."""

    def run(*arguments: object, cwd: Path = tmp_path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"}
        environment.pop("CROSSGUARD_DEBUG", None)
        command = [sys.executable, "-m", "crossguard", *(str(a) for a in arguments)]
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Settings that make a recipe on `figures` a matter of a second or two."""
    return [
        "data.train=48",
        "data.validation=12",
        "data.test=12",
        "data.size=16",
        "train.epochs=1",
        "train.validation_steps=1",
        "evaluate.protocol={name: quick, steps: 1, curve_steps: 1, noise_trials: 1, samples: 12, check_samples: 4, "
        "clips: 1, max_scale: 4, scales: [1, 2]}",
    ]
