"""Run folders made by hand after the Record's contract, so that the page is tested without training anything."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossguard import Linf, Modality, ThreatModel

BONES = ((0, 1), (1, 20), (20, 2), (2, 3), (20, 4), (4, 5), (5, 6), (6, 7), (20, 8), (8, 9), (9, 10), (10, 11),
         (0, 12), (12, 13), (13, 14), (14, 15), (0, 16), (16, 17), (17, 18), (18, 19))  # fmt: skip
_REST = {
    0: (0, 0), 1: (0, 0.25), 20: (0, 0.5), 2: (0, 0.6), 3: (0, 0.75), 4: (-0.2, 0.5), 5: (-0.28, 0.25),
    6: (-0.3, 0.02), 7: (-0.3, -0.06), 8: (0.2, 0.5), 9: (0.28, 0.25), 10: (0.3, 0.02), 11: (0.3, -0.06),
    12: (-0.1, 0), 13: (-0.12, -0.4), 14: (-0.12, -0.8), 15: (-0.16, -0.85), 16: (0.1, 0), 17: (0.12, -0.4),
    18: (0.12, -0.8), 19: (0.16, -0.85),
}  # fmt: skip
CAMERA = (0.9, 0.9, 0.5, 0.5)
RGB = Modality("rgb", "NCTHW", "intensity", bounds=(0.0, 1.0), rate=8.0)
SKELETON = Modality("skeleton", "NMTVC", "m", rate=8.0, bones=BONES, camera=CAMERA)
DEPTH = Modality("depth", "NCTHW", "mm", bounds=(0.0, 4000.0), rate=8.0)
INERTIAL = Modality("inertial", "NTD", "g", rate=50.0)
CLASSES = ("wave", "clap", "throw", "kick", "sit down", "stand up", "jump", "bow", "drink", "point")
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
FRAMES = 16


@cache
def figure(turn: float) -> NDArray[np.float32]:
    """(1, T, 25, 3) a waving figure, metres."""
    joints = np.zeros((1, FRAMES, 25, 3), np.float32)
    for t in range(FRAMES):
        lift = 0.5 + 0.5 * np.sin(2 * np.pi * t / FRAMES + turn)
        for v in range(25):
            x, y = _REST.get(v, _REST[7] if v in (21, 22) else _REST[11])
            if v in (9, 10, 11, 23, 24):
                y, x = y + lift * 0.75 * (0.55 - y), x + 0.1 * lift
            joints[0, t, v] = x * np.cos(turn), y, 3.0 + x * np.sin(turn)
    return joints


@cache
def picture(turn: float, size: int = 48) -> NDArray[np.float32]:
    """(3, T, H, W) a soft drawing of the figure."""
    joints = figure(turn)
    rows, columns = np.mgrid[:size, :size]
    video = np.empty((3, FRAMES, size, size), np.float32)
    for t in range(FRAMES):
        glow = np.zeros((size, size))
        for a, b in BONES:
            for s in np.linspace(0, 1, 6):
                x, y, z = joints[0, t, a] * (1 - s) + joints[0, t, b] * s
                u, v = size * (CAMERA[2] + CAMERA[0] * x / z), size * (CAMERA[3] - CAMERA[1] * y / z)
                glow = np.maximum(glow, np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / 3))
        ground = np.array([0.82, 0.80, 0.74])[:, None, None] * (1 - 0.3 * rows / size)
        shirt = np.array([0.25, 0.42, 0.62])[:, None, None]
        video[:, t] = ground * (1 - glow) + shirt * glow
    return video.clip(0, 1)


def _clean(name: str, turn: float, rng: np.random.Generator) -> NDArray[np.float32]:
    joints = figure(turn)
    if name == "rgb":
        return picture(turn)
    if name == "depth":
        # The sensor removed the background: 0 there, and masked out.
        body = picture(turn)[:1]
        return np.where(body < 0.6, 1000 + 2500 * body, 0).astype(np.float32)
    if name == "inertial":
        return np.pad(np.cumsum(rng.normal(0, 0.1, (50, 6)), axis=0), ((0, 10), (0, 0))).astype(np.float32)
    return joints


def make(
    folder: Path,
    name: str = "concat-standard",
    *,
    accuracy: tuple[float, float] = (0.92, 0.3),
    objective: str | None = "standard",
    modalities: tuple[Modality, ...] = (RGB, SKELETON),
    budgets: dict[str, Linf] | None = None,
    classes: tuple[str, ...] = CLASSES,
    samples: int = 120,
    groups: bool = True,
    clips: int = 2,
    weights: bool = False,
    complete: bool = True,
    multi_label: bool = False,
    flags: tuple[dict[str, Any], ...] = (),
    seed: int = 0,
) -> Path:
    """Write one run folder; `accuracy` is (clean, at scale 1 with one modality attacked)."""
    rng = np.random.default_rng(seed)
    data = np.random.default_rng(99)
    names = [m.name for m in modalities]
    default = {"rgb": Linf(8 / 255, bounds=(0, 1)), "skeleton": Linf(0.02), "depth": Linf(40.0), "inertial": Linf(0.1)}
    threat = ThreatModel({n: (budgets or default)[n] for n in names})
    only = [f"only:{n}" for n in names]
    conditions = ["clean", *(f"missing:{n}" for n in names), "noise", *only, "any_one", "joint"]
    if not complete:
        conditions.remove("joint")
    targets = data.integers(0, len(classes), samples)
    sample: dict[str, NDArray[Any]] = {
        "ids": np.array([f"clip-{i:03d}" for i in range(samples)]),
        "groups": np.array([f"subject-{i % 8}" if groups else "" for i in range(samples)]),
        "targets": targets,
    }
    strength = rng.normal(0, 1, samples)
    offset = {"clean": accuracy[0], "noise": accuracy[0] - 0.03}
    for i, n in enumerate(names):
        offset[f"missing:{n}"] = accuracy[0] - 0.2 - 0.15 * i
    right: dict[str, NDArray[np.bool_]] = {}
    broken: dict[str, NDArray[np.float32]] = {}
    grid = np.array([0, *SCALES, np.inf], np.float32)
    right["clean"] = strength > np.quantile(strength, 1 - accuracy[0])
    for i, c in enumerate(only):
        limit = np.exp(rng.normal(np.log(0.4 + 3 * accuracy[1] + 0.3 * i), 0.9, samples)) * np.exp(0.3 * strength)
        broken[c] = np.where(right["clean"], grid[1:][np.searchsorted(SCALES, limit)], 0).astype(np.float32)
    broken["any_one"] = np.min([broken[c] for c in only], axis=0)
    broken["joint"] = np.where(rng.random(samples) < 0.4, broken["any_one"] / 2, broken["any_one"]).astype(np.float32)
    broken["joint"][(broken["joint"] < 0.25) & (broken["joint"] > 0)] = 0.25
    broken["joint"][np.isinf(broken["joint"])] = SCALES[-1]
    for c in conditions:
        ok = broken[c] > 1 if c in broken else right.setdefault(c, rng.random(samples) < offset[c])
        wrong = (targets + rng.integers(1, len(classes), samples)) % len(classes)
        sample[f"prediction/{c}"] = np.where(ok, targets, wrong).astype(np.int64)
        sample[f"margin/{c}"] = (np.where(ok, 1, -1) * rng.gamma(2, 1, samples)).astype(np.float32)
        if c in broken and c != "any_one":
            sample[f"broken_at/{c}"] = broken[c]
        if multi_label:
            scores = rng.normal(0, 1, (samples, len(classes)))
            scores[np.arange(samples), sample[f"prediction/{c}"]] += 5
            sample[f"scores/{c}"] = scores.astype(np.float32)
        if weights and (c == "clean" or c in broken):
            share = rng.beta(8, 4 if c == "only:skeleton" else 8, samples)
            for n, w in zip(names, (2 * share, 2 - 2 * share), strict=False):
                sample[f"weight/{c}/{n}"] = w.astype(np.float32)
        if c == "clean" or c in broken:
            for i, n in enumerate(names):
                sample[f"contribution/{c}/{n}"] = rng.normal(2 - i - (c == f"only:{n}"), 1, samples).astype(np.float32)
    if multi_label:
        sample["targets"] = np.eye(len(classes), dtype=np.int64)[targets]
    stored: dict[str, NDArray[Any]] = {}
    listed: list[dict[str, Any]] = []
    for i in range(clips):
        data = np.random.default_rng(1000 + i)
        attacked = [c for c in (*only, "joint") if c in conditions]
        for m in modalities:
            clean = _clean(m.name, 0.5 * i - 0.4, data)
            stored[f"{i}/{m.name}/clean"] = clean
            if m.name == "skeleton":
                mask = np.ones(clean.shape[:3], bool)
                mask[:, :3, 7] = False
                stored[f"{i}/{m.name}/mask"] = mask
            elif m.name == "depth":
                stored[f"{i}/{m.name}/mask"] = clean > 0
            elif m.name == "inertial":
                stored[f"{i}/{m.name}/mask"] = np.arange(60) < 50
            for c in attacked:
                if c in (f"only:{m.name}", "joint"):
                    step = threat.declared[m.name].eps * np.sign(rng.normal(0, 1, clean.shape))
                    low, high = m.bounds or (-np.inf, np.inf)
                    real = stored.get(f"{i}/{m.name}/mask", np.ones(clean.shape, bool))
                    step = np.where(real.reshape(real.shape + (1,) * (clean.ndim - real.ndim)), step, 0)
                    stored[f"{i}/{m.name}/{c}"] = (clean + step).clip(low, high).astype(np.float32)
                else:
                    stored[f"{i}/{m.name}/{c}"] = clean
        said = {c: int(sample[f"prediction/{c}"][i]) for c in ["clean", *attacked]}
        listed.append({
            "index": i, "id": str(sample["ids"][i]), "group": str(sample["groups"][i]),
            "target": int(targets[i]), "predictions": said,
            "margins": {c: float(sample[f"margin/{c}"][i]) for c in said},
        })  # fmt: skip
    meta: dict[str, Any] = {
        "format": 1, "name": name, "created": "2026-01-02T03:04:05+00:00", "seed": seed, "complete": complete,
        "task": {"kind": "multi_label" if multi_label else "single_label", "classes": len(classes)},
        "classes": list(classes),
        "modalities": {m.name: m.to_dict() for m in modalities},
        "threat": threat.to_dict(),
        "protocol": {"steps": 40, "restarts": 2, "scales": list(SCALES), "clips": clips},
        "model": {"description": "two branches, concatenated", "parameters": 412_345, "takes_mask": True,
                  "missing_fill": "mask"},
        "recipe": {"model": {"fusion": {"name": "concat"}}, "training": {"epochs": 12}},
        "training": None if objective is None else {
            "objective": objective, "attacked": None if objective == "standard" else "random subset",
            "seconds": 38.2 if objective == "standard" else 141.0, "forwards": 12_000, "backwards": 12_000,
            "cpu_seconds": 30.5 if objective == "standard" else 120.0,
            "peak_memory_mb": 512.0,
        },
        "scales": list(SCALES), "conditions": conditions,
        "work": {c: {"forwards": 1000, "backwards": 800 if c in broken else 0, "seconds": 3.5} for c in conditions},
        "latency": {"milliseconds_per_sample": 1.8, "batch": 32},
        "environment": {"python": "3.11.9", "torch": "2.13.0", "crossguard": "0.1.0", "platform": "Linux",
                        "processor": "x86_64", "threads": 2},
        "flags": list(flags),
        "checks": {"noise_weaker_than_attack": {"modality": None, "passed": not flags, "noise": 0.9, "attack": 0.4},
                   "larger_budget_never_helps": {"modality": None, "passed": True}},
        "clips": listed,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").write_text(json.dumps(meta), encoding="utf-8")
    np.savez_compressed(folder / "samples.npz", **sample)
    np.savez_compressed(folder / "clips.npz", **stored)
    return folder
