"""The README's code runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import crossguard as cg

README = Path(__file__).parents[1] / "README.md"


def test_the_code_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for line in code.splitlines() if line and not line.startswith("import")]
    assert len(lines) <= 10
    # Its two-input layer is a positional model; the page and the record must come out of it.
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    record = scope["record"]
    assert isinstance(record, cg.Record)
    assert record.conditions[0] == "clean"
    assert "Estimate(" in capsys.readouterr().out
    assert (tmp_path / "mine.html").stat().st_size > 10_000


def test_every_link_leads_somewhere() -> None:
    text = README.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        if target != "docs/page.png":
            assert (README.parent / target).exists(), target
