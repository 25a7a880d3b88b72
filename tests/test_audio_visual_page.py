"""The examples of docs/audio_visual.md run as they stand there, one after the other; its table names every preset."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import crossguard as cg
from crossguard.models.logmel import PRESETS

PAGE = Path(__file__).parents[1] / "docs" / "audio_visual.md"


def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    attacked = 0
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        scope.pop("result", None)
        exec(compile(code, PAGE.name, "exec"), scope)
        result = scope.get("result")
        if isinstance(result, cg.attacks.AttackResult):
            attacked += 1
            assert result.threat.contains(result.inputs, result.clean).all()
            assert not torch.isnan(result.margin).any()
    assert attacked == 3


def test_every_preset_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    missing = [name for name in PRESETS if f"| `{name}` |" not in text]
    assert not missing, f"give them a row in {PAGE.name}"
