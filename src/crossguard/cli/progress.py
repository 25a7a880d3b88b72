"""Progress bars on stderr: one line a piece of work, from the same callbacks that a library user has."""

from __future__ import annotations

from collections.abc import Callable

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from crossguard.cli.console import messages
from crossguard.training import Accuracy
from crossguard.training import Progress as TrainingProgress

Report = Callable[[str, float, float, str], None]


class Bars:
    """Named bars: `bars.show(name, done, total, note)`; where stderr is no terminal, one line as each is finished."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=messages,
            disable=not messages.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._notes: dict[str, str] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(self, name: str, done: float, total: float, note: str = "") -> None:
        """Move a bar; an empty note leaves the last one standing."""
        note = self._notes[name] = note or self._notes.get(name, "")
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note=note)
        self._progress.update(self._tasks[name], completed=done, total=total, note=note)
        if done >= total and not messages.is_terminal:
            messages.print(f"{name}: done {note}".rstrip(), soft_wrap=True)

    def remove(self, name: str) -> None:
        """Take a bar away, where there are too many to leave them standing."""
        task = self._tasks.pop(name, None)
        if task is not None:
            self._progress.remove_task(task)


def of_training(name: str, report: Report) -> Callable[[TrainingProgress], None]:
    """A callback for `training.train`."""

    def say(at: TrainingProgress) -> None:
        # One unit more than there are steps: the last validation.
        if at.accuracy is None:
            report(name, at.step, at.steps + 1, "")
        else:
            last = int(at.epoch == at.epochs)
            report(name, at.step + last, at.steps + 1, f"epoch {at.epoch}/{at.epochs}  {_accuracy(at.accuracy)}")

    return say


def _accuracy(accuracy: Accuracy) -> str:
    clean, attacked = accuracy.clean, accuracy.joint
    return f"validation {100 * clean:.0f} %" + ("" if attacked is None else f", attacked {100 * attacked:.0f} %")


def of_evaluation(name: str, report: Report) -> Callable[[str, int, int | None], None]:
    """A callback for `evaluation.evaluate`; a stage whose length is not known counts up."""

    def say(stage: str, done: int, total: int | None) -> None:
        report(f"{name}: {stage}", done, done + 1 if total is None else total, "")

    return say
