"""A training that was killed ends in the same bits, whatever its objective remembers from step to step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import crossguard as cg
from crossguard.defences import OBJECTIVES, Adversarial, Fast, Free, Mixup, MixupAdversarial, Noise, Objective, Trades
from crossguard.training import TrainConfig
from tests.training.toys import TASK, THREAT, TwoBranch, same_weights, splits

REMEMBERING: dict[str, Callable[[], Objective]] = {
    "adversarial": lambda: Adversarial(steps=2, attacked="random"),
    "fast": lambda: Fast(probe_every=2, gap=0.01, relief=3),
    "free": lambda: Free(replays=4),
    "mixup": lambda: Mixup(guide="density", every=2, at="bottleneck"),
    "mixup_adversarial": lambda: MixupAdversarial(guide="convexity", every=2, steps=2, lambdas="separate"),
    "noise": Noise,
    "standard": OBJECTIVES["standard"],
    "trades": lambda: Trades(steps=2),
}


class StopError(Exception):
    pass


def test_every_objective_is_tried_that_needs_no_attention_maps() -> None:
    assert {*REMEMBERING, "attention_regularization"} == set(OBJECTIVES)


@pytest.mark.filterwarnings("ignore:step")
@pytest.mark.parametrize("name", REMEMBERING)
@pytest.mark.parametrize("stop", [5, 6, 7])
def test_resumes_to_the_same_bits(tmp_path: Path, name: str, stop: int) -> None:
    """Killed within the second and the third epoch, and right between them."""

    def run(out: Path | None, stop: int | None) -> dict[str, Tensor]:
        def said(progress: Any) -> None:
            if progress.step == stop and progress.accuracy is None:
                raise StopError

        config = TrainConfig(epochs=4, batch_size=20, checkpoint_every=1, validation_steps=1)
        return cg.train(
            TwoBranch(), splits(), task=TASK, threat=THREAT, objective=REMEMBERING[name](), config=config, out=out,
            progress=said,
        ).model.state_dict()  # fmt: skip

    whole = run(None, None)
    with pytest.raises(StopError):
        run(tmp_path, stop)
    assert same_weights(run(tmp_path, None), whole)


@pytest.mark.filterwarnings("ignore:step")
@pytest.mark.parametrize("name", REMEMBERING)
def test_an_objective_that_was_used_before_trains_as_a_new_one(name: str) -> None:
    objective, config = REMEMBERING[name](), TrainConfig(epochs=2, batch_size=16, learning_rate=0.1, validation_steps=1)
    first, again = (
        cg.train(TwoBranch(), splits(), task=TASK, threat=THREAT, objective=objective, config=config).model.state_dict()
        for _ in range(2)
    )
    assert same_weights(first, again)
