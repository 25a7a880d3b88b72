"""Several encoders and a fusion as one model, whose branches can be run apart."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from crossguard.core.batch import Feature, Inputs, Need, Output
from crossguard.core.batch import present as is_present
from crossguard.core.errors import ModelError
from crossguard.core.task import MultiLabel, Task
from crossguard.models.attention import Watch, watched, watching
from crossguard.models.committee import committee, trusted
from crossguard.models.encoder import Encoder, frame_mask
from crossguard.models.fusion.fusion import Fusion, Gates, nearest, scale_channels


@dataclass(frozen=True)
class Partial(Feature):
    """The feature map of a branch that goes on after the first exchange, or of which the fusion wants the frames, with
    the `mask` that they need."""

    mask: Tensor | None = None


class FusionModel(nn.Module):
    """`encoders` by modality, joined by `fusion` into `classes` logits.

    `encode` is everything of a branch before branches first exchange anything, `fuse` everything after. `auxiliary`
    adds a linear head a modality on its last features before they are reweighted (deep supervision). With
    `inference="vote"` the answer in eval mode is the mean of the fused and the auxiliary logits of what is there: up to
    a temperature, the product of what the heads believe (our choice); with "committee", that product with a `doubt` of
    each head, and some trusted less than others (see `committee`; for single labels alone). Training descends the
    heads' own losses as before, on inputs attacked by way of the answer. One encoder makes a unimodal model. In eval
    mode each sample is answered by itself alone. An absent modality (its mask all False) contributes nothing; inputs
    that have no encoder are ignored. `movable` are the modalities of which more than the mask is looked at: what is
    left for an attacker to move.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        fusion: Fusion,
        classes: int,
        *,
        auxiliary: bool = True,
        inference: Literal["fused", "vote", "committee"] = "fused",
        doubt: float = 0.1,
        trust: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        branches = _checked(encoders)
        if inference not in ("fused", "vote", "committee") or (inference != "fused" and not auxiliary):
            raise ModelError(
                f"found inference {inference!r}, auxiliary {auxiliary}; expected 'fused', or 'vote' or 'committee' "
                f"with auxiliary heads"
            )
        self.inference, self.doubt = inference, doubt
        self.trust = trusted(trust or {}, tuple(branches), doubt)
        self.classes = classes
        self.modalities = tuple(branches)
        self.movable = tuple(name for name, encoder in branches.items() if not encoder.fixed)
        self.encoders = nn.ModuleDict(branches)
        self.places = fusion.places({name: e.stages for name, e in branches.items()})
        self.exchanged = [{n: branches[n].dims[s] for n, s in place.items()} for place in self.places]
        last = {name: e.dims[e.stages[-1]] for name, e in branches.items()}
        fusion.build(self.exchanged, last, classes)
        self.dims = fusion.widths(last)
        self.fusion = fusion
        heads = {name: nn.Linear(dim, classes) for name, dim in self.dims.items()} if auxiliary else {}
        self.heads = nn.ModuleDict(heads)

    def forward(self, inputs: Inputs, mask: Mapping[str, Tensor] | None = None, need: Sequence[Need] = ()) -> Output:
        """Logits, and what `need` names.

        Raises ModelError where a modality is not among the inputs; to say that it is absent, give a mask that is
        all False (its input may then be left out).
        """
        masks = mask or {}
        for name in self.modalities:
            if name not in inputs and not (name in masks and not bool(masks[name].any())):
                raise ModelError(
                    f"the model needs {name!r}, the inputs are {sorted(inputs)}; {nearest(name, list(inputs))} "
                    f"To say that it is absent, give it a mask that is all False"
                )
        # Who watches already takes what it wants of the maps itself.
        watch = Watch() if "attention" in need and watched() is None else None
        with watching(watch or watched()):
            features = {n: self.encode(n, inputs[n], masks.get(n)) for n in self.modalities if n in inputs}
            output = self.fuse(features, need)
        return output if watch is None else replace(output, attention=tuple(watch.kept))

    def encode(self, name: str, x: Tensor, mask: Tensor | None = None) -> Feature:
        """One branch up to the first exchange: (N, C, …), or pooled (N, C) where the branch ends there."""
        if name not in self.encoders:
            raise ModelError(f"the model has no branch {name!r}; {nearest(name, self.modalities)}")
        there = None if mask is None else is_present({name: mask}, name, x.shape[0])
        place = self.places[0][name] if self.places else self._encoder(name).stages[-1]
        value = self._encoder(name).run(x, mask, to=place)
        if self.fusion.maps:
            return Partial(value, there, mask)
        if place == self._encoder(name).stages[-1]:
            value = self._pooled(name, value, mask, there)
            return Feature(value if self.places else self.fusion.refine(name, value), there)
        return Partial(value, there, mask)

    def fuse(self, features: dict[str, Feature], need: Sequence[Need] = ()) -> Output:
        """From the branches' features to the Output; a modality without a feature is absent."""
        if not features:
            raise ModelError(f"nothing to fuse: give the features of at least one of {self.modalities}")
        real = self._real(features)
        branches = {name: features[name] for name in self.modalities if name in features}
        latents: dict[str, Tensor] = {}
        gates = Gates({})
        for depth, place in enumerate(self.places):
            tokens = self._tokens(branches, self.exchanged[depth])
            ended = [name for name in branches if place[name] == self._encoder(name).stages[-1]]
            latents = {name: tokens[name] for name in ended}
            gates = self.fusion.gates(depth, tokens, real)
            branches = {n: self._advance(n, f, gates.scale[n], depth) for n, f in branches.items()}
        asked = self.inference != "fused" and not self.training
        if self.fusion.maps:
            fused, logits = self.fusion.join(*self._frames(branches))
            with watching(None):  # pooled for auxiliary heads and latents alone
                latents = self._tokens(branches, self.dims) if asked or {"auxiliary", "latents"} & set(need) else {}
        else:
            final = self._tokens(branches, self.dims)
            fused, logits = self.fusion(final, real)
            latents = {**final, **latents}
        auxiliary: dict[str, Tensor] | None = None
        if len(self.heads) and (asked or "auxiliary" in need):
            auxiliary = {name: head(latents[name]) for name, head in self.heads.items()}
        if asked and auxiliary is not None:
            heard = torch.stack(list(auxiliary.values()), dim=1)
            vote = self.inference == "vote"
            logits = _voted(logits, heard, real) if vote else committee(logits, heard, real, self.doubt, self.trust)
        return Output(
            logits,
            auxiliary if "auxiliary" in need else None,
            {**latents, "fused": fused} if "latents" in need else None,
            gates.weights if "weights" in need else None,
            odd_one_out=gates.odd_one_out if "odd_one_out" in need else None,
        )

    def attack_view(self) -> FusionModel:
        """The same answers with the gradients that attacks should follow: itself, or a view that shares every tensor.

        See the fusion's own `attack_view`. The view is in the mode (training or eval) that the model is in.
        """
        fusion = self.fusion.attack_view()
        if fusion is self.fusion:
            return self
        view = copy.copy(self)
        # A copied module shares the table of its submodules with the original.
        view._modules = {**self._modules, "fusion": fusion}
        return view

    def _encoder(self, name: str) -> Encoder:
        return cast("Encoder", self.encoders[name])

    def _pooled(self, name: str, x: Tensor, mask: Tensor | None, there: Tensor | None) -> Tensor:
        """(N, C), zero where the modality is absent."""
        pooled = self._encoder(name).pool(x, mask) if x.dim() > 2 else x
        return pooled if there is None else pooled.where(there[:, None], torch.zeros_like(pooled))

    def _tokens(self, branches: Mapping[str, Feature], dims: Mapping[str, int]) -> dict[str, Tensor]:
        """Pooled features by modality, in the order of the encoders; zero for one without a feature."""
        some = next(iter(branches.values())).value
        tokens: dict[str, Tensor] = {}
        for name in self.modalities:
            feature = branches.get(name)
            if feature is None:
                tokens[name] = some.new_zeros(some.shape[0], dims[name])
            else:
                mask = feature.mask if isinstance(feature, Partial) else None
                tokens[name] = self._pooled(name, feature.value, mask, feature.present)
        return tokens

    def _advance(self, name: str, feature: Feature, scale: Tensor, depth: int) -> Feature:
        """Scale a branch's channels at `depth` and run it to its next exchange, or to its end."""
        value = scale_channels(feature.value, scale)
        encoder, here = self._encoder(name), self.places[depth][name]
        if here == encoder.stages[-1]:
            return Feature(value, feature.present)
        mask = feature.mask if isinstance(feature, Partial) else None
        there = self.places[depth + 1][name] if depth + 1 < len(self.places) else encoder.stages[-1]
        value = encoder.run(value, mask, after=here, to=there)
        if there == encoder.stages[-1]:
            return Feature(self._pooled(name, value, mask, feature.present), feature.present)
        return Partial(value, feature.present, mask)

    def _frames(self, branches: Mapping[str, Feature]) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
        """By modality its map as (N, C, T), and (N, T): which frames are real, None where all are.

        A pooled map is one frame, and places (N, C, T, H, W) are as many frames, all real where the modality is there.
        """
        maps: dict[str, Tensor] = {}
        real: dict[str, Tensor | None] = {}
        for name, f in branches.items():
            maps[name] = x = f.value.unsqueeze(2).flatten(2) if f.value.dim() == 2 else f.value.flatten(2)
            if isinstance(f, Partial) and f.value.dim() == 3 and f.mask is not None:
                real[name] = self._encoder(name).real(f.mask, x.shape[2])
            else:
                real[name] = frame_mask(f.present, x.shape[2])
        return maps, real

    def _real(self, features: Mapping[str, Feature]) -> Tensor | None:
        """(N, M): which modalities are there; None where nothing is absent."""
        given = [features.get(name) for name in self.modalities]
        if all(f is not None and f.present is None for f in given):
            return None
        value = next(iter(features.values())).value
        everywhere = torch.ones(value.shape[0], dtype=torch.bool, device=value.device)
        there = [~everywhere if f is None else everywhere if f.present is None else f.present for f in given]
        return torch.stack(there, dim=1)


