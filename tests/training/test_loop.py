"""The loop: it learns, it counts, it stops in time, and a killed run ends where an undisturbed one does."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crossguard import (
    Batch,
    InputError,
    Inputs,
    Linf,
    Modality,
    ModelError,
    MultiLabel,
    Output,
    RunError,
    SingleLabel,
    ThreatError,
    ThreatModel,
)
from crossguard.core.batch import Feature
from crossguard.core.files import locked, read_json, read_safetensors
from crossguard.data.base import Dataset, Splits, TensorDataset
from crossguard.defences import Adversarial, Context, Losses, Objective, Standard, Work
from crossguard.training import Accuracy, Progress, TrainConfig, TrainResult, train, validate
from crossguard.training.distributed import Ranks
from crossguard.training.validation import drawn
from tests.training.toys import TASK, THREAT, TwoBranch, dataset, same_weights, splits

CONFIG = TrainConfig(epochs=3, batch_size=16, learning_rate=0.01, validation_steps=3, checkpoint_every=3, log_every=2)


class KilledError(Exception):
    pass


def replace_config(**options: Any) -> TrainConfig:
    return CONFIG.model_copy(update=options)


@dataclass(frozen=True)
class Dies(Objective):
    """An objective that dies at its n-th step of this process: what a kill looks like to the files."""

    inner: Objective
    after: int
    done: list[int] = field(default_factory=list)

    def step(self, model: nn.Module, batch: Batch, context: Context) -> Losses:
        self.done.append(context.step)
        if len(self.done) > self.after:
            raise KilledError
        return self.inner.step(model, batch, context)

    @property
    def robust(self) -> bool:  # type: ignore[override]
        return self.inner.robust

    def describe(self) -> dict[str, Any]:
        return self.inner.describe()


def run(
    model: nn.Module | None = None,
    objective: Objective | None = None,
    config: TrainConfig = CONFIG,
    data: Splits | None = None,
    threat: ThreatModel | None = THREAT,
    **options: Any,
) -> TrainResult:
    return train(
        model or TwoBranch(),
        data or splits(),
        task=TASK,
        threat=threat,
        objective=objective or Adversarial(steps=2),
        config=config,
        **options,
    )


def test_it_learns() -> None:
    result = run(objective=Standard(), config=replace_config(epochs=6), threat=None)
    assert result.history[0]["loss"] > 1.5 * result.history[-1]["loss"]
    assert result.accuracy.clean >= 0.95
    assert result.accuracy.joint is None
    assert not result.model.training


class OneMap(nn.Module):
    """Linear in both columns of one modality."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(2, 2)
        nn.init.zeros_(self.map.weight)

    def forward(self, inputs: Inputs) -> Tensor:
        return self.map(inputs["a"])


def test_adversarial_training_turns_to_the_robust_feature() -> None:
    """Column 0 tells the classes apart best but by less than eps; column 1 less well, by more than eps."""

    def part(name: str, seed: int) -> TensorDataset:
        generator = torch.Generator().manual_seed(seed)
        targets = torch.arange(200) % 2
        sign = (2 * targets - 1).float()
        fragile = 0.3 * sign + 0.05 * torch.randn(200, generator=generator)
        robust = 1.0 * sign + 0.7 * torch.randn(200, generator=generator)
        base = dataset(name, 200, seed, strength={"a": 1.0})
        return replace(base, inputs={"a": torch.stack([fragile, robust], dim=1)})

    data = Splits(part("train", 0), part("validation", 1), part("test", 2))
    threat = ThreatModel(a=Linf(0.5))
    config = TrainConfig(epochs=30, batch_size=50, learning_rate=0.2, validate_every=30)
    share, accuracy = {}, {}
    for name, objective in (("standard", Standard()), ("adversarial", Adversarial(steps=3))):
        model = run(OneMap(), objective, config, data, None if name == "standard" else threat).model
        weight = model.get_parameter("map.weight").detach()
        slope = (weight[1] - weight[0]).abs()
        share[name] = float(slope[0] / slope.sum())
        accuracy[name] = validate(
            model, data.test, task=TASK, threat=threat, config=config, seed=0, ranks=Ranks(), work=Work()
        )
    assert share["standard"] > 0.5 > 0.1 > share["adversarial"]
    assert accuracy["adversarial"].joint is not None
    assert accuracy["adversarial"].joint > (accuracy["standard"].joint or 0) + 0.3
    assert accuracy["standard"].clean > accuracy["adversarial"].clean


