"""Settings, schedules, checkpoints, logs and batches of the training loop, each by itself."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn, optim

from crossguard.core.errors import InputError, ModelError, RunError
from crossguard.core.files import locked
from crossguard.training import TrainConfig
from crossguard.training.batches import batches_per_epoch, epoch_batches
from crossguard.training.checkpoint import differences, load_checkpoint, load_share, save_checkpoint, save_share
from crossguard.training.distributed import Ranks, ranks
from crossguard.training.folder import Log
from crossguard.training.optimizer import build_optimizer
from crossguard.training.schedule import learning_rate
from crossguard.training.tree import join, split
from crossguard.training.validation import Accuracy, drawn
from tests.training.toys import dataset


@pytest.mark.parametrize(
    "options",
    [
        {"epoch": 3},
        {"epochs": 0},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"optimizer": "lion"},
        {"warmup": 1.0},
        {"amp": "fp16"},
        {"gradient_clip": 0},
        {"patience": 0},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        TrainConfig(**options)


def test_yaml_reads_off_as_false() -> None:
    assert TrainConfig(amp=False).amp == "off"  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [5, 40, 97])
def test_one_cycle_is_torchs(steps: int) -> None:
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps)
    config = TrainConfig(schedule="one_cycle", learning_rate=0.2)
    for step in range(steps):
        assert learning_rate(config, step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if step < steps - 1:
            oracle.step()


def test_cosine_is_torchs_after_its_warmup() -> None:
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    oracle = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90)
    config = TrainConfig(schedule="cosine", learning_rate=0.2, warmup=0.1)
    assert [learning_rate(config, s, 100) for s in range(10)] == pytest.approx([0.02 * (s + 1) for s in range(10)])
    for step in range(10, 100):
        assert learning_rate(config, step, 100) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        oracle.step()


@settings(deadline=None)
@given(
    st.integers(1, 300),
    st.floats(0, 0.99),
    st.sampled_from(["constant", "cosine", "one_cycle"]),
)
def test_rates_stay_between_zero_and_the_peak(steps: int, warmup: float, schedule: Any) -> None:
    config = TrainConfig(schedule=schedule, warmup=warmup, learning_rate=0.1)
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    assert all(0 < rate <= 0.1 + 1e-12 for rate in rates)


@pytest.mark.parametrize(("name", "kind"), [("adam", optim.Adam), ("adamw", optim.AdamW), ("sgd", optim.SGD)])
def test_optimizers(name: Any, kind: type) -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = build_optimizer(model, TrainConfig(optimizer=name, weight_decay=0.1, learning_rate=0.3))
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    assert optimizer.param_groups[0]["params"] == [model.weight]
    with pytest.raises(ModelError, match="nothing to train"):
        build_optimizer(model.requires_grad_(False), TrainConfig())


leaves = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=5)
trees = st.recursive(
    leaves | st.integers(0, 3).map(torch.arange),
    lambda t: (
        st.lists(t, max_size=3)
        | st.lists(t, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(0, 9), t, max_size=3)
    ),
    max_leaves=12,
)


def alike(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@settings(deadline=None)
@given(trees)
def test_any_state_survives_a_checkpoint(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, 3, {"seed": 1}, {"tree": tree})
    found = load_checkpoint(folder, {"seed": 1})
    assert found is not None
    assert alike(found["tree"], tree)


def test_a_state_that_only_pickle_could_hold_is_refused_by_its_place() -> None:
    with pytest.raises(RunError, match=r"objective\.rng is Random"):
        split({"rng": random.Random(0)}, "objective", {})


def test_tied_weights_and_an_optimizer_survive(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    optimizer = optim.Adam(model.parameters(), lr=0.1, betas=(0.8, 0.9))
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path, 1, {}, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    found = load_checkpoint(tmp_path, {})
    assert found is not None
    assert alike(dict(found["model"]), dict(model.state_dict()))
    assert alike(found["optimizer"], optimizer.state_dict())


def test_names_that_collide_survive() -> None:
    tensors: dict[str, torch.Tensor] = {}
    tree = {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}}
    assert alike(join(split(tree, "x", tensors), tensors), tree)


def test_infinite_numbers_survive() -> None:
    tensors: dict[str, torch.Tensor] = {}
    assert join(split([float("inf"), -float("inf")], "x", tensors), tensors) == [float("inf"), -float("inf")]


def test_only_the_latest_checkpoint_is_kept(tmp_path: Path) -> None:
    (tmp_path / ".state-000000001.safetensors.xyz").write_bytes(b"half")
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {}, {"x": torch.tensor(step)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest.json", "state-000000002.safetensors"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
@pytest.mark.parametrize("after", [0, 1], ids=["tensors", "pointer"])
@pytest.mark.parametrize("step", [1, 2], ids=["same step", "later step"])
def test_full_disk_keeps_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, after: int, step: int
) -> None:
    save_checkpoint(tmp_path, 1, {}, {"x": torch.tensor([1.0])})
    real, calls = getattr(os, fails), []

    def full(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(RunError, match="No space left"):
        save_checkpoint(tmp_path, step, {}, {"x": torch.tensor([1.0])})
    monkeypatch.undo()
    found = load_checkpoint(tmp_path, {})
    assert found is not None
    assert found["x"] == 1.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest.json", "state-000000001.safetensors"]


def test_a_really_full_disk(tmp_path: Path) -> None:
    """A process that may write 4,000 bytes a file, as on a disk with no more room."""
    script = f"""
