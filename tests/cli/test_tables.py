"""Tables in the terminal."""

from __future__ import annotations

import pytest

from crossguard.cli.console import results
from crossguard.cli.tables import Figures


@pytest.mark.parametrize("width", [40, 120])
def test_names_are_said_as_they_are(width: int) -> None:
    names = ("[laughter]", "[/noise]", "[bold]", ":key:")
    with results.capture() as captured:
        rows = [[name, *("1.0" for _ in names)] for name in names]
        results.print(Figures("minus [red]", ["class", *names], rows), width=width)
    said = captured.get()
    assert "minus [red]" in said
    words = said.split()
    for name in names:
        assert words.count(name) >= 2, "as a header and as a row"
