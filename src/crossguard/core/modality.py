"""What one input of a model is: its axes, unit, valid range and rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from crossguard.core.errors import InputError

AXES = {
    "N": "sample",
    "C": "channel or coordinate",
    "T": "time",
    "H": "row",
    "W": "column",
    "M": "person",
    "V": "joint",
    "D": "feature",
}


@dataclass(frozen=True, slots=True)
class Modality:
    """One input: `axes` such as "NCTHW", its `unit`, its valid range and its rate in hertz along T.

    `bones` are pairs of joints (for pictures and bone-length constraints). `camera` is (fx, fy, cx, cy) in
    fractions of the picture's width and height: u = W (cx + fx X/Z), v = H (cy - fy Y/Z), metres in.
    """

    name: str
    axes: str
    unit: str
    bounds: tuple[float, float] | None = None
    rate: float | None = None
    bones: tuple[tuple[int, int], ...] = ()
    camera: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.axes) - set(AXES))
        if unknown or not self.axes.startswith("N") or len(set(self.axes)) != len(self.axes):
            raise InputError(
                f"modality {self.name!r}: axes {self.axes!r} must start with N, name each axis once and use only "
                f"{' '.join(AXES)}"
            )

    def axis(self, letter: str) -> int | None:
        """Position of an axis in the tensor, None where this modality has none."""
        position = self.axes.find(letter)
        return None if position < 0 else position

    def size(self, x: Tensor, letter: str) -> int:
        """Length of one axis of `x`, 1 where this modality has no such axis."""
        position = self.axis(letter)
        return 1 if position is None else x.shape[position]

    def check(self, x: Tensor) -> None:
        """Raise InputError unless `x` is a floating tensor of this modality's rank."""
        if x.dim() != len(self.axes):
            raise InputError(
                f"modality {self.name!r}: found a tensor of shape {tuple(x.shape)}, expected {len(self.axes)} axes "
                f"({self.axes})"
            )
        if not x.is_floating_point():
            raise InputError(
                f"modality {self.name!r}: found {x.dtype}, expected floating point in {self.unit}; "
                f"convert codes to physical units first"
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON; the inverse of `from_dict`."""
        return {
            "name": self.name,
            "axes": self.axes,
            "unit": self.unit,
            "bounds": None if self.bounds is None else list(self.bounds),
            "rate": self.rate,
            "bones": [list(bone) for bone in self.bones],
            "camera": None if self.camera is None else list(self.camera),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Modality:
        """From JSON; the inverse of `to_dict`."""
        return cls(
            name=data["name"],
            axes=data["axes"],
            unit=data["unit"],
            bounds=None if data["bounds"] is None else (data["bounds"][0], data["bounds"][1]),
            rate=data["rate"],
            bones=tuple((a, b) for a, b in data["bones"]),
            camera=None if data["camera"] is None else tuple(data["camera"]),
        )