def test_validation_attacks_the_view_and_counts_what_fools_the_model() -> None:
    class Masking(TwoBranch):
        """Its gradient leads away from what fools it."""

        def encode(self, name: str, x: Tensor, mask: Tensor | None = None) -> Feature:
            return super().encode(name, 2 * x.detach() - x, mask)

        def attack_view(self) -> nn.Module:
            honest = TwoBranch()
            honest.load_state_dict(self.state_dict())
            return honest

    data, found = splits(weak=True), {}
    weights = run(objective=Standard(), config=replace_config(epochs=4)).model.state_dict()
    for kind in (TwoBranch, Masking):
        model = kind()
        model.load_state_dict(weights)
        found[kind] = validate(
            model,
            data.validation,
            task=TASK,
            threat=THREAT,
            config=replace_config(),
            seed=0,
            ranks=Ranks(),
            work=Work(),
        )
    assert found[Masking] == found[TwoBranch]
    assert found[TwoBranch].joint < found[TwoBranch].clean


def test_work_is_counted_exactly() -> None:
    config = replace_config(validate_every=2, epochs=3)
    result = run(objective=Adversarial(steps=4, attacked="joint"), config=config)
    seen = 60 * 3
    assert (result.price.forwards, result.price.backwards) == (seen * 5, seen * 5)
    assert [("clean" in line, line["epoch"]) for line in result.history] == [(False, 1), (True, 2), (True, 3)]
    assert result.price.parameters == sum(p.numel() for p in TwoBranch().parameters())
    assert result.price.peak_memory_mb > 0
    assert result.price.seconds > 0 < result.price.validation_seconds
    assert 2 * 23 <= result.price.validation_forwards <= 2 * 23 * (config.validation_steps + 4)
    assert result.steps == 3 * 4


def test_standard_training_is_counted_likewise() -> None:
    price = run(objective=Standard(), threat=None).price
    assert (price.forwards, price.backwards, price.validation_forwards, price.validation_backwards) == (180, 180, 69, 0)


def test_standard_training_is_judged_by_clean_accuracy() -> None:
    """Of a model that never saw an attack, the epoch that an attack spares most is an accident, often an early one."""
    result = run(objective=Standard())
    assert result.price.validation_backwards == 0
    assert all(line["joint"] is None for line in result.history)
    clean = [line["clean"] for line in result.history]
    assert result.accuracy.clean == max(clean)
    assert result.best_epoch == clean.index(max(clean)) + 1


