"""Samples that cannot be taken: named and counted by kind, and then an error or a stated skip."""

from __future__ import annotations

import warnings
from typing import Literal, TypeAlias

from crossguard.core.errors import DataError

Bad: TypeAlias = Literal["error", "skip"]
"""What is done about samples that cannot be taken."""

_SHOWN = 3


class SampleError(DataError):
    """What keeps one sample from being taken; `kind` is what it is counted under."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind


class Faults:
    """What is wrong with single samples, by kind ("not finite", "no label", …)."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}

    def add(self, kind: str, what: str) -> None:
        """Note one sample: where it lies, what was found and what was expected."""
        self.found.setdefault(kind, []).append(what)

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return {kind: len(named) for kind, named in self.found.items()}

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __str__(self) -> str:
        lines: list[str] = []
        for kind, named in self.found.items():
            lines.append(f"{kind}: {len(named)}")
            lines += [f"  {what}" for what in named[:_SHOWN]]
            lines += [f"  … and {len(named) - _SHOWN} more"] if len(named) > _SHOWN else []
        return "\n".join(lines)

    def settle(self, where: str, bad: Bad) -> None:
        """Raise DataError that names and counts them, or warn of what is left out; nothing where there are none."""
        if not self.found:
            return
        if bad == "error":
            raise DataError(
                f"{where}: {len(self)} samples cannot be taken; mend them, or leave them out by bad: skip\n{self}"
            )
        warnings.warn(f"{where}: {len(self)} samples are left out\n{self}", stacklevel=3)
