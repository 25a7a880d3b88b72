"""What was measured of a model so far, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from crossguard.core import ModelError

# What is found, with the sample-forwards and -backwards that it took.
Measure: TypeAlias = Callable[[], tuple[Any, int, int]]


@dataclass
class Price:
    """What a measure cost: sample-`forwards` (of a head alone they count as whole ones), -`backwards`, `seconds`."""

    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0


@dataclass
class Measured:
    """By measure the values of all samples so far, and the prices; `notes` say what could not be measured."""

    values: dict[str, list[Tensor]] = field(default_factory=dict)
    prices: dict[str, Price] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def priced(self, name: str, measure: Measure) -> Any:
        """The value of a measure, what it cost being added up."""
        started = time.perf_counter()
        value, forwards, backwards = measure()
        price = self.prices.setdefault(name, Price())
        price.seconds += time.perf_counter() - started
        price.forwards, price.backwards = price.forwards + forwards, price.backwards + backwards
        return value

    def tried(self, name: str, measure: Measure) -> Any:
        """The value of a measure; None, and a note, where the model cannot be asked."""
        if name in self.notes:
            return None
        try:
            return self.priced(name, measure)
        except ModelError as error:
            self.notes[name] = str(error)
            return None

    def add(self, name: str, measure: Measure) -> Tensor:
        """The values of further samples."""
        value: Tensor = self.priced(name, measure)
        self.values.setdefault(name, []).append(value.detach().double().cpu())
        return value
