"""The latents of a data set, in one pass whose memory does not grow with the number of clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossguard.core.batch import Batch, Feature, Output, each, take
from crossguard.core.batch import present as is_present
from crossguard.core.errors import InputError, ModelError
from crossguard.core.model import Branched, bare, borrowed, forward
from crossguard.core.random import combine, sample_keys
from crossguard.diagnostics.classes import members
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
    if most < 1:
        raise InputError(f"most is {most}, expected a whole number >= 1")
    net = bare(model)
    parameter = next(net.parameters(), None)
    kept: _Kept | None = None
    with borrowed(net), torch.no_grad():
        for batch in loader:
            batch = batch if parameter is None else batch.to(parameter.device)
            rows = _rows(net, batch, features, at or {})
            belongs = members(batch.targets, len(batch), rows["logits"].shape[1])
            kept = kept or _Kept(most, belongs.shape[1])
            keys = combine(sample_keys(batch.ids or None, batch.inputs), seed)
            kept.see(keys.cpu(), belongs.cpu(), rows, batch)
    if kept is None or not int(kept.seen.sum()):
        raise InputError("the loader yields no sample of any class; check the data set and its split")
    return kept.done()


def rest(model: nn.Module) -> Callable[[Mapping[str, Feature]], Output]:
    """The rest of a network with branches: features by modality to its Output; lend it the model in eval mode."""
    net = bare(model)
    assert isinstance(net, Branched)
    return lambda features: net.fuse(dict(features))


def _rows(net: nn.Module, batch: Batch, wanted: bool, at: Mapping[str, str]) -> dict[str, Any]:
    """Everything that is kept of a batch, by "kind/name"."""
    layers = {path: Layer(net.get_submodule(path).forward) for path in at.values()}
    branches: tuple[str, ...] = getattr(net, "modalities", ()) if isinstance(net, Branched) else ()
    found: dict[str, Any] = {}
    if branches and wanted and isinstance(net, Branched):
        features = {n: net.encode(n, batch.inputs[n], batch.mask.get(n)) for n in branches if n in batch.inputs}
        output = net.fuse(features, ("latents",))
        found |= {f"feature/{n}": f for n, f in features.items()}
    elif wanted:
        raise ModelError("the features of branches need a model with branches, such as cg.FusionModel")
    else:
        output = forward(with_layers(net, layers) if at else net, batch.inputs, batch.mask, ("latents",))
    values = dict(output.latents or {})
    for name, path in at.items():
        layers[path].check(name, path)
        values[name] = layers[path].value
    if not values:
        raise ModelError("the model returns no latents; name submodules: at={'fused': 'path.of.one'}")
    for name, value in values.items():
        if len(value) != len(batch):
            raise ModelError(f"the latent {name!r} has {len(value)} rows for {len(batch)} samples, expected one each")
        here = is_present(batch.mask, name, len(batch))
        found[f"value/{name}"] = value.flatten(2).mean(dim=2) if value.dim() > 2 else value.reshape(len(value), -1)
        found[f"present/{name}"] = torch.ones(len(batch), dtype=torch.bool) if here is None else here
    return {**found, "logits": output.logits, "targets": batch.targets}


class _Kept:
    """The rows of the smallest keys by class."""

    def __init__(self, most: int, classes: int) -> None:
        self.most = most
        self.seen = torch.zeros(classes, dtype=torch.int64)
        self.limit = torch.full((classes,), torch.iinfo(torch.int64).max)
        self.table: list[dict[str, Any]] = []
        self.pruned = self.added = 0

    def see(self, keys: Tensor, belongs: Tensor, rows: dict[str, Any], batch: Batch) -> None:
        """Take in what may yet be among the smallest."""
        self.seen += belongs.sum(dim=0)
        chosen = (belongs & (keys[:, None] <= self.limit)).any(dim=1).nonzero().squeeze(1)
        if not len(chosen):
            return
        index: list[int] = chosen.tolist()
        part: dict[str, Any] = each(rows, lambda x: _own(x, chosen))
        ids = batch.ids or tuple(str(int(k)) for k in keys)
        groups = batch.groups or ids
        said = {"ids": [ids[i] for i in index], "groups": [groups[i] for i in index]}
        self.table.append({"keys": keys[chosen], "belongs": belongs[chosen], **part, **said})
        self.added += len(index)
        if self.added > max(self.pruned, self.most):
            self._prune()

    def _prune(self) -> dict[str, Any]:
        """Leave the `most` smallest keys of each class, in the order of the keys."""
        whole = {n: _joined([part[n] for part in self.table]) for n in self.table[0]}
        keys, belongs = whole["keys"], whole["belongs"]
        for c, count in enumerate(belongs.sum(dim=0).tolist()):
            if count >= self.most:
                self.limit[c] = keys[belongs[:, c]].kthvalue(self.most).values
        keep = (belongs & (keys[:, None] <= self.limit)).any(dim=1).nonzero().squeeze(1)
        keep = keep[keys[keep].argsort(stable=True)]
        whole = {n: [v[i] for i in keep.tolist()] if isinstance(v, list) else take(v, keep) for n, v in whole.items()}
        self.table, self.pruned, self.added = [whole], len(keep), 0
        return whole

    def done(self) -> Latents:
        whole = self._prune()

        def kind(name: str) -> dict[str, Any]:
            return {n.removeprefix(name): v for n, v in whole.items() if n.startswith(name)}

        return Latents(
            kind("value/"), kind("present/"), kind("feature/"), whole["logits"], whole["targets"],
            tuple(whole["ids"]), tuple(whole["groups"]), self.seen,
        )  # fmt: skip


def _own(x: Tensor, rows: Tensor) -> Tensor:
    """The rows of a tensor, in memory of their own on the CPU, no less precise than float32."""
    x = x.detach().cpu()[rows]
    return x.float() if x.is_floating_point() and x.dtype != torch.float64 else x


def _joined(parts: Sequence[Any]) -> Any:
    """One after another: lists, tensors padded with 0 to the largest, or Features, what some lack being all True."""
    if isinstance(parts[0], list):
        return [x for part in parts for x in part]
    if isinstance(parts[0], Feature):
        names = {k for f in parts for k, v in vars(f).items() if isinstance(v, Tensor)}
        whole = {k: _joined([_or_all(f, k, parts) for f in parts]) for k in names}
        return replace(parts[0], **whole)
    size = [max(axis) for axis in zip(*(x.shape[1:] for x in parts), strict=True)]
    return torch.cat([F.pad(x, _missing(x, size)) for x in parts])


def _or_all(feature: Feature, name: str, among: Sequence[Feature]) -> Tensor:
    """A Feature's own mask, or one as others have it that leaves nothing out: a set need not mask every batch."""
    own = vars(feature)[name]
    if own is not None:
        return own
    like: Tensor = next(vars(f)[name] for f in among if vars(f)[name] is not None)
    return torch.ones(len(feature.value), *like.shape[1:], dtype=torch.bool)


def _missing(x: Tensor, size: Sequence[int]) -> list[int]:
    """How much is to be added after each axis but the first, the last axis first, as `F.pad` takes it."""
    return [n for have, want in zip(reversed(x.shape[1:]), reversed(size), strict=True) for n in (0, want - have)]
