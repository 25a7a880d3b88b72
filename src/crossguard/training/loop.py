"""The training loop: everything but the defence, which is an `Objective`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from crossguard.core.batch import Batch, check_finite
from crossguard.core.errors import InputError, RunError
from crossguard.core.files import locked, read_safetensors, write_json, write_safetensors
from crossguard.core.model import bare
from crossguard.core.task import Task
from crossguard.data.base import Splits
from crossguard.data.windows import Windows
from crossguard.defences.objective import Context, Objective, Work
from crossguard.threat import ThreatModel
from crossguard.training.batches import batches_per_epoch, epoch_batches
from crossguard.training.checkpoint import load_checkpoint, load_share, save_checkpoint, save_share
from crossguard.training.checks import check_fit, check_losses, digest, readable
from crossguard.training.config import TrainConfig
from crossguard.training.distributed import Ranks, own_device, ranks
from crossguard.training.folder import Log
from crossguard.training.optimizer import build_optimizer
from crossguard.training.result import Progress, State, TrainResult
from crossguard.training.schedule import learning_rate
from crossguard.training.validation import Accuracy, validate


def train(
    model: nn.Module,
    splits: Splits,
    *,
    task: Task,
    threat: ThreatModel | None,
    objective: Objective,
    config: TrainConfig,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = True,
    recipe: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
    device: torch.device | str | None = None,
    begin: Callable[[], None] | None = None,
) -> TrainResult:
    """Train `model` in place and give it back with the weights that were best on the validation split.

    Best is by accuracy (of several labels GAP) under PGD within `threat`, by clean accuracy where that is None or the
    objective not `robust`.
    Budgets of modalities that the model does not read are left out. With `out`, the folder gets `log.jsonl`,
    `checkpoint/` (a killed run goes on from it, on the CPU to the same bits), `model.safetensors` (the best weights)
    and `train.json` (the result); `recipe` is anything JSON that must be the same when a run is resumed. Random numbers
    are a function of (seed, step); the caller's generators are left as they are. Under torchrun all processes train
    one model, into a folder that all of them see. `begin` is called by the first process before the first step, when
    all is checked and the folder held.

    Raises InputError, ModelError or ThreatError, with nothing written, for what does not fit together (every sample is
    held against the budgets' bounds, one goes through the model), RunError for a folder in use, of another run or not
    writable, and for a loss that is not finite.
    """
    place = None if out is None else Path(out)
    device = own_device(torch.device(device) if device is not None else next(model.parameters()).device)
    with ExitStack() as stack:
        team = stack.enter_context(ranks(device))
        stack.enter_context(torch.random.fork_rng(cast("list[int]", [device] if device.type == "cuda" else [])))
        run = _Run(bare(model).to(device), splits, task, threat, objective, config, seed, place, team, device, progress)
        run.same["recipe"] = dict(recipe or {})
        if place is not None:
            team.agree(lambda: stack.enter_context(locked(place)))
        stack.callback(run.close)
        run.restore(resume)
        if begin is not None:
            team.agree(begin)
        return run.go()


class _Run:
    """One run: what it is made of, where it stands (`state`), and how it goes on."""

    def __init__(
        self,
        model: nn.Module,
        splits: Splits,
        task: Task,
        threat: ThreatModel | None,
        objective: Objective,
        config: TrainConfig,
        seed: int,
        out: Path | None,
        team: Ranks,
        device: torch.device,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.model, self.splits, self.task, self.objective, self.config = model, splits, task, objective, config
        self.seed, self.out, self.team, self.device = seed, out, team, device
        self.progress = progress if team.first else None
        self.threat = readable(model, threat)
        self.state, self.work = State(), Work()
        Windows.of(splits.train, config.window)  # said before any work, where the set cannot be read so
        self.batches = batches_per_epoch(len(splits.train), config.batch_size, team.world)
        self.steps = self.batches * config.epochs
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.optimizer = build_optimizer(model, config)
        self.best_weights: dict[str, Tensor] = {}
        self.log: Log | None = None
        most = config.validation_samples
        check_fit(
            model, splits, task, self.threat, device=device, batch_size=config.batch_size, validation_samples=most
        )
        objective.check(model, self.context())
        self.same = self._same()

    def _same(self) -> dict[str, Any]:
        """What a resumed run must share with this one, as JSON."""
        return {
            "config": self.config.outcome(),
            "objective": self.objective.describe(),
            "threat": None if self.threat is None else self.threat.to_dict(),
            "task": {"kind": type(self.task).__name__, "classes": self.task.classes},
            "seed": self.seed,
            "data": {"train": digest(self.splits.train), "validation": digest(self.splits.validation)},
            "model": {name: list(p.shape) for name, p in self.model.named_parameters()},
        }

    def context(self) -> Context:
        """Where training stands, for the objective."""
        return Context(
            task=self.task,
            threat=self.threat,
            epoch=self.state.epoch,
            epochs=self.config.epochs,
            step=self.state.step,
            steps=self.steps,
            seed=self.seed,
            device=self.device,
            amp=torch.bfloat16 if self.config.amp == "bf16" else None,
            work=self.work,
            total=self.team.total,
        )

    def restore(self, resume: bool) -> None:
        """Go on from the latest checkpoint, if there is one and it is wanted."""
        found: dict[str, Any] | None = None
        if self.out is not None:
            folder = self.out / "checkpoint"
            if not resume:
                self.team.agree(lambda: (folder / "latest.json").unlink(missing_ok=True))
            found = load_checkpoint(folder, self.same)
            if found is None and self.team.first:
                (self.out / "train.json").unlink(missing_ok=True)  # it would speak of another run
        if found is not None:
            self.model.load_state_dict(found["model"])
            self.optimizer.load_state_dict(found["optimizer"])
            self.state = State.from_dict(found["progress"])
        self.objective.load_state_dict({} if found is None else self._own(found))
        if self.team.total(self.state.step)[0] != self.state.step * self.team.world:
            raise RunError(f"the processes found different checkpoints in {self.out}; give a folder that all can see")
        if self.out is not None and self.team.first:
            self.log = Log(self.out / "log.jsonl", found["log"] if found is not None else 0)
        self.team.begin_together(self.model)

    def _own(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """What this rank's objective kept: each has its own share of the batches."""
        assert self.out is not None, "it was found there"
        kept, were, team = found["objective"], found.get("world", 1), self.team
        if kept and were != team.world:
            raise RunError(
                f"{self.out} was stopped as {were} processes, now there are {team.world}; its objective keeps "
                f"something of each: go on with as many, or train into another folder"
            )
        return kept if team.first or not kept else load_share(self.out / "checkpoint", self.state.step, team.rank)

    def save(self) -> None:
        """Write a checkpoint."""
        self._settle(self.state.training)
        if self.out is None:
            return
        folder, log, own = self.out / "checkpoint", self.log, self.objective.state_dict()
        if own and self.team.world > 1:
            step, rank = self.state.step, self.team.rank
            self.team.agree(lambda: save_share(folder, step, rank, own), everyone=True)
        state = {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "objective": own,
            "world": self.team.world,
            "progress": self.state.to_dict(),
            "log": log.position if log is not None else 0,
        }
        self.team.agree(lambda: save_checkpoint(folder, self.state.step, self.same, state))

    def _settle(self, account: Work) -> None:
        """Book what all ranks have paid since the last time."""
        forwards, backwards = self.team.total(self.work.forwards, self.work.backwards)
        account.forwards, account.backwards = account.forwards + forwards, account.backwards + backwards
        self.work.forwards = self.work.backwards = 0
        self.state.see_memory(self.device)

    def go(self) -> TrainResult:
        """Train to the end."""
        state, config = self.state, self.config
        if not self.model.training:
            self.model.train()
        while state.epoch < config.epochs and (config.patience is None or state.waited < config.patience):
            self._epoch()
        assert state.best is not None, "the last epoch is always validated"
        if self.out is None:
            self.model.load_state_dict(self.best_weights)
        elif self.team.first:
            self.model.load_state_dict(read_safetensors(self.out / "model.safetensors"))
        self.team.begin_together(self.model)
        self.model.eval()
        result = TrainResult(
            self.model, state.history, state.best_epoch, state.best, state.epoch, state.step, state.price(self.model)
        )
        if self.out is not None:
            path = self.out / "train.json"
            said = {**result.to_dict(), "classes": list(self.splits.classes)}
            self.team.agree(lambda: write_json(path, said))
        return result

    def _epoch(self) -> None:
        """The rest of the current epoch, its validation and its checkpoint."""
        state, config = self.state, self.config
        if state.batch == 0:
            torch.manual_seed(self.context().draw(0))
            self.objective.epoch_start(self.model, self.splits.train, self.context())
        batches = epoch_batches(
            self.splits.train,
            state.epoch,
            batch_size=config.batch_size,
            seed=self.seed,
            window=config.window,
            first=state.batch,
            rank=self.team.rank,
            world=self.team.world,
        )
        for batch, whole in batches:
            started, computed = time.perf_counter(), time.process_time()
            values = self._step(batch.to(self.device, non_blocking=True), whole)
            state.cpu_seconds += time.process_time() - computed
            self._book(values, whole, time.perf_counter() - started)
            within = state.batch < self.batches
            if within and config.checkpoint_every is not None and state.step % config.checkpoint_every == 0:
                self.save()
        self._settle(state.training)
        state.epoch, state.batch = state.epoch + 1, 0
        line: dict[str, Any] = {"epoch": state.epoch, **state.since_epoch.take()}
        if state.epoch % config.validate_every == 0 or state.epoch == config.epochs:
            line |= self._validate()
        state.history.append(line)
        self._write(line)
        self.save()

    def _step(self, batch: Batch, whole: int) -> dict[str, float]:
        """One step of the optimizer; returns the losses, the norm of the gradient and the rate."""
        context = self.context()
        torch.manual_seed(context.draw(3, self.team.rank))
        rate = learning_rate(self.config, self.state.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.objective.step(self.model, batch, context)
        if self.state.step == 0:
            check_losses(losses, self.task)
        losses.total.backward()
        self.objective.after_backward(self.model, context)
        self.team.average(self.model, len(batch), whole)
        trained = [p for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        parts = {"loss": losses.total.detach(), "gradient": norm, **losses.parts}
        seen: list[float] = torch.stack([v.float() for v in parts.values()]).tolist()  # the one wait on the device
        if not (math.isfinite(seen[0]) and math.isfinite(seen[1])):
            self._not_finite(batch, seen[0], seen[1])
        if self.config.gradient_clip is not None:
            nn.utils.clip_grads_with_norm_(trained, self.config.gradient_clip, norm)
        self.optimizer.step()
        return {**dict(zip(parts, seen, strict=True)), "rate": rate}

    def _not_finite(self, batch: Batch, loss: float, norm: float) -> None:
        """Stop before the weights are touched."""
        bad = [n for n, p in self.model.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())]
        where = f" (first in {bad[0]!r})" if bad and math.isfinite(loss) else ""
        cause = "try a smaller learning_rate, gradient_clip or amp: off"
        try:
            check_finite(batch.inputs, batch.ids or None)
        except InputError as error:
            cause = str(error)
        kept = "" if self.out is None else f" The last checkpoint, in {self.out / 'checkpoint'}, is good."
        raise RunError(
            f"epoch {self.state.epoch + 1}, step {self.state.step + 1}: the loss is {loss} and the gradient's norm "
            f"{norm}{where}, expected finite numbers; {cause}.{kept}"
        )

    def _book(self, values: dict[str, float], samples: int, seconds: float) -> None:
        """Count a step that is done, and say so."""
        state = self.state
        state.step, state.batch, state.seconds = state.step + 1, state.batch + 1, state.seconds + seconds
        state.since_line.add(values, samples, seconds)
        state.since_epoch.add(values, samples, seconds)
        if state.step % self.config.log_every == 0:
            self._write({"epoch": state.epoch + 1, "step": state.step, **state.since_line.take()})
        self._say(loss=values["loss"])

    def _validate(self) -> dict[str, Any]:
        """Validate, keep the weights if they are the best so far; returns what there is to log."""
        state, started = self.state, time.perf_counter()
        found = validate(
            self.model,
            self.splits.validation,
            task=self.task,
            threat=self.threat if self.objective.robust else None,
            config=self.config,
            seed=self.seed,
            ranks=self.team,
            work=self.work,
        )
        self._settle(state.validation)
        state.validation_seconds += time.perf_counter() - started
        if not self.objective.begins(replace(self.context(), step=state.step - 1)):  # the last step that is done
            state.waited += 1
        if found.beats(state.best):
            state.best, state.best_epoch, state.waited = found, state.epoch, 0
            self._keep()
        self._say(accuracy=found)
        return asdict(found)

    def _keep(self) -> None:
        weights = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}
        if self.out is None:
            self.best_weights = weights
        else:
            path = self.out / "model.safetensors"
            self.team.agree(lambda: write_safetensors(path, weights))

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.log is not None:
            self.log.write(line)

    def _say(self, loss: float | None = None, accuracy: Accuracy | None = None) -> None:
        if self.progress is not None:
            done = self.state.epoch + (1 if accuracy is None else 0)
            self.progress(Progress(done, self.config.epochs, self.state.step, self.steps, loss, accuracy))

    def close(self) -> None:
        """Let go of the log."""
        if self.log is not None:
            self.log.close()
