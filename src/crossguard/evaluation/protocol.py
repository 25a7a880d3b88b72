"""How hard an evaluation looks: everything that decides its figures besides model, data, threat and seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from crossguard.attacks.attention import attention_drift
from crossguard.attacks.objective import OBJECTIVES
from crossguard.attacks.stages import EFFORTS, Stage, climb
from crossguard.core import RecipeError
from crossguard.diagnostics.reliance import Fill

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Protocol:
    """How hard, how far and on how many samples; raises RecipeError for those that cannot be meant.

    At scale 1 each condition is attacked by the stages of `cg.worst_case` with the effort `name`, survivors only; where
    they are given, `steps` (of the stages that follow gradients), `objectives` (each climbed once, in this order, in
    place of the stages) and `restarts` stand instead of its own. Each other scale adds `curve_steps` on the margin;
    `scales` are doubled on until the joint attack leaves at most 1 % right, or up to `max_scale`. `samples` caps the
    set (None: all), `clips` are kept for the viewer, `check_samples` are attacked again by the machine checks. Where
    `attention_weight` > 0, attacks that also drag attention away, with this weight, have their turn last: for models
    that give attention maps.
    """

    name: Literal["quick", "standard", "thorough"] = "standard"
    steps: Count | None = None
    objectives: tuple[str, ...] | None = None
    restarts: Count = 1
    scales: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    max_scale: Annotated[float, Field(ge=1)] = 1024.0
    curve_steps: Count = 10
    noise_trials: Count = 10
    samples: Annotated[int, Field(ge=1)] | None = None
    clips: Annotated[int, Field(ge=0)] = 8
    check_samples: Annotated[int, Field(ge=0)] = 128
    missing_fill: Fill = "mean"
    attention_weight: Annotated[float, Field(ge=0)] = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "curve_steps", "noise_trials"):
            found = getattr(self, name)
            if found is not None and found < 1:
                raise RecipeError(f"protocol: {name} is {found}, expected a whole number >= 1")
        if self.samples is not None and self.samples < 1:
            raise RecipeError(f"protocol: samples is {self.samples}, expected >= 1, or None for all")
        if min(self.clips, self.check_samples) < 0:
            raise RecipeError("protocol: clips and check_samples cannot be negative")
        if not 0 <= self.attention_weight < float("inf"):
            raise RecipeError(f"protocol: attention_weight is {self.attention_weight}, expected a finite number >= 0")
        objectives = ("margin",) if self.objectives is None else self.objectives
        if not objectives or any(o not in OBJECTIVES for o in objectives):
            raise RecipeError(f"protocol: objectives are {self.objectives}, expected some of {sorted(OBJECTIVES)}")
        rising = all(a < b for a, b in zip(self.scales, self.scales[1:], strict=False))
        if 1.0 not in self.scales or not rising or self.scales[0] <= 0:
            raise RecipeError(f"protocol: scales are {self.scales}, expected rising positive numbers with 1 among them")
        if self.max_scale < self.scales[-1]:
            raise RecipeError(f"protocol: max_scale {self.max_scale:g} lies below the last scale {self.scales[-1]:g}")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The attacks at scale 1, cheap ones first."""
        stages = EFFORTS[self.name]
        if self.objectives is not None:
            stages = tuple(climb(o, _longest(stages)) for o in self.objectives)
        if self.attention_weight:
            steps = self.steps or _longest(stages)
            options = {"weight": self.attention_weight, "step_size": 2.5 / steps}
            stages = (*stages, Stage("attention drift", attention_drift, steps, options))
        return tuple(s.changed(self.steps, self.restarts) for s in stages)

    @property
    def longest(self) -> int:
        """The steps of the longest stage that follows gradients."""
        return _longest(self.stages)

    @property
    def curve(self) -> Stage:
        """What each other scale adds."""
        return climb("margin", self.curve_steps)

    @staticmethod
    def named(name: str) -> Protocol:
        """ "quick" (for a first look), "standard" (day by day) or "thorough" (for figures that are printed)."""
        if name not in PROTOCOLS:
            raise RecipeError(f"unknown protocol {name!r}; known: {sorted(PROTOCOLS)}")
        return PROTOCOLS[name]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def with_options(self, **options: Any) -> Protocol:
        """The same protocol with other numbers."""
        return replace(self, **options)


def _longest(stages: Iterable[Stage]) -> int:
    return max(stage.steps for stage in stages if stage.follows)


PROTOCOLS = {
    "quick": Protocol("quick", scales=(0.5, 1.0, 2.0), curve_steps=4, noise_trials=4, samples=128, check_samples=16),
    "standard": Protocol(),
    "thorough": Protocol("thorough"),
}
