"""The examples of docs/attacks.md run as they stand there, one after the other."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import crossguard as cg

PAGE = Path(__file__).parents[1] / "docs" / "attacks.md"


def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        if "transformers" in code and find_spec("transformers") is None:
            continue
        scope.pop("result", None)
        exec(compile(code, PAGE.name, "exec"), scope)
        result = scope["result"]
        assert isinstance(result, cg.attacks.AttackResult)
        assert result.threat.contains(result.inputs, result.clean).all()
        assert not torch.isnan(result.margin).any()


def test_every_attack_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    missing = [name for name in (*cg.attacks.ATTACKS, "transfer", "universal") if f"| `{name}` |" not in text]
    assert not missing, f"give them a row in {PAGE.name}"