import resource, torch
from pathlib import Path
from crossguard.core.errors import RunError
from crossguard.training.checkpoint import load_checkpoint, save_checkpoint
folder = Path({str(tmp_path)!r})
save_checkpoint(folder, 1, {{}}, {{"x": torch.ones(10)}})
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
try:
    save_checkpoint(folder, 2, {{}}, {{"x": torch.ones(10_000)}})
except RunError as error:
    assert "could not write" in str(error), error
    assert load_checkpoint(folder, {{}})["x"].numel() == 10
    assert len(list(folder.iterdir())) == 2
    print("kept")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "kept\n", done.stderr


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"format": 99}'])
def test_a_damaged_pointer_is_said(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "latest.json").write_bytes(damage)
    with pytest.raises(RunError, match=r"latest\.json"):
        load_checkpoint(tmp_path, {})


def test_damaged_tensors_are_said(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {}, {"x": torch.ones(100)})
    path = tmp_path / "state-000000001.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(RunError, match="could not read"):
        load_checkpoint(tmp_path, {})


def test_differences_name_their_place() -> None:
    old = {"config": {"epochs": 3, "amp": "off"}, "classes": (1, 2)}
    assert differences(old, {"config": {"epochs": 3, "amp": "off"}, "classes": [1, 2]}) == []
    assert differences(old, {"config": {"epochs": 5, "lr": 1}, "classes": [1]}) == [
        "classes was (1, 2), is [1]",
        "config.amp was off, is nothing",
        "config.epochs was 3, is 5",
        "config.lr was nothing, is 1",
    ]


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = Log(path)
    log.write({"step": 1})
    position = log.position
    log.write({"step": 2})
    log.close()
    again = Log(path, position)
    again.write({"step": 2, "again": True})
    again.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2, "again": true}\n'
    path.write_text("")
    Log(path, position).close()
    assert path.read_bytes() == b""


def test_two_processes_cannot_train_into_one_folder(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from crossguard.core.errors import RunError
from crossguard.core.files import locked
try:
    with locked(Path({str(tmp_path)!r})):
        print("entered")
except RunError as error:
    print(error)
"""
    with locked(tmp_path):
        second = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert "another process is at work in" in second.stdout
    with locked(tmp_path):
        pass  # free again


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write into"), locked(tmp_path / "file" / "run"):
        pass


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(1, 20), st.integers(0, 3), st.integers(1, 2))
def test_an_epoch_reads_each_sample_once(samples: int, batch_size: int, epoch: int, world: int) -> None:
    data = dataset("toy", samples, 0)
    count = -(-samples // batch_size)
    if samples // count < world:
        with pytest.raises(InputError, match="shared out"):
            batches_per_epoch(samples, batch_size, world)
        return
    options: dict[str, Any] = {"batch_size": batch_size, "seed": 5}
    whole = [b.ids for b, _ in epoch_batches(data, epoch, **options)]
    sizes = [len(ids) for ids in whole]
    assert sorted(i for ids in whole for i in ids) == sorted(data.ids)
    assert len(whole) == batches_per_epoch(samples, batch_size, world)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    first = len(whole) // 2
    assert [b.ids for b, _ in epoch_batches(data, epoch, first=first, **options)] == whole[first:]
    shares = [list(epoch_batches(data, epoch, rank=r, world=world, **options)) for r in range(world)]
    for ids, *parts in zip(whole, *shares, strict=True):
        assert sorted(i for part, _ in parts for i in part.ids) == sorted(ids)
        assert all(n == len(ids) for _, n in parts)


def test_the_order_depends_on_seed_and_epoch() -> None:
    data = dataset("toy", 40, 0)

    def order(epoch: int, seed: int) -> list[str]:
        return [i for b, _ in epoch_batches(data, epoch, batch_size=8, seed=seed) for i in b.ids]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(e, s)) for e in range(3) for s in range(3)}) == 9


@pytest.mark.parametrize(
    ("new", "old", "better"),
    [
        ((0.5, 0.3), None, True),
        ((0.4, 0.31), (0.9, 0.3), True),
        ((0.9, 0.3), (0.9, 0.3), False),
        ((0.91, 0.3), (0.9, 0.3), True),
        ((0.9, 0.2), (0.5, 0.3), False),
        ((0.6, None), (0.5, None), True),
    ],
)
def test_joint_accuracy_chooses_and_clean_accuracy_breaks_ties(new: Any, old: Any, better: bool) -> None:
    assert Accuracy(*new, 10).beats(None if old is None else Accuracy(*old, 10)) is better


def test_validation_samples_are_drawn_once_and_not_in_stride() -> None:
    data = dataset("toy", 40, 0)
    assert drawn(data, None) == drawn(data, 40) == list(range(40))
    chosen = drawn(data, 10)
    assert chosen == drawn(data, 10) == sorted(set(chosen))
    assert len({b - a for a, b in pairwise(chosen)}) > 1


def test_what_is_each_ranks_own_lasts_as_long_as_its_checkpoint(tmp_path: Path) -> None:
    for step in (3, 6):
        save_share(tmp_path, step, 1, {"turn": step, "delta": torch.full((2,), float(step))})
        if step == 6:
            assert load_share(tmp_path, 3, 1)["turn"] == 3, "until the next one counts"
        save_checkpoint(tmp_path, step, {}, {"step": step})
    found = load_share(tmp_path, 6, 1)
    assert (found["turn"], found["delta"].tolist()) == (6, [6.0, 6.0])
    with pytest.raises(RunError):
        load_share(tmp_path, 3, 1)


def test_torchrun_variables_that_are_incomplete_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RunError, match="torchrun"), ranks(torch.device("cpu")):
        pass


def test_alone_there_is_nothing_to_average() -> None:
    assert Ranks().first
    assert Ranks().total(3, 4) == [3, 4]
