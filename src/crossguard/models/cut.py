"""A model cut in two at submodules, so that what flows there can be attacked instead of the raw input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossguard.core.batch import Feature, Inputs, Need, Output
from crossguard.core.errors import ModelError
from crossguard.core.model import Branched, attack_view, bare, borrowed, forward
from crossguard.models.fusion.fusion import nearest
from crossguard.models.layers import Layer, with_layers


def cut(model: nn.Module, at: Mapping[str, str]) -> tuple[Head, Tail]:
    """Cut `model` behind the submodules that `at` names, modality -> dotted path.

    `head(inputs, mask)` gives their answers under the modalities' names, `tail` is a model of these: to the bit,
    tail(head(x)) = model(x) in eval mode. Parameters are shared and `model` is never changed. Each submodule must run
    once a call and answer one tensor: (N, …), or (N x frames, …) with a sample's frames side by side, which is given
    as (N, frames, …). A mask goes on to the model as it is. What runs before the cut runs in the tail too, on a
    placeholder: cut near the input, and train no normalisation before it through the tail. Raises ModelError for a
    path that does not exist; the head's first call checks the rest.
    """
    net = bare(model)
    known = [path for path, _ in net.named_modules() if path]
    if not at or len(set(at.values())) < len(at):
        raise ModelError(f"cut: found {dict(at)}, expected {{modality: path}} with a submodule of its own for each")
    for name, path in at.items():
        if path not in known:
            last = path.rpartition(".")[2]
            alike = [p for p in known if p.rpartition(".")[2] == last]
            raise ModelError(f"cut: the model has no submodule {path!r} for {name!r}; {nearest(path, alike or known)}")
    tail = Tail(net, at)
    return Head(tail), tail


@dataclass(frozen=True)
class Before:
    """What a sample is like before the cut, and whether its features are several rows."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    several: bool


class Tail(nn.Module):
    """The part of `viewed` behind the cut; made by `cut`. `level`: modality -> the submodule it is given behind."""

    def __init__(self, viewed: nn.Module, level: Mapping[str, str]) -> None:
        super().__init__()
        self.viewed = viewed
        self.level = dict(level)
        self.before: dict[str, Before] = {}
        self.modalities: tuple[str, ...] = getattr(viewed, "modalities", ()) if isinstance(viewed, Branched) else ()

    def forward(self, inputs: Inputs, mask: Mapping[str, Tensor] | None = None, need: Sequence[Need] = ()) -> Output:
        """The model's answer to features, and to raw inputs of modalities that are not cut."""
        raw, layers = self._opened(inputs, tuple(self.level))
        answer = forward(with_layers(self.viewed, layers), raw, mask, need)
        self._check(layers)
        return answer

    def encode(self, name: str, x: Tensor, mask: Tensor | None = None) -> Feature:
        """One branch of a Branched model, from its features where it is cut."""
        raw, layers = self._opened({name: x}, (name,) if name in self.level else ())
        net = with_layers(self.viewed, layers)
        assert isinstance(net, Branched)
        feature = net.encode(name, raw[name], mask)
        self._check(layers)
        return feature

    def fuse(self, features: dict[str, Feature], need: Sequence[Need] = ()) -> Output:
        """Everything after branches first exchange anything."""
        assert isinstance(self.viewed, Branched)
        return self.viewed.fuse(features, need)

    def attack_view(self) -> Tail:
        """Itself, or the same cut of the view that the cut model offers to attackers."""
        view = attack_view(self.viewed)
        if view is self.viewed:
            return self
        tail = Tail(view, self.level)
        tail.before = self.before
        return tail

    def _opened(self, inputs: Inputs, names: tuple[str, ...]) -> tuple[Inputs, dict[str, Layer]]:
        """Placeholders for raw inputs, and layers that answer the features."""
        raw, layers = dict(inputs), dict[str, Layer]()
        for name in names:
            if name not in inputs or name not in self.before:
                raise ModelError(
                    f"the tail needs features of {name!r} (the inputs are {sorted(inputs)}), and the head to be called "
                    f"once, which tells what samples are like before the cut"
                )
            x, before = inputs[name], self.before[name]
            # NaN: should the model use it around the cut, its logits tell.
            raw[name] = torch.full((x.shape[0], *before.shape), torch.nan, dtype=before.dtype, device=x.device)
            layers[self.level[name]] = Layer(value=x.flatten(0, 1) if before.several else x)
        return raw, layers

    def _check(self, layers: Mapping[str, Layer]) -> None:
        for name, path in self.level.items():
            if path in layers:
                layers[path].check(name, path)


class Head:
    """The part of a model before the cut; made by `cut`."""

    def __init__(self, tail: Tail) -> None:
        self.tail = tail

    def __call__(self, inputs: Inputs, mask: Mapping[str, Tensor] | None = None) -> Inputs:
        """The inputs with features, detached and in eval mode, in place of what is cut.

        Raises ModelError for a submodule that does not run once, whose answer is no tensor with a row (or as many
        rows) a sample, or around which the input reaches the logits.
        """
        tail = self.tail
        missing = [name for name in tail.level if name not in inputs]
        if missing:
            raise ModelError(f"the head needs {missing}, the inputs are {sorted(inputs)}")
        with borrowed(tail.viewed) as net, torch.no_grad():
            features, before, logits = self._run(net, inputs, mask)
            first, tail.before = not tail.before, before
            if first:
                try:
                    self._check(net, inputs, mask, features, logits)
                except ModelError:
                    tail.before = {}
                    raise
        return {**inputs, **features}

    def _run(
        self, net: nn.Module, inputs: Inputs, mask: Mapping[str, Tensor] | None
    ) -> tuple[Inputs, dict[str, Before], Tensor]:
        layers = {path: Layer(net.get_submodule(path).forward) for path in self.tail.level.values()}
        logits = forward(with_layers(net, layers), inputs, mask).logits
        features: Inputs = {}
        before: dict[str, Before] = {}
        for name, path in self.tail.level.items():
            layer, x = layers[path], inputs[name]
            layer.check(name, path)
            rows, samples = layer.value.shape[0] if layer.value.dim() else 0, x.shape[0]
            if rows % max(samples, 1) or rows < samples:
                raise ModelError(
                    f"cut: {path!r} answers {rows} rows for {samples} samples of {name!r}, expected one each"
                )
            several = rows != samples
            features[name] = layer.value.unflatten(0, (samples, -1)) if several else layer.value
            before[name] = Before(tuple(x.shape[1:]), x.dtype, several)
        return features, before, logits

    def _check(
        self, net: nn.Module, inputs: Inputs, mask: Mapping[str, Tensor] | None, features: Inputs, logits: Tensor
    ) -> None:
        again = forward(self.tail, {**inputs, **features}, mask).logits
        if bool((again.isnan() & ~logits.isnan()).any()):
            raise ModelError(
                f"cut: inputs reach the logits around {list(self.tail.level.values())} (a skip connection, or "
                f"statistics of the raw input); cut where all of the modality passes"
            )
        several = [name for name in features if self.tail.before[name].several]
        if several:
            first = {n: x[:1] for n, x in inputs.items()}
            alone, _, _ = self._run(net, first, {n: m[:1] for n, m in (mask or {}).items()})
            for name in several:
                if not torch.allclose(alone[name], features[name][:1], rtol=1e-3, atol=1e-5):
                    raise ModelError(
                        f"cut: {self.tail.level[name]!r} answers several rows a sample of {name!r}, and not side by "
                        f"side; cut where samples lead"
                    )
