"""Commands that are killed at random moments and given again until they end; and what must be the same then."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from crossguard.cli import main
from crossguard.core.files import read_npz

# What differs between two undisturbed runs of one command: times, and memory.
VOLATILE = {
    "created", "environment", "latency", "latency_ratio", "milliseconds", "peak_memory_mb", "samples_per_second",
    "seconds", "cpu_seconds", "validation_seconds", "validation_cpu_seconds",
}  # fmt: skip
RECIPE = """
name: {name}
data: {{name: figures, train: 96, validation: 24, test: 48, size: 16, frames: 8}}
model:
  encoders:
    rgb: {{name: video, width: 4}}
    skeleton: {{name: hcn, frames: 8, width: 8}}
  fusion: {fusion}
objective: {{name: {objective}}}
threat:
  rgb: {{norm: linf, eps: 4/255, bounds: [0, 1]}}
  skeleton: {{norm: linf, eps: 0.03}}
train: {{epochs: {epochs}, batch_size: 16, checkpoint_every: 2, validation_steps: 2, validation_samples: 24}}
evaluate:
  batch_size: 12
  protocol: {{name: quick, steps: 16, curve_steps: 3, noise_trials: 2, samples: 48, check_samples: 12, clips: 3,
             max_scale: 4}}
"""


# Processes are forked from one that has imported all that the commands need, and has done nothing: a start is no work.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["crossguard.cli.app", "crossguard.study.runner", "crossguard.report", "torch._dynamo"])


def _crossguard(arguments: list[str], place: Path) -> None:
    """The `crossguard` command, in this process."""
    os.chdir(place)
    os.environ |= {"CROSSGUARD_CACHE": str(place / "cache"), "NO_COLOR": "1", "COLUMNS": "200"}
    said = os.open(place / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    torch.set_num_threads(1)
    sys.argv = ["crossguard", *arguments]
    main()


@dataclass
class Command:
    """`crossguard ARGUMENTS`, OUT in them put in. It is at work when it holds a lock in that folder."""

    place: Path
    arguments: Sequence[object]

    def start(self, out: Path) -> ForkServerProcess:
        """A process of its own; what it says goes to `said.txt` in its place."""
        given = [str(a).replace("OUT", str(out)) for a in self.arguments]
        process = CONTEXT.Process(target=_crossguard, args=(given, self.place))
        process.start()
        return process

    def wait_begun(self, out: Path, process: ForkServerProcess, limit: float = 300) -> None:
        """Until it is at work or over."""
        started = time.monotonic()
        while not at_work(out) and process.is_alive():
            assert time.monotonic() - started < limit, self.said()
            time.sleep(0.01)

    def said(self) -> str:
        """The last of what it said."""
        return (self.place / "said.txt").read_text(errors="replace")[-3000:]

    def run(self, out: Path) -> float:
        """To its end; the seconds that its work took."""
        process = self.start(out)
        self.wait_begun(out, process)
        started = time.monotonic()
        assert ended(process) == 0, self.said()
        return time.monotonic() - started


def at_work(out: Path) -> bool:
    """Whether somebody holds a lock in a folder."""
    for path in out.glob("*.lock"):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def ended(process: ForkServerProcess, limit: float = 600) -> int:
    """The exit code of a process that ends by itself."""
    process.join(limit)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


@dataclass
class Story:
    """How a command fared: `kills` that hit it at work, and a look taken after each."""

    kills: int = 0
    looks: list[Any] = field(default_factory=list[Any])


def harass(command: Command, out: Path, seconds: float, kills: int, seed: int, look: Callable[[Path], Any]) -> Story:
    """Kill the command at `kills` moments drawn over the `seconds` that its work takes, then let it end.

    Each process goes on from where the one before was killed, or from further back where that one had left nothing
    new: it lives as long as its moment lies after what is kept. Where one ends before its moment (a machine that got
    faster), its folder is removed and the moments that are left are drawn anew.
    """
    draw = random.Random(seed)
    story = Story()
    for _ in range(5):
        moments = sorted(draw.uniform(0, 0.9 * seconds) for _ in range(kills - story.kills))
        kept, seen = 0.0, look(out)
        for moment in moments:
            process = command.start(out)
            command.wait_begun(out, process)
            process.join(moment - kept)
            process.kill()
            code = ended(process)
            assert code in (0, -signal.SIGKILL), command.said()
            if code == 0:
                break
            story.kills += 1
            story.looks.append(look(out))
            if story.looks[-1] != seen:
                kept, seen = moment, story.looks[-1]
        if story.kills == kills:
            break
        shutil.rmtree(out)
        story.looks.clear()
    command.run(out)
    return story


def same(value: Any) -> Any:
    """JSON without what differs between undisturbed runs."""
    if isinstance(value, dict):
        return {k: same(v) for k, v in value.items() if k not in VOLATILE}
    return [same(v) for v in value] if isinstance(value, list) else value


def read_same(path: Path) -> Any:
    return same(json.loads(path.read_text()))


def equal_arrays(one: Path, two: Path) -> bool:
    """Whether two npz hold the same arrays, to the bit."""
    a, b = read_npz(one), read_npz(two)
    return list(a) == list(b) and all(x.dtype == b[k].dtype and x.tobytes() == b[k].tobytes() for k, x in a.items())


def files(folder: Path) -> set[str]:
    """All files below, by relative path; a tensor file of a checkpoint by its kind, as its number follows the step."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def stamps(folder: Path, *patterns: str) -> dict[str, tuple[int, int]]:
    """File -> (inode, time written): another pair means that it was written again."""
    found = [p for pattern in patterns for p in folder.glob(pattern)]
    return {str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in found}


def kept_log(run: Path) -> tuple[int, bytes]:
    """The step of a run's latest checkpoint, and the lines of its log that it vouches for. Lines hold samples a second,
    to a tenth: what is computed again does not repeat them."""
    pointer = run / "checkpoint" / "latest.json"
    if not pointer.exists():
        return 0, b""
    state = json.loads(pointer.read_text())["state"]
    return int(state["progress"]["step"]), (run / "log.jsonl").read_bytes()[: int(state["log"])]
