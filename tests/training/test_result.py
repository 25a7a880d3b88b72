"""What training says of itself."""

from __future__ import annotations

import pytest

from crossguard.training.result import Means


def test_a_part_that_some_steps_lack_is_averaged_over_those_that_have_it() -> None:
    means = Means()
    means.add({"loss": 4.0}, 30, 1.0)
    means.add({"loss": 1.0, "probe": 0.5}, 10, 1.0)
    assert means.take() == pytest.approx({"loss": 3.25, "probe": 0.5, "samples_per_second": 20.0})
    means.add({"probe": 1.0}, 2, 1.0)
    assert means.take()["probe"] == 1.0, "begun anew"