class Says(nn.Module):
    """Says a row of logits a sample, whatever it is shown; only the last class can be lifted, by the first column."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, inputs: Inputs) -> Tensor:
        return self.rows[(inputs["a"][:, 1] / 4).round().long()] + inputs["a"][:, :1] * torch.tensor([0.0, 0.0, 1.0])


def test_several_labels_choose_by_gap_under_an_attack_on_the_ranking() -> None:
    """The best class is right everywhere, so Hit@1 cannot tell these models apart; the list over samples can."""
    inputs, truth = torch.tensor([[0.0, 0], [0, 4], [0, 8]]), torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    data = TensorDataset("toy", {"a": Modality("a", "ND", "unit")}, ("x", "y", "z"), {"a": inputs}, truth)
    whole = torch.tensor([[7, 1, 2], [1, 6, 2], [5, 4, 2]]) / 8
    broken = torch.tensor([[7, 1, 6.5], [1, 6, 2], [5, 4, 2]]) / 8
    found: dict[str, Accuracy] = {}
    for name, rows in (("whole", whole), ("broken", broken)):
        for eps in (0.0, 3 / 8):
            work, threat = Work(), ThreatModel(a=Linf(eps)) if eps else None
            found[f"{name} {eps}"] = validate(
                Says(rows), data, task=MultiLabel(3), threat=threat, config=replace_config(batch_size=2), seed=0,
                ranks=Ranks(), work=work,
            )  # fmt: skip
            assert (work.backwards > 0) == (eps > 0)
    assert {x.metric for x in found.values()} == {"gap"}
    assert found["whole 0.0"].clean == found["whole 0.375"].clean == pytest.approx(1)
    # Right, wrong, right, right, right.
    assert found["broken 0.0"].clean == pytest.approx((1 + 2 / 3 + 3 / 4 + 4 / 5) / 4)
    assert found["whole 0.0"].beats(found["broken 0.0"])
    # The last class is lifted to 5/8 in all samples, a tie with the third true label; the fourth comes after.
    assert found["whole 0.375"].joint == pytest.approx((1 + 1 + 3 / 6 + 4 / 7) / 4)
    assert found["whole 0.375"].samples == 3


def test_the_best_epoch_is_what_comes_back(tmp_path: Path) -> None:
    """A rate that ruins the model after a good first epoch: the first one's weights must come back."""

    @dataclass(frozen=True)
    class Ruin(Objective):
        def step(self, model: nn.Module, batch: Batch, context: Context) -> Losses:
            losses = Standard().step(model, batch, context)
            return losses if context.epoch < 4 else replace(losses, total=-losses.total)

    for out in (None, tmp_path):
        result = run(
            objective=Ruin(), config=replace_config(epochs=8, learning_rate=0.02, schedule="constant"), out=out
        )
        joint = [line["joint"] for line in result.history]
        assert joint[-1] < max(joint) == result.accuracy.joint
        assert result.best_epoch == joint.index(max(joint)) + 1 <= 5
    assert same_weights(read_safetensors(tmp_path / "model.safetensors"), result.model.state_dict())


