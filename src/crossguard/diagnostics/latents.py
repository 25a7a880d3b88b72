"""The latents of a data set, in one pass whose memory does not grow with the number of clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossguard.core.batch import Batch, Feature, Output
from crossguard.core.errors import InputError, ModelError
from crossguard.core.model import Branched, bare, borrowed, forward
from crossguard.core.random import combine, sample_keys
from crossguard.diagnostics.classes import members
from crossguard.diagnostics.kept import Handed, Kept
from crossguard.models.fusion.fusion import nearest
from crossguard.models.layers import Layer, with_layers


@dataclass(frozen=True)
class Latents:
    """What a model makes of the samples kept, on the CPU: `values` (K, D) by branch and "fused", where `present` (K,).

    `features` are what each branch hands over before branches first meet, maps padded to the longest, with masks.
    `seen` (C,) is how many samples of each class passed by; `targets`, `logits`, `ids` and `groups` are their own.
    """

    values: dict[str, Tensor]
    present: dict[str, Tensor]
    features: dict[str, Feature]
    logits: Tensor
    targets: Tensor
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    seen: Tensor

    def __len__(self) -> int:
        return len(self.targets)


def latents(
    model: nn.Module,
    loader: Iterable[Batch],
    *,
    most: int = 1000,
    features: bool = False,
    at: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Latents:
    """Latents of at most about `most` samples of each class, which ones being a function of (seed, ids) alone.

    Kept are those of the smallest keys, so that order, batch size and shards do not matter, and no more than twice
    `most` x classes are ever held (a sample of several labels stays for any of them). `features`: also what the
    branches hand over, for `convexity` at the bottleneck. `at`: name -> dotted path of a submodule whose answer, its
    axes beyond the second averaged, is a latent too: for models that return none. Raises ModelError where there are
    no latents, InputError for a loader without samples.
    """
    gathering = Gathering(model, most=most, features=features, at=at, seed=seed)
    with borrowed(model):
        for batch in loader:
            gathering.see(batch)
    return gathering.done()


class Gathering:
    """`latents` a batch at a time, for who has more to do with each; lend it the model in eval mode."""

    def __init__(
        self,
        model: nn.Module,
        *,
        most: int = 1000,
        features: bool = False,
        at: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        if most < 1:
            raise InputError(f"most is {most}, expected a whole number >= 1")
        self.net, self.most, self.features, self.at, self.seed = bare(model), most, features, at or {}, seed
        self.kept: Kept | None = None

    @torch.no_grad()
    def see(self, batch: Batch) -> None:
        """Take in a batch, from any device; raises ModelError where there are no latents."""
        parameter = next(self.net.parameters(), None)
        batch = batch if parameter is None else batch.to(parameter.device)
        found = rows(self.net, batch, self.at, features=self.features)
        belongs = members(batch.targets, len(batch), found["logits"].shape[1])
        self.kept = self.kept or Kept(self.most, belongs.shape[1])
        keys = combine(sample_keys(batch.ids or None, batch.inputs), self.seed)
        self.kept.see(keys.cpu(), belongs.cpu(), found, batch)

    def done(self) -> Latents:
        """What is kept in the end; raises InputError where there was no sample."""
        if self.kept is None or not int(self.kept.seen.sum()):
            raise InputError("the loader yields no sample of any class; check the data set and its split")
        whole = self.kept.prune()

        def kind(name: str) -> dict[str, Any]:
            return {n.removeprefix(name): v for n, v in whole.items() if n.startswith(name)}

        return Latents(
            kind("value/"), kind("present/"), {n: handed.feature for n, handed in kind("feature/").items()},
            whole["logits"], whole["targets"], tuple(whole["ids"]), tuple(whole["groups"]), self.kept.seen,
        )  # fmt: skip


def rest(model: nn.Module) -> Callable[[Mapping[str, Feature]], Output]:
    """The rest of a network with branches: features by modality to its Output; lend it the model in eval mode."""
    net = bare(model)
    assert isinstance(net, Branched)
    return lambda features: net.fuse(dict(features))


def rows(net: nn.Module, batch: Batch, at: Mapping[str, str], *, features: bool = False) -> dict[str, Any]:
    """Everything that is kept of a batch, by "kind/name"; raises ModelError where there are no latents."""
    layers = _layers(net, at)
    seen = with_layers(net, layers) if at else net
    found: dict[str, Any] = {}
    if features:
        branches: tuple[str, ...] = getattr(net, "modalities", ())
        if not (branches and isinstance(seen, Branched)):
            raise ModelError("the features of branches need a model with branches, such as cg.FusionModel")
        handed = {n: seen.encode(n, batch.inputs[n], batch.mask.get(n)) for n in branches if n in batch.inputs}
        output = seen.fuse(handed, ("latents",))
        found |= {f"feature/{n}": Handed.of(f, batch.inputs[n]) for n, f in handed.items()}
        found |= {f"present/{n}": batch.present(n) for n in handed}
    else:
        output = forward(seen, batch.inputs, batch.mask, ("latents",))
    values = dict(output.latents or {})
    for name, path in at.items():
        layers[path].check(name, path)
        values[name] = layers[path].value
    if not values:
        raise ModelError("the model returns no latents; name submodules: at={'fused': 'path.of.one'}")
    for name, value in values.items():
        count = len(value) if value.dim() else 0
        if count != len(batch):
            raise ModelError(f"the latent {name!r} has {count} rows for {len(batch)} samples, expected one each")
        found[f"value/{name}"] = value.flatten(2).mean(dim=2) if value.dim() > 2 else value.reshape(len(value), -1)
        found[f"present/{name}"] = batch.present(name)
    return {**found, "logits": output.logits, "targets": batch.targets}


def _layers(net: nn.Module, at: Mapping[str, str]) -> dict[str, Layer]:
    """By path what records the answer of the submodule there."""
    known = {path: part for path, part in net.named_modules(remove_duplicate=False) if path} if at else {}
    for name, path in at.items():
        if path not in known:
            alike = [p for p in known if p.rpartition(".")[2] == path.rpartition(".")[2]]
            raise ModelError(
                f"the model has no submodule {path!r} for the latent {name!r}; {nearest(path, alike or list(known))}"
            )
    return {path: Layer(known[path].forward) for path in at.values()}