def check_task(model: nn.Module, task: Task) -> None:
    """Raise ModelError where a committee is to answer with several labels."""
    if isinstance(task, MultiLabel) and any(
        isinstance(part, FusionModel) and part.inference == "committee" for part in model.modules()
    ):
        raise ModelError(
            "found inference 'committee' and targets of several labels, expected one label a sample: what its heads "
            "believe are shares of one class against the others; take inference 'vote' or 'fused'"
        )


def _voted(fused: Tensor, auxiliary: Tensor, real: Tensor | None) -> Tensor:
    """The mean of (N, C) and those of (N, M, C) that are there."""
    if real is None:
        return (fused + auxiliary.sum(dim=1)) / (1 + auxiliary.shape[1])
    there = real.to(fused.dtype)
    return (fused + (auxiliary * there[..., None]).sum(dim=1)) / (1 + there.sum(dim=1, keepdim=True))


def _checked(encoders: Mapping[str, nn.Module]) -> dict[str, Encoder]:
    """The encoders; raises ModelError where there are none or one is no Encoder."""
    if not encoders:
        raise ModelError("a FusionModel needs at least one encoder: {modality: encoder}")
    for name, encoder in encoders.items():
        if "." in name or not name or hasattr(nn.ModuleDict(), name):
            raise ModelError(
                f"modality {name!r} cannot name a branch: torch keeps this name, or a dot, for itself; rename it"
            )
        if not isinstance(encoder, Encoder):
            raise ModelError(
                f"encoder of {name!r}: found {type(encoder).__name__}, expected a crossguard.models.Encoder (named "
                f"stages and their dims); derive from it, or bring a whole model through cg.adapt"
            )
    return cast("dict[str, Encoder]", dict(encoders))
