"""Two processes, one model: the same as one process with the whole batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

from crossguard.core.files import read_json, read_safetensors
from crossguard.defences import Adversarial, Fast, Free
from crossguard.training import TrainConfig, train
from tests.training.toys import TASK, THREAT, TwoBranch, splits

pytestmark = pytest.mark.slow  # each test starts two processes

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
torch.set_num_threads(1)
from tests.training.test_distributed import go
out, kind = Path(sys.argv[1]), sys.argv[2]
rank = os.environ["RANK"]
result = go(out / "run", kind, seed=int(rank))
save_file(dict(result.model.state_dict()), str(out / f"rank{rank}.safetensors"))
(out / f"rank{rank}.json").write_text(json.dumps(result.to_dict()))
"""


class StoppedError(Exception):
    """Where a run is killed."""


class Stops:
    """Beside an objective: killed once, in its fourth step."""

    stops = True

    def step(self, model: nn.Module, batch: Any, context: Any) -> Any:
        if context.step == 3 and self.stops:
            raise StoppedError
        return super().step(model, batch, context)  # type: ignore[misc]

    def describe(self) -> dict[str, Any]:
        return {"name": "as if it never were"}


class GoesOn(Stops):
    stops = False


def go(out: Path | None, kind: str, seed: int = 0) -> Any:
    """Train; "exact" has neither dropout nor batch statistics, so that one process can be compared with two."""
    if kind.startswith(("free", "fast")):
        return keep_going(out, kind)
    model = TwoBranch(seed=seed)
    if kind == "exact":
        for module in model.modules():
            if isinstance(module, nn.Dropout | nn.BatchNorm1d):
                module.eval()
        model = model.double()
    data = splits(61)
    if kind == "exact":
        for part in (data.train, data.validation):
            part.inputs.update({n: x.double() for n, x in part.inputs.items()})  # type: ignore[attr-defined]
    config = TrainConfig(epochs=2, batch_size=15, learning_rate=0.01, validation_steps=3)
    return train(model, data, task=TASK, threat=THREAT, objective=Adversarial(steps=2), config=config, out=out)


def keep_going(out: Path | None, kind: str) -> Any:
    """Train by an objective that keeps something from step to step; "stopped" in between, then to the end."""
    base, options = (
        (Free, {"replays": 4}) if kind.startswith("free") else (Fast, {"probe_every": 2, "gap": 0.01, "relief": 1})
    )
    config = TrainConfig(epochs=2, batch_size=15, learning_rate=0.05, validation_steps=2, checkpoint_every=1)
    distributed.init_process_group("gloo")  # for both of its trainings: a second one might meet what is left of it
    for way in (Stops, GoesOn) if kind.endswith("stopped") else (GoesOn,):
        objective = type(base.__name__, (way, base), {})(**options)
        with suppress(StoppedError):
            return train(TwoBranch(), splits(61), task=TASK, threat=THREAT, objective=objective, config=config, out=out)
    raise AssertionError("it never ended")


def together(out: Path, kind: str) -> list[subprocess.CompletedProcess[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-c", SCRIPT, str(out), kind]
    started = [
        subprocess.Popen(command, env={**common, "RANK": rank, "LOCAL_RANK": rank}, stdout=-1, stderr=-1, text=True)
        for rank in ("0", "1")
    ]
    answers = [process.communicate(timeout=120) for process in started]
    return [
        subprocess.CompletedProcess(command, p.returncode, *answer) for p, answer in zip(started, answers, strict=True)
    ]


@pytest.mark.parametrize("kind", ["exact", "normalised"])
def test_two_ranks_end_with_the_same_weights(tmp_path: Path, kind: str) -> None:
    for done in together(tmp_path, kind):
        assert done.returncode == 0, done.stderr
    first, second = (read_safetensors(tmp_path / f"rank{r}.safetensors") for r in (0, 1))
    assert all(torch.equal(first[n], second[n]) for n in first)
    said = [json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1)]
    alone = go(None, kind)
    for one in (*said, read_json(tmp_path / "run" / "train.json")):
        assert one["accuracy"]["samples"] == 23
        assert one["price"]["forwards"] == alone.price.forwards == 2 * 61 * 3
    if kind == "exact":
        weights = alone.model.state_dict()
        assert all(torch.allclose(first[n], weights[n], rtol=1e-9, atol=1e-12) for n in first)
        assert said[0]["accuracy"] == said[1]["accuracy"]
        assert said[0]["accuracy"]["joint"] == alone.accuracy.joint
        assert said[0]["price"]["validation_forwards"] == alone.price.validation_forwards
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert len(lines) == 2


def test_all_ranks_stop_where_the_first_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    for done in together(tmp_path, "exact"):
        assert done.returncode != 0
        assert "RunError" in done.stderr


@pytest.mark.parametrize("kind", ["free", "fast"])
def test_what_an_objective_keeps_of_each_rank_survives_a_stop(tmp_path: Path, kind: str) -> None:
    found = []
    for name in (kind, f"{kind}-stopped"):
        (tmp_path / name).mkdir()
        for done in together(tmp_path / name, name):
            assert done.returncode == 0, done.stderr
        found.append(read_safetensors(tmp_path / name / "rank1.safetensors"))
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])
    if kind == "fast":  # both ranks probe alike: relief is for all or for none
        said = [json.loads((tmp_path / kind / f"rank{r}.json").read_text()) for r in (0, 1)]
        assert said[0]["price"]["forwards"] == said[1]["price"]["forwards"]
