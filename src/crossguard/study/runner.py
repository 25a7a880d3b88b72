"""The runs of a study, some at once, each in a process of its own: what fails or is killed stops nothing else."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from crossguard.core.errors import CrossguardError
from crossguard.core.files import locked, write_atomic
from crossguard.core.memory import keep_freed_memory
from crossguard.recipe import evaluate_run, load_splits, train_run, validate
from crossguard.study.plan import Run, Study

# (run, what it is at, done, total); the last words of a run are "finished" or "failed".
Report = Callable[[Run, str, float, float], None]
ERROR = "error.txt"


@dataclass(frozen=True)
class Failure:
    """A run that ended without a Record, and why."""

    run: Run
    reason: str


def run_study(
    study: Study,
    *,
    jobs: int | None = None,
    only: Collection[str] = (),
    device: str | None = None,
    report: Report | None = None,
) -> list[Failure]:
    """Train and evaluate what is not finished yet, `jobs` at once (None: one a core), and name what failed.

    `only` limits it to recipes of these names. A stopped run goes on where it was; one that failed leaves `error.txt`
    in its folder. Each process computes on one thread: small models gain little from threads, much from processes.
    Raises RunError where another process is at work in the study's folder, DataError and RecipeError, before any run
    starts, for data that cannot be read or do not fit. Processes import their caller: a script that calls this needs
    `if __name__ == "__main__"`.
    """
    with locked(study.out):
        waiting = deque(r for r in study.runs if not r.finished and (not only or r.recipe.name in only))
        _try_data(waiting)
        return _Pool(waiting, jobs or os.cpu_count() or 1, device, report or (lambda *_: None)).go()


def _try_data(waiting: Collection[Run]) -> None:
    """Read each kind of data once, of one fold: what is wrong is said before any work, what is cached is there."""
    fold = next((run.fold for run in waiting), None)
    recipes = [run.recipe for run in waiting if run.fold == fold]
    kinds = {json.dumps([r.document["data"], r.document["threat"], *r.encoders]): r for r in recipes}
    for recipe in kinds.values():
        load_splits(recipe)


class _Pool:
    """A process a run: a pool of shared ones would be lost whole with the first that is killed for lack of memory."""

    def __init__(self, waiting: deque[Run], jobs: int, device: str | None, report: Report) -> None:
        self.waiting, self.jobs, self.device, self.report = waiting, jobs, device, report
        self.context = _context()
        self.active: dict[Connection, tuple[BaseProcess, Run]] = {}
        self.failures: list[Failure] = []

    def go(self) -> list[Failure]:
        try:
            while self.waiting or self.active:
                while self.waiting and len(self.active) < self.jobs:
                    self._start(self.waiting.popleft())
                for ready in wait(list(self.active)):
                    assert isinstance(ready, Connection)
                    self._hear(ready)
        finally:
            for process, _ in self.active.values():
                process.terminate()
            for process, _ in self.active.values():
                process.join()
        return self.failures

    def _start(self, run: Run) -> None:
        here, there = self.context.Pipe(duplex=False)
        process = self.context.Process(target=_work, args=(run.recipe.document, run.folder, self.device, there))
        process.start()
        there.close()
        self.active[here] = (process, run)

    def _hear(self, connection: Connection) -> None:
        process, run = self.active[connection]
        try:
            phase, done, total, reason = connection.recv()
        except (EOFError, OSError):  # it ended without a last word
            process.join()
            killed = f"its process ended with code {process.exitcode}"
            if process.exitcode is not None and process.exitcode < 0:
                killed = (
                    f"its process was killed by {signal.Signals(-process.exitcode).name}, most likely for lack of "
                    f"memory: give fewer --jobs"
                )
            phase, done, total, reason = "failed", 0.0, 1.0, killed
        if phase in ("finished", "failed"):
            if phase == "failed":
                self.failures.append(Failure(run, reason))
            process.join()
            connection.close()
            del self.active[connection]
        self.report(run, phase, done, total)


def _context() -> SpawnContext | ForkServerContext:
    """Processes forked from one that has imported all of this and done nothing else: a start costs no seconds."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])  # which the first optimiser imports, in seconds
    return context


def _work(document: dict[str, Any], folder: Path, device: str | None, connection: Connection) -> None:
    """One run, in its process: what `crossguard train` and `crossguard evaluate` do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    keep_freed_memory()
    tell = _Throttled(connection)
    try:
        recipe = validate(document)
        splits = load_splits(recipe)
        train_run(recipe, folder, splits=splits, device=device, progress=lambda at: tell("training", at.step, at.steps))
        evaluate_run(
            folder,
            splits=splits,
            device=device,
            progress=lambda stage, done, total: tell(f"attacks, {stage}", done, done + 1 if total is None else total),
        )
        (folder / ERROR).unlink(missing_ok=True)
        connection.send(("finished", 1.0, 1.0, ""))
    except Exception as error:
        text = traceback.format_exc()
        plain = isinstance(error, CrossguardError)
        where = "" if plain else f" (all of it in {folder / ERROR})"
        connection.send(("failed", 0.0, 1.0, f"{error if plain else f'{type(error).__name__}: {error}'}{where}"))
        write_atomic(folder / ERROR, lambda file: file.write(text.encode()))


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: else it would hold its run folder for hours."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


class _Throttled:
    """Sends progress a few times a second at most."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.last = connection, 0.0

    def __call__(self, phase: str, done: float, total: float) -> None:
        now = time.monotonic()
        if now - self.last > 0.3:
            self.last = now
            self.connection.send((phase, done, total, ""))
