"""Threat models as YAML: every norm and constraint, ratios, and each problem with its path."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

import crossguard as cg
from crossguard.recipe.threat import read_threat, write_threat
from crossguard.recipe.validation import Problems

YAML = """
rgb:
  norm: l1
  eps: 12
  bounds: [0, 1]
  constraints:
    - {kind: codes, levels: 256}
    - {kind: region, window: [[0, 8], null]}
    - {kind: region, pattern: [[true, false]]}
skeleton:
  norm: linf
  eps: 0.02
  constraints:
    - {kind: bone_lengths, edges: ntu-25, tolerance: 5/100}
    - {kind: joint_weights, weights: [1, 1/2]}
    - {kind: fixed_joints}
    - {kind: acceleration, limit: 0.01, axis: 2, relative: true}
    - {kind: frames, k: 4, axis: 2}
audio: {norm: snr, eps: 30, floor: 0.1}
events: {norm: l0, eps: 10, amplitude: 1/2}
frames: {k: 4, axes: {rgb: 2, skeleton: 2}}
at_most: 2
"""


def read(given: Any) -> tuple[cg.ThreatModel | None, list[str]]:
    problems = Problems()
    return read_threat(given, "threat", problems), problems.found


def test_all_of_it_is_read_and_written() -> None:
    threat, problems = read(yaml.safe_load(YAML))
    assert not problems
    assert threat == cg.ThreatModel(
        rgb=cg.L1(
            12.0,
            bounds=(0, 1),
            constraints=(cg.PIXELS8, cg.Region(((0, 8), None)), cg.Region(pattern=[[True, False]])),
        ),
        skeleton=cg.Linf(
            0.02,
            constraints=(
                cg.BoneLengths("ntu-25", 0.05),
                cg.JointWeights((1.0, 0.5)),
                cg.FixedJoints(),
                cg.Acceleration(0.01, axis=2, relative=True),
                cg.Frames(4, axis=2),
            ),
        ),
        audio=cg.SNR(30.0, floor=0.1),
        events=cg.L0(10.0, amplitude=0.5),
        frames=cg.AlignedFrames(4, {"rgb": 2, "skeleton": 2}),
        at_most=2,
    )
    assert threat is not None
    assert read(json.loads(json.dumps(write_threat(threat)))) == (threat, [])


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({"kind": "frames"}, "threat.rgb.constraints: found {'kind': 'frames'}, expected a list"),
        (["frames"], "threat.rgb.constraints[0].k: missing; expected a whole number"),
        ([{"kind": "frame"}], "threat.rgb.constraints[0].kind: unknown name 'frame'; did you mean 'frames'?"),
        ([7], "threat.rgb.constraints[0]: found 7, expected {kind: …}"),
        ([{"kind": "frames", "k": -1, "axis": 2}], "threat.rgb.constraints[0]: Frames: k is -1"),
        ([{"kind": "frames", "k": 1.5, "axis": 2}], "threat.rgb.constraints[0].k: found 1.5, expected a whole number"),
        ([{"kind": "codes", "levels": 9}] * 2, "threat.rgb: Linf: codes is given more than once"),
    ],
)
def test_what_constraints_cannot_be(constraints: Any, message: str) -> None:
    threat, problems = read({"rgb": {"norm": "linf", "eps": 1, "constraints": constraints}})
    assert threat is None
    assert any(problem.startswith(message) for problem in problems), problems


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (3, "threat.frames: found 3, expected a mapping with k, axes, steps"),
        ({"k": 1}, "threat.frames.axes: missing"),
        ({"k": 1, "axes": {"depth": 2}}, "threat: the aligned frames name 'depth'"),
        ({"k": 1, "axes": {}}, "threat.frames: AlignedFrames: found k=1"),
        ({"k": 1, "axes": {"rgb": 1}, "step": 2}, "threat.frames.step: unknown key"),
    ],
)
def test_what_aligned_frames_cannot_be(frames: Any, message: str) -> None:
    threat, problems = read({"rgb": {"norm": "linf", "eps": 1}, "frames": frames})
    assert threat is None
    assert any(problem.startswith(message) for problem in problems), problems
