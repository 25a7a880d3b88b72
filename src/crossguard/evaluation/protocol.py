"""How hard an evaluation looks: everything that decides its figures besides model, data, threat and seed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from crossguard.attacks.objective import OBJECTIVES
from crossguard.core import RecipeError
from crossguard.diagnostics.reliance import Fill

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Protocol:
    """The rules of METHODS section 0 as numbers; raises RecipeError for those that cannot be meant.

    `steps` x `objectives` x `restarts` is the attack at scale 1, `curve_steps` what each other scale adds to it;
    `scales` are doubled on until the joint attack leaves at most 1 % right, or up to `max_scale`. `samples` caps the
    set (None: all), `clips` are kept for the viewer, `check_samples` are attacked again by the machine checks.
    """

    name: Literal["quick", "standard"] = "standard"
    steps: Count = 20
    objectives: tuple[str, ...] = ("cross_entropy", "margin")
    restarts: Count = 1
    scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    max_scale: Annotated[float, Field(ge=1)] = 1024.0
    curve_steps: Count = 10
    noise_trials: Count = 10
    samples: Annotated[int, Field(ge=1)] | None = None
    clips: Annotated[int, Field(ge=0)] = 8
    check_samples: Annotated[int, Field(ge=0)] = 128
    missing_fill: Fill = "mean"

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "curve_steps", "noise_trials"):
            if getattr(self, name) < 1:
                raise RecipeError(f"protocol: {name} is {getattr(self, name)}, expected a whole number >= 1")
        if self.samples is not None and self.samples < 1:
            raise RecipeError(f"protocol: samples is {self.samples}, expected >= 1, or None for all")
        if min(self.clips, self.check_samples) < 0:
            raise RecipeError("protocol: clips and check_samples cannot be negative")
        unknown = [o for o in self.objectives if o not in OBJECTIVES]
        if unknown or not self.objectives:
            raise RecipeError(f"protocol: objectives are {self.objectives}, expected some of {sorted(OBJECTIVES)}")
        rising = all(a < b for a, b in zip(self.scales, self.scales[1:], strict=False))
        if 1.0 not in self.scales or not rising or self.scales[0] <= 0:
            raise RecipeError(f"protocol: scales are {self.scales}, expected rising positive numbers with 1 among them")
        if self.max_scale < self.scales[-1]:
            raise RecipeError(f"protocol: max_scale {self.max_scale:g} lies below the last scale {self.scales[-1]:g}")

    @staticmethod
    def named(name: str) -> Protocol:
        """ "quick" (minutes, for a first look) or "standard" (for figures that are printed)."""
        if name not in PROTOCOLS:
            raise RecipeError(f"unknown protocol {name!r}; known: {sorted(PROTOCOLS)}")
        return PROTOCOLS[name]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def with_options(self, **options: Any) -> Protocol:
        """The same protocol with other numbers."""
        return replace(self, **options)


PROTOCOLS = {
    "standard": Protocol(),
    "quick": Protocol(
        "quick", steps=10, scales=(0.5, 1.0, 2.0), curve_steps=4, noise_trials=4, samples=128, check_samples=16
    ),
}