def test_the_same_seed_gives_the_same_bits_and_leaves_the_callers_generators() -> None:
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state()
    first = run(seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    second, other = run(seed=3), run(seed=4)
    assert same_weights(first.model.state_dict(), second.model.state_dict())
    assert not same_weights(first.model.state_dict(), other.model.state_dict())


@dataclass(frozen=True)
class Sees(Objective):
    """Notes the ids that it is given."""

    ids: list[tuple[str, ...]] = field(default_factory=list)

    def step(self, model: nn.Module, batch: Batch, context: Context) -> Losses:
        self.ids.append(batch.ids)
        return Standard().step(model, batch, context)


def test_the_order_of_samples_follows_the_seed() -> None:
    orders = []
    for seed in (3, 3, 4):
        seen = Sees()
        run(objective=seen, seed=seed, threat=None)
        orders.append(seen.ids)
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("objective", [Standard(), Adversarial(steps=2, attacked="random")], ids=["standard", "random"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, objective: Objective, optimizer: Any) -> None:
    """KilledError over and over, within epochs and right after them."""
    config = replace_config(optimizer=optimizer)
    whole = run(objective=objective, config=config, out=tmp_path / "whole")
    seeds = random.Random(7)
    for _ in range(40):
        model = TwoBranch(seed=seeds.randrange(99))  # what it starts from must not matter
        if not (tmp_path / "killed/checkpoint/latest.json").exists():
            model = TwoBranch()
        try:
            resumed = run(model, Dies(objective, seeds.randrange(3, 7)), config, out=tmp_path / "killed")
            break
        except KilledError:
            continue
    else:
        pytest.fail("never came to its end")
    assert same_weights(whole.model.state_dict(), resumed.model.state_dict())
    last = [read_safetensors(next((tmp_path / n / "checkpoint").glob("*.safetensors"))) for n in ("whole", "killed")]
    assert same_weights(*last)
    assert resumed.price.forwards == whole.price.forwards
    assert resumed.price.validation_forwards == whole.price.validation_forwards
    assert timeless(tmp_path / "whole/log.jsonl") == timeless(tmp_path / "killed/log.jsonl")
    assert resumed.best_epoch == whole.best_epoch
    assert read_json(tmp_path / "killed/train.json")["best_epoch"] == whole.best_epoch


def timeless(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "samples_per_second"} for line in lines]


def test_a_process_killed_at_any_moment_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """The real thing: SIGKILL, wherever it hits."""
    script = f"""
import torch
torch.set_num_threads(1)
from pathlib import Path
from crossguard.training import train
from tests.training.test_loop import *
def said(progress):
    print(progress.step, flush=True)
run(config=replace_config(epochs=12, checkpoint_every=2), out=Path({str(tmp_path / "killed")!r}), progress=said)
"""
    seeds = random.Random(time.time_ns())
    kills = 0
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        steps = seeds.randrange(5, 20)
        for _ in range(steps):
            if not process.stdout.readline():
                break
        time.sleep(seeds.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
        if kills:
            break
    assert kills
    resumed = run(config=replace_config(epochs=12, checkpoint_every=2), out=tmp_path / "killed")
    whole = run(config=replace_config(epochs=12, checkpoint_every=2))
    assert same_weights(whole.model.state_dict(), resumed.model.state_dict())
    assert resumed.price.forwards == whole.price.forwards
    assert not list((tmp_path / "killed/checkpoint").glob(".*"))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = run(out=tmp_path)
    again = run(TwoBranch(seed=9), Dies(Adversarial(steps=2), 0), out=tmp_path)
    assert same_weights(first.model.state_dict(), again.model.state_dict())
    assert again.history == first.history
    anew = run(out=tmp_path, resume=False)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 12 // 2 + 3
    assert same_weights(first.model.state_dict(), anew.model.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": replace_config(learning_rate=0.5)}, r"config\.learning_rate was 0\.01, is 0\.5"),
        ({"objective": Adversarial(steps=3)}, r"objective\.steps was 2, is 3"),
        ({"objective": Standard()}, r"objective\.name was Adversarial, is Standard"),
        ({"threat": ThreatModel(a=Linf(0.5), b=Linf(0.4))}, r"threat\.budgets\.b\.eps was 0\.5, is 0\.4"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"data": splits(seed=1, samples=50)}, r"data\.train\.key"),
        ({"recipe": {"model": "mmtm"}}, r"recipe\.model was amr, is mmtm"),
        (
            {"model": TwoBranch(["a"]), "objective": Adversarial(steps=2)},
            r"model\.head\.weight was \[2, 16\], is \[2, 8\]",
        ),
    ],
)
def test_another_run_in_the_folder_is_refused_and_the_difference_said(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    config = replace_config(epochs=1)
    run(config=config, out=tmp_path, recipe={"model": "amr"})
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match=message):
        run(**{"config": config, "out": tmp_path, "recipe": {"model": "amr"}, **change})
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_other_intervals_of_log_and_checkpoint_are_the_same_run(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run(objective=Dies(Adversarial(steps=2), 5), out=tmp_path)
    resumed = run(config=replace_config(checkpoint_every=None, log_every=7), out=tmp_path)
    assert same_weights(resumed.model.state_dict(), run().model.state_dict())


@dataclass(frozen=True)
class Breaks(Objective):
    """A loss that is not finite, or whose gradient is not, from one step on."""

    at: int
    gradient: bool

    def step(self, model: nn.Module, batch: Batch, context: Context) -> Losses:
        losses = Standard().step(model, batch, context)
        if context.step < self.at:
            return losses
        broken = losses.total - losses.total.detach()
        return replace(losses, total=broken.abs().sqrt() if self.gradient else losses.total * float("nan"))


@pytest.mark.parametrize("gradient", [False, True])
def test_a_loss_that_is_not_finite_stops_before_the_weights(tmp_path: Path, gradient: bool) -> None:
    with pytest.raises(RunError, match=r"epoch 2, step 8: the loss is .*expected finite .* The last checkpoint"):
        run(objective=Breaks(7, gradient), out=tmp_path, threat=None)
    state = read_safetensors(next((tmp_path / "checkpoint").glob("*.safetensors")))
    assert all(bool(t.isfinite().all()) for t in state.values())


def test_a_sample_that_is_not_finite_is_named() -> None:
    data = splits()

    class Bad:
        def __getattr__(self, name: str) -> Any:
            return getattr(data.train, name)

        def __len__(self) -> int:
            return len(data.train)

        def read(self, index: Any) -> Batch:
            batch = data.train.read(index)
            for row, i in enumerate(batch.ids):
                batch.inputs["a"][row] *= float("nan") if i == "train7" else 1
            return batch

    bad: Dataset = Bad()  # type: ignore[assignment]
    broken = replace(data, train=bad)
    with pytest.raises(RunError, match=r"step \d: the loss is nan.*'a': NaN or Inf in 1 of \d+ samples \(train7\)"):
        run(objective=Standard(), data=broken, threat=None)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(RunError, match="another process"):
        run(out=tmp_path)


def test_a_full_disk_while_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        run(out=tmp_path)
    monkeypatch.undo()
    assert same_weights(run(out=tmp_path).model.state_dict(), run().model.state_dict())


class Answers(nn.Module):
    """A model whose answer is made by a function."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.map, self.answer = nn.Linear(3, 2), answer

    def forward(self, inputs: Inputs) -> Tensor:
        return self.answer(self.map(inputs["a"] + inputs["b"]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": Answers(lambda x: x.softmax(1)), "objective": Standard()}, ModelError, "probabilities"),
        ({"model": Answers(lambda x: x.detach()), "objective": Standard()}, ModelError, "differentiably"),
        ({"model": Answers(lambda x: x[:, :1]), "objective": Standard()}, ModelError, "expected"),
        ({"model": Answers(lambda x: x).requires_grad_(False)}, ModelError, "nothing to train"),
        ({"threat": None}, ThreatError, "needs a threat model"),
        ({"threat": ThreatModel(c=Linf(0.1)), "model": Answers(lambda x: x)}, ThreatError, "'c'"),
        ({"task": SingleLabel(3)}, InputError, "2 classes, the task 3"),
    ],
)
def test_what_does_not_fit_is_said_before_training(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    known: dict[str, Any] = {
        "model": TwoBranch(),
        "task": TASK,
        "threat": THREAT,
        "objective": Adversarial(),
        **options,
    }
    with pytest.raises(error, match=message):
        train(known.pop("model"), splits(), config=CONFIG, **known)


def test_a_head_that_starts_at_zero_is_no_fault() -> None:
    model = Answers(lambda x: x)
    nn.init.zeros_(model.map.weight)
    nn.init.zeros_(model.map.bias)
    run(model, Standard(), replace_config(epochs=1), threat=None)


def test_a_unimodal_model_is_attacked_on_what_it_reads() -> None:
    result = run(TwoBranch(["a"]), Adversarial(steps=2), replace_config(epochs=1))
    assert result.accuracy.joint is not None


class Outlined(TwoBranch):
    """Of b it sees that it is there, and no value."""

    def encode(self, name: str, x: Tensor, mask: Tensor | None = None) -> Feature:
        return super().encode(name, x if name == "a" else torch.ones_like(x), mask)


def test_what_a_model_sees_of_a_mask_alone_is_not_attacked() -> None:
    objective = Adversarial(steps=2, attacked="joint")
    with pytest.raises(ModelError, match="no gradient for 'b'"):
        run(Outlined(), objective, replace_config(epochs=1))
    model = Outlined()
    model.movable = ("a",)
    result = run(model, objective, replace_config(epochs=1))
    assert result.accuracy.joint is not None


def test_frozen_parts_stay_frozen() -> None:
    model = TwoBranch()
    frozen = model.branches["a"].requires_grad_(False).eval()
    before = {n: t.clone() for n, t in frozen.state_dict().items()}
    run(model, config=replace_config(epochs=1))
    assert same_weights(before, frozen.state_dict())


def test_gradients_are_clipped() -> None:
    small = run(config=replace_config(optimizer="sgd", momentum=0.0, gradient_clip=1e-4, epochs=1)).model.state_dict()
    start = TwoBranch().state_dict()
    moved = torch.stack([(small[n] - start[n]).norm() for n, _ in TwoBranch().named_parameters()]).norm()
    assert 0 < moved <= 4 * 0.01 * 1e-4 * 1.01


def test_patience_stops_early() -> None:
    config = replace_config(epochs=20, patience=2, learning_rate=1e-9)
    result = run(config=config)
    assert result.epochs == result.best_epoch + 2 < 20


def test_patience_is_not_tried_before_the_attacks_begin() -> None:
    config = replace_config(epochs=6, patience=1, learning_rate=1e-9)
    result = run(objective=Adversarial(steps=1, clean_start=0.5), config=config)
    assert result.epochs == max(3, result.best_epoch) + 1 < 6


def test_bf16_learns_too() -> None:
    result = run(config=replace_config(amp="bf16", epochs=6, learning_rate=0.02))
    assert result.accuracy.clean > 0.9


def test_progress_and_log_say_what_happens(tmp_path: Path) -> None:
    said: list[Progress] = []
    result = run(out=tmp_path, progress=said.append)
    assert [p.step for p in said if p.accuracy is None] == list(range(1, 13))
    assert [p.epoch for p in said if p.accuracy is not None] == [1, 2, 3]
    assert {p.steps for p in said} == {12}
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "step" in line] == [2, 4, 6, 8, 10, 12]
    assert [line for line in lines if "step" not in line] == result.history
    assert {"loss", "fused", "auxiliary/a", "auxiliary/b", "gradient", "rate", "samples_per_second"} <= set(lines[0])
    assert lines[0]["loss"] == pytest.approx(lines[0]["fused"] + lines[0]["auxiliary/a"] + lines[0]["auxiliary/b"])


@dataclass
class Remembers(Objective):
    """Counts its calls and keeps the count in the checkpoint; the weights depend on it."""

    count: Tensor = field(default_factory=lambda: torch.zeros(()))
    starts: list[int] = field(default_factory=list)
    dies: int | None = None

    def epoch_start(self, model: nn.Module, dataset: Dataset, context: Context) -> None:
        assert len(dataset) == 60
        self.starts.append(context.epoch)

    def step(self, model: nn.Module, batch: Batch, context: Context) -> Losses:
        if context.step == self.dies:
            raise KilledError
        self.count += 1
        losses = Standard().step(model, batch, context)
        return replace(losses, total=losses.total * self.count)

    def after_backward(self, model: nn.Module, context: Context) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "starts": self.starts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count, self.starts = state.get("count", torch.zeros(())), list(state.get("starts", []))

    def describe(self) -> dict[str, Any]:
        return {"name": "Remembers"}


@pytest.mark.parametrize("dies", [1, 4, 5, 7, 8])
def test_an_objectives_state_is_part_of_the_checkpoint(tmp_path: Path, dies: int) -> None:
    whole, resumed = Remembers(), Remembers()
    expected = run(objective=whole).model.state_dict()
    with pytest.raises(KilledError):
        run(objective=Remembers(dies=dies), out=tmp_path)
    found = run(objective=resumed, out=tmp_path).model.state_dict()
    assert same_weights(found, expected)
    assert resumed.count == whole.count == 24
    assert resumed.starts == whole.starts == [0, 1, 2]


def test_no_file_of_a_run_needs_pickle(tmp_path: Path) -> None:
    run(config=replace_config(epochs=1), out=tmp_path)
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert names == [
        ".lock",
        "checkpoint/latest.json",
        "checkpoint/state-000000004.safetensors",
        "log.jsonl",
        "model.safetensors",
        "train.json",
    ]
    assert np.isfinite(read_json(tmp_path / "train.json")["price"]["seconds"])


class Video(nn.Module):
    """The convolution whose bf16 weight gradient is not to be had on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv3d(16, 16, 3, 1, 1), nn.Linear(16, 2)

    def forward(self, inputs: Inputs) -> Tensor:
        x = inputs["a"][:, :1, None, None, None].expand(-1, 16, 2, 8, 8) + inputs["b"].mean()
        return self.head(self.conv(x).mean((2, 3, 4)))


def test_bf16_is_reproducible_on_the_cpu() -> None:
    config, found = replace_config(amp="bf16", epochs=1), []
    for _ in range(2):
        torch.manual_seed(0)
        model = Video()
        torch.full((300_000,), float("nan"))  # what freed memory may hold
        found.append(run(model, Adversarial(steps=1), config).model.state_dict())
    assert same_weights(*found)


class Narrow(TwoBranch):
    """Answers with one class too few."""

    def fuse(self, features: dict[str, Feature], need: Sequence[str] = ()) -> Output:
        return Output(super().fuse(features).logits[:, :1])


@pytest.mark.parametrize("objective", [Standard(), Adversarial(steps=1)])
def test_one_sample_outside_the_bounds_is_refused_before_anything_is_written(
    tmp_path: Path, objective: Objective
) -> None:
    data = splits(60)
    data.train.inputs["a"][47, 1] = 100.0  # type: ignore[attr-defined]
    threat = ThreatModel(a=Linf(0.5, bounds=(-50, 50)))
    with pytest.raises(ThreatError, match="100"):
        train(TwoBranch(), data, task=TASK, threat=threat, objective=objective, config=CONFIG, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        train(Narrow(), splits(), task=TASK, threat=None, objective=Standard(), config=CONFIG, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_begin_is_called_with_the_folder_held(tmp_path: Path) -> None:
    def begin() -> None:
        with pytest.raises(RunError, match="another process"), locked(tmp_path):
            pass
        (tmp_path / "begun").touch()

    options: dict[str, Any] = {"task": TASK, "threat": None, "objective": Standard(), "config": CONFIG, "out": tmp_path}
    train(TwoBranch(), splits(), **options, begin=begin)
    assert (tmp_path / "begun").exists()
    (tmp_path / "begun").unlink()
    with locked(tmp_path), pytest.raises(RunError, match="another process"):
        train(TwoBranch(), splits(), **options, begin=begin)
    assert not (tmp_path / "begun").exists()


def test_a_folder_may_be_said_as_text(tmp_path: Path) -> None:
    run(out=str(tmp_path / "run"), objective=Standard(), config=replace_config(epochs=1))
    assert (tmp_path / "run" / "train.json").exists()


def test_validation_samples_without_any_label_are_refused_before_training(tmp_path: Path) -> None:
    def several(part: Dataset) -> TensorDataset:
        assert isinstance(part, TensorDataset)
        return replace(part, targets=nn.functional.one_hot(part.targets, 2).float())

    parts = splits()
    validation = several(parts.validation)
    validation.targets[drawn(validation, 4)] = 0
    data = Splits(several(parts.train), validation, several(parts.test))
    with pytest.raises(InputError, match="none of 4 validation samples"):
        train(TwoBranch(), data, task=MultiLabel(2), threat=None, objective=Standard(), out=tmp_path / "run",
              config=replace_config(validation_samples=4))  # fmt: skip
    assert not (tmp_path / "run").exists()
