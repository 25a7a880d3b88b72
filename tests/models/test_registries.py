"""Options of encoders and fusions can be validated from plain YAML values."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError, validate_call

from crossguard.models import ENCODERS
from crossguard.models.fusion import FUSIONS


def checked(make: type, **options: Any) -> Any:
    """An instance whose arguments pydantic has validated against the signature."""
    made = make.__new__(make)
    validate_call(make.__init__)(made, **options)
    return made


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (
            ENCODERS["video"],
            {"width": 8, "blocks": [1, 1, 1, 1], "stem": [3, 5, 5], "stride": [2, 4, 4], "mean": [0, 0, 0]},
        ),
        (ENCODERS["hcn"], {"width": 8, "frames": 8, "centre": None}),
        (ENCODERS["series"], {"features": 6, "std": 2}),
        (ENCODERS["frames"], {"channels": 1, "mean": 0.1}),
        (ENCODERS["audio"], {"front": "digits", "settings": {"mels": 24, "mean": -30}, "width": 4}),
        (ENCODERS["transformer"], {"features": 5, "layers": 0, "mixing": "gate", "pool": "mean", "std": 2}),
        (FUSIONS["transformer"], {"join": "frames", "width": 16, "heads": 2, "experts": 4}),
        (FUSIONS["early"], {"width": 16, "passes": 3, "heads": 2}),
        (FUSIONS["mid"], {"hidden": 0}),
        (FUSIONS["late"], {"hidden": 8}),
        (FUSIONS["concat"], {"hidden": 0}),
        (FUSIONS["mean"], {}),
        (FUSIONS["mmtm"], {"at": {"rgb": ["layer3", "layer4"], "skeleton": ["conv5", "conv6"]}}),
        (FUSIONS["amr"], {"floor": 0.1, "gate": "channel", "at": {"rgb": "layer4", "skeleton": "conv6"}}),
        (FUSIONS["exfmem"], {"size": 64, "blend": 1, "through": False, "width": 32}),
        (FUSIONS["odd_one_out"], {"width": 16}),
    ],
)
def test_plain_values_are_enough_and_unknown_ones_refused(make: Any, options: dict[str, Any]) -> None:
    assert isinstance(checked(make, **options), make)
    with pytest.raises(ValidationError, match="widht"):
        checked(make, **options, widht=3)


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValidationError, match="gate"):
        checked(FUSIONS["amr"], gate="vector")
    with pytest.raises(ValidationError, match="at"):
        checked(FUSIONS["mean"], at={"rgb": "layer4"})
    with pytest.raises(ValidationError, match="settings"):
        checked(ENCODERS["audio"], settings={"hopp": 3})
    with pytest.raises(ValidationError, match="stem"):
        checked(ENCODERS["video"], stem=[3, 3])
