"""The Record: one self-describing folder that says all of an evaluation; every figure and page is a function of it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crossguard.core import RunError
from crossguard.core.files import read_json, read_npz, write_json, write_npz
from crossguard.core.task import decided
from crossguard.evaluation import metrics
from crossguard.evaluation.metrics import Weighted
from crossguard.evaluation.statistics import Estimate, difference, of_draws, of_means, share

FORMAT = 1
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Flag:
    """Something that makes the figures doubtful, in plain words; `modality` where it concerns one alone."""

    name: str
    modality: str | None
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"name": self.name, "modality": self.modality, "detail": self.detail}


class Clips(Mapping[str, Array]):
    """The arrays of an npz, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self._names = [name.removesuffix(".npy") for name in archive.namelist()]
        except (OSError, zipfile.BadZipFile) as error:
            raise RunError(f"could not read {path}: {error}") from error

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                return archive[name]
        except Exception as error:  # zipfile, zlib and numpy each raise their own
            raise RunError(f"could not read {name} of {self.path}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Record:
    """`meta` (JSON), `samples` (arrays by "prediction/only:rgb" and the like), `clips` ("0/rgb/clean", float32)."""

    meta: dict[str, Any]
    samples: dict[str, Array]
    clips: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Record:
        """Read a run folder; raises RunError where it is missing, damaged or of another format."""
        folder = Path(path)
        meta = read_json(folder / "record.json")
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            found = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
            raise RunError(f"{folder / 'record.json'} has format {found!r}, expected {FORMAT}: evaluate again")
        samples = read_npz(folder / "samples.npz")
        lacking = [c for c in meta["conditions"] if f"margin/{c}" not in samples]
        if lacking:
            raise RunError(f"{folder / 'samples.npz'} lacks the condition {lacking[0]!r} that record.json names")
        clips = folder / "clips.npz"
        return cls(meta, samples, Clips(clips) if clips.exists() else {})

    def save(self, path: str | Path) -> None:
        """Write the run folder; record.json comes last, so that a folder with one is whole."""
        folder = Path(path)
        write_npz(folder / "samples.npz", self.samples)
        same = isinstance(self.clips, Clips) and self.clips.path.resolve() == (folder / "clips.npz").resolve()
        if self.clips and not same:
            write_npz(folder / "clips.npz", dict(self.clips))
        write_json(folder / "record.json", self.meta)

    @property
    def name(self) -> str:
        """What the run is called."""
        return str(self.meta["name"])

    @property
    def conditions(self) -> list[str]:
        """The rows of the evaluation, clean first."""
        return list(self.meta["conditions"])

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the logits."""
        return list(self.meta["classes"])

    @property
    def attacked(self) -> list[str]:
        """The modalities that were attacked, in the order of the threat model."""
        return [c.removeprefix("only:") for c in self.conditions if c.startswith("only:")]

    @property
    def multi_label(self) -> bool:
        """Whether a sample may have several classes."""
        return self.meta["task"]["kind"] == "multi_label"

    @property
    def metric(self) -> str:
        """What models are compared by, and Avg, RI and reliance are made of: "accuracy", of several labels "gap"."""
        return "gap" if self.multi_label else "accuracy"

    @property
    def flags(self) -> list[Flag]:
        """What makes the figures doubtful; empty when nothing does."""
        return [Flag(f["name"], f["modality"], f["detail"]) for f in self.meta["flags"]]

    @property
    def scales(self) -> list[float]:
        """The common scales of the budgets at which the curve was measured, without 0."""
        return [float(s) for s in self.meta["scales"]]

    def __len__(self) -> int:
        return len(self.samples["targets"])

    @property
    def groups(self) -> Array | None:
        """(N,) labels of what intervals keep together."""
        return self.samples.get("groups")

    def right(self, condition: str) -> Array:
        """(N,) bool: which samples the model still gets right; of several labels, whether the best class is true."""
        if f"margin/{condition}" not in self.samples:
            raise RunError(f"the record {self.name!r} has no condition {condition!r}; it has {self.conditions}")
        return self._settled(self.samples[f"margin/{condition}"] > 0, False, True)

    def _settled(self, found: Array, never: Any, always: Any) -> Array:
        """See `decided`."""
        if not self.multi_label:
            return found
        return decided(torch.as_tensor(found), torch.as_tensor(self.samples["targets"]), never, always).numpy()

    def summary(self) -> dict[str, dict[str, Estimate]]:
        """Condition -> metric -> Estimate: "accuracy", or "gap", "hit@1", "map" and "perr" for several labels."""
        return self._summary

    @cached_property
    def _summary(self) -> dict[str, dict[str, Estimate]]:
        names = ("gap", "hit@1", "map", "perr") if self.multi_label else ("accuracy",)
        return {c: {name: self.figure(c, name) for name in names} for c in self.conditions}

    def figure(self, condition: str, metric: str | None = None) -> Estimate:
        """One of `summary`, and no other is computed; None: the `metric`.

        The interval of MAP is reflected: a class that few samples have is ranked too well where one of them is drawn
        twice, so that draws lie above the value, and their quantiles above the truth.
        """
        name, known = metric or self.metric, self._figures
        if (condition, name) not in known:
            if name in ("accuracy", "hit@1"):
                known[condition, name] = share(self.right(condition), self.groups)
            else:
                known[condition, name] = of_draws(
                    self._draws(condition, name), len(self), self.groups, limits=(0.0, 1.0), reflect=name == "map"
                )
        return known[condition, name]

    @cached_property
    def _figures(self) -> dict[tuple[str, str], Estimate]:
        return {}

    def ranked(self, condition: str, metric: str = "gap", times: Array | None = None) -> Array:
        """(S,) a metric of several labels, one value a training, where every sample counts `times` (N,); None: once."""
        known = self._rerankings
        # Every figure of a record draws the same samples again, and many are made of the same metric.
        drawn = b"" if times is None else np.asarray(times, dtype=np.float64).tobytes()
        key = (condition, metric, blake2b(drawn, digest_size=16).digest())
        if key not in known:
            known[key] = self._rankings(condition)[metric](times)
        return np.array([known[key]])

    @cached_property
    def _rerankings(self) -> dict[tuple[str, str, bytes], float]:
        return {}

    def _draws(self, condition: str, metric: str) -> Callable[[Array | None], Array]:
        return lambda times: self.ranked(condition, metric, times)

    def _rankings(self, condition: str) -> dict[str, Weighted]:
        """Ranked once, however often they are drawn again."""
        known: dict[str, dict[str, Weighted]] = self._ranked
        if condition not in known:
            if f"scores/{condition}" not in self.samples:
                raise RunError(f"the record {self.name!r} has no scores of {condition!r}; it has {self.conditions}")
            known[condition] = metrics.ranked(self.samples[f"scores/{condition}"], self.samples["targets"])
        return known[condition]

    @cached_property
    def _ranked(self) -> dict[str, dict[str, Weighted]]:
        return {}

    def curve(self, condition: str) -> list[tuple[float, Estimate]]:
        """(scale, share still right) from scale 0 (clean) on, for only:m, any_one and joint."""
        broken = self.broken_at(condition)
        return [(scale, share(broken > scale, self.groups)) for scale in (0.0, *self.scales)]

    def broken_at(self, condition: str) -> Array:
        """(N,) the smallest scale that fooled each sample: 0 wrong when clean, inf never."""
        if condition == "any_one":
            # Where nothing may be attacked, all that can be said is what is wrong when clean.
            singles = [f"only:{m}" for m in self.attacked] or ["joint"]
            return self._settled(np.min([self.samples[f"broken_at/{c}"] for c in singles], axis=0), 0.0, np.inf)
        if f"broken_at/{condition}" not in self.samples:
            raise RunError(f"the record {self.name!r} has no curve of {condition!r}; expected only:…, any_one or joint")
        return self._settled(self.samples[f"broken_at/{condition}"], 0.0, np.inf)

    def broken_by(self, condition: str) -> dict[str, int]:
        """Stage -> samples that it broke at scale 1 or below, the most first: only:m, any_one and joint.

        "clean" were wrong already; meta["stages"] says how a stage went, the samples' "broken_with" which modalities
        were touched, "forwards" and "backwards" at what cost. Empty for records of before this was kept.
        """
        found = self.samples.get(f"broken_by/{condition}", np.zeros(0, dtype=np.str_))
        names, counts = np.unique(found[found != ""], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return {str(names[i]): int(counts[i]) for i in order}

    def by_class(self, condition: str) -> list[Estimate]:
        """One Estimate a class: share right among its samples (single- and multi-label); undefined without any."""
        right, truth = self.right(condition), self.samples["targets"]
        groups = self.groups
        found: list[Estimate] = []
        for c in range(len(self.classes)):
            rows = truth[:, c] > 0 if truth.ndim == 2 else truth == c
            found.append(share(right[..., rows], None if groups is None or not groups.size else groups[rows]))
        return found

    def average(self) -> Estimate:
        """Avg: the mean of only:m over the attacked modalities and joint."""
        return self._of([self.averaged], lambda means: means[..., 0])

    def _of(self, parts: Sequence[Sequence[str]], function: Callable[[Array], Array], least: float = 0.0) -> Estimate:
        """`function` ((…, K) -> (…), in [`least`, 1]) of K figures, each the mean of the `metric` over conditions."""
        if self.multi_label:

            def found(times: Array | None) -> Array:
                each = [np.mean([self.ranked(c, times=times) for c in part], axis=0) for part in parts]
                return function(np.stack(each, axis=-1))

            return of_draws(found, len(self), self.groups, limits=(least, 1.0))
        columns = [np.mean([self.right(c) for c in part], axis=0) for part in parts]
        return of_means(np.stack(columns, axis=-1), function, self.groups, limits=(least, 1.0))

    @property
    def averaged(self) -> list[str]:
        """The conditions that Avg and RI are taken over."""
        return [*(f"only:{m}" for m in self.attacked), "joint"]

    def balance(self) -> dict[str, Estimate]:
        """gap = max_m A_m - min_m A_m and ratio = min/max over only:m; empty for fewer than two attacked modalities.

        A largest difference is hardly ever drawn as 0, even where all are alike: the gap's interval leaves 0 out, and
        the ratio's 1, only as far as that of a difference A_i - A_j does. Read it beside `reliance`: a model that
        ignores a modality is balanced too.
        """
        if len(self.attacked) < 2:
            return {}

        def gap(means: Array) -> Array:
            return means.max(axis=-1) - means.min(axis=-1)

        def ratio(means: Array) -> Array:
            # Equal zeros are balanced.
            top = means.max(axis=-1)
            return np.where(top > 0, means.min(axis=-1) / np.where(top > 0, top, 1.0), 1.0)

        singles = [[f"only:{m}"] for m in self.attacked]
        whole, part = self._of(singles, gap), self._of(singles, ratio)
        if whole.defined:
            pairs = combinations(singles, 2)
            apart = [self._of(two, lambda means: means[..., 0] - means[..., 1], -1.0) for two in pairs]
            whole = replace(whole, low=max(0.0, *(max(e.low, -e.high) for e in apart)))
            part = part if whole.low else replace(part, high=1.0)
        return {"gap": whole, "ratio": part}

    def reliance(self) -> dict[str, Estimate]:
        """Modality -> what the model loses without it: clean minus missing, paired by sample."""
        names = [c.removeprefix("missing:") for c in self.conditions if c.startswith("missing:")]
        if self.multi_label:
            parts = {m: [["clean"], [f"missing:{m}"]] for m in names}
            return {m: self._of(both, lambda means: means[..., 0] - means[..., 1], -1.0) for m, both in parts.items()}
        clean = self.right("clean")
        return {m: difference(clean, self.right(f"missing:{m}"), self.groups) for m in names}


__all__ = ["Clips", "Estimate", "Flag", "Record"]
