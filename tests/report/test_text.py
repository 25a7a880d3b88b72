"""Units, budgets and flags in plain words."""

from __future__ import annotations

import pytest

from crossguard import L0, L1, L2, SNR, BoneLengths, FixedJoints, Linf, Modality
from crossguard.report import text
from crossguard.threat import Budget
from tests.report.synthetic import DEPTH, INERTIAL, RGB, SKELETON


@pytest.mark.parametrize(
    ("value", "unit", "bounds", "words"),
    [
        (0.02, "m", None, "2.0 cm"),
        (0.0125, "m", None, "1.25 cm"),
        (0.1, "m", None, "10.0 cm"),
        (0.00125, "m", None, "1.25 mm"),
        (0.0025, "m", None, "2.5 mm"),
        (0.005, "m", None, "5 mm"),
        (0.0004, "m", None, "0.4 mm"),
        (1.5, "metres", None, "1.5 m"),
        (0.0, "m", None, "0.0 cm"),
        (8 / 255, "intensity", (0.0, 1.0), "8/255"),
        (2.5 / 255, "intensity", (0.0, 1.0), "2.5/255"),
        (0.01, "intensity", (0.0, 1.0), "0.01"),
        (40.0, "mm", (0.0, 4000.0), "40 mm"),
        (0.1, "g", None, "0.1 g"),
        (0.3, "", None, "0.3"),
    ],
)
def test_amounts_are_said_in_their_unit(
    value: float, unit: str, bounds: tuple[float, float] | None, words: str
) -> None:
    assert text.amount(value, unit, bounds) == words


@pytest.mark.parametrize(
    ("modality", "budget", "scale", "words"),
    [
        (RGB, Linf(8 / 255, bounds=(0, 1)), 1, "up to 8/255 of intensity on every pixel of rgb"),
        (RGB, Linf(8 / 255, bounds=(0, 1)), 0.25, "up to 2/255 of intensity on every pixel of rgb"),
        (RGB, Linf(8 / 255, bounds=(0, 1)), 64, "up to 255/255 (anything) of intensity on every pixel of rgb"),
        (SKELETON, Linf(0.02), 1, "up to 2.0 cm on every joint coordinate of skeleton"),
        (DEPTH, Linf(40.0), 2, "up to 80 mm on every pixel of depth"),
        (INERTIAL, Linf(0.1), 1, "up to 0.1 g on every value of inertial"),
        (INERTIAL, L2(0.5), 1, "a change of inertial with a Euclidean length of up to 0.5 g"),
        (INERTIAL, L1(0.5), 1, "a change of inertial with a sum of absolute values of up to 0.5 g"),
        (INERTIAL, L0(9, amplitude=0.1), 0.5, "up to 4 values of inertial"),
        (INERTIAL, SNR(30), 2, "a change of inertial at least 24 dB below the signal"),
        (INERTIAL, SNR(30).scaled(0), 1, "a change of inertial at least inf dB below the signal"),
        (
            SKELETON,
            Linf(0.02, constraints=(FixedJoints(), BoneLengths("ntu-25"))),
            1,
            "up to 2.0 cm on every joint coordinate of skeleton (limited by fixed joints and bone lengths)",
        ),
    ],
)
def test_budgets_are_said_in_a_sentence(modality: Modality, budget: Budget, scale: float, words: str) -> None:
    assert text.budget_words(modality, budget.to_dict(), scale) == words


@pytest.mark.parametrize(
    ("words", "said"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_listing(words: list[str], said: str) -> None:
    assert text.listing(words) == said


@pytest.mark.parametrize(("seconds", "said"), [(0.0042, "4 ms"), (38.2, "38.2 s"), (600, "10.0 min"), (9000, "2.5 h")])
def test_durations(seconds: float, said: str) -> None:
    assert text.duration(seconds) == said


def test_flags_and_checks_that_are_new_keep_their_names() -> None:
    assert text.flag_words("attack_not_converged") == "The attack had not finished"
    assert text.flag_words("something_new") == "Something new"
    assert text.check_words("more_steps/only:rgb") == "more steps change nothing (only rgb)"
    assert text.check_words("something_new") == "something new"


def test_not_measured_is_a_dash_and_not_a_number() -> None:
    assert text.percent(None) == text.percent(float("nan")) == text.NOTHING
    assert text.percent(0.4789) == "47.9"
    assert text.points(-3.21) == "\N{MINUS SIGN}3.2"
