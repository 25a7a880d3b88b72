"""When and from what the external memory is filled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from crossguard.defences import Adversarial, Standard
from crossguard.models.fusion import Concat, ExFMem
from crossguard.training import TrainConfig, train
from tests.defences.test_defences import context_of
from tests.defences.test_terms import model_of
from tests.training.toys import TASK, THREAT, TwoBranch, dataset, splits


def test_it_holds_the_features_of_training_samples() -> None:
    fusion = ExFMem(size=200, iterations=2)
    model, data, context = model_of(fusion), dataset("toy", 150, 0), context_of()
    model.train()
    before = torch.get_rng_state()
    Standard().epoch_start(model, data, context)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert context.work.forwards == 150
    model.eval()
    for name in "ab":
        memory: Any = fusion.memories[name]
        encoder: Any = model.encoders[name]
        features = encoder(data.inputs[name]).mean(2)
        torch.testing.assert_close(memory.dictionary[:, :150], features.T)
        assert not memory.dictionary[:, 150:].any()
        assert memory.filled == 1


def test_a_small_memory_draws_samples_by_the_seed() -> None:
    def columns(seed: int) -> torch.Tensor:
        fusion = ExFMem(size=20, iterations=2)
        model = model_of(fusion)
        Adversarial().epoch_start(model, dataset("toy", 150, 0), context_of(seed=seed))
        memory: Any = fusion.memories["a"]
        return memory.dictionary.clone()

    assert torch.equal(columns(1), columns(1))
    assert not torch.equal(columns(1), columns(2))


def test_absent_samples_give_no_features_and_others_are_drawn_in_their_place() -> None:
    fusion, context = ExFMem(size=20, iterations=2), context_of()
    there = torch.arange(150) % 4 == 0
    data = replace(dataset("toy", 150, 0), mask={"b": there})
    Standard().epoch_start(model_of(fusion), data, context)
    memories: Any = fusion.memories
    assert bool(memories["b"].dictionary.any(dim=0).all()), "every column is a feature"
    assert 20 < context.work.forwards < 150
    complete: Any = ExFMem(size=20, iterations=2)
    Standard().epoch_start(model_of(complete), dataset("toy", 150, 0), context_of())
    assert torch.equal(memories["a"].dictionary, complete.memories["a"].dictionary)


def test_the_memory_of_a_modality_that_is_never_there_stays_empty() -> None:
    fusion: Any = ExFMem(size=5, iterations=2)
    context = context_of()
    data = replace(dataset("toy", 150, 0), mask={"b": torch.zeros(150, dtype=torch.bool)})
    Standard().epoch_start(model_of(fusion), data, context)
    assert [int(fusion.memories[name].filled) for name in "ab"] == [1, 0]
    assert context.work.forwards < 150, "not the whole set is looked through"


@pytest.mark.parametrize(("frozen_from", "filled"), [(0.0, [0]), (0.5, [0, 1]), (1.0, [0, 1, 2, 3])])
def test_it_is_frozen_when_it_is_said_to_be(frozen_from: float, filled: list[int]) -> None:
    model = model_of(ExFMem(size=20, iterations=2, frozen_from=frozen_from))
    data, paid = dataset("toy", 30, 0), []
    for epoch in range(4):
        context = context_of(epoch=epoch, epochs=4)
        Standard().epoch_start(model, data, context)
        paid.append(context.work.forwards > 0)
    assert [epoch for epoch, done in enumerate(paid) if done] == filled


def test_other_models_are_left_alone() -> None:
    for model in (model_of(Concat()), TwoBranch()):
        context = context_of()
        Standard().epoch_start(model, dataset("toy", 30, 0), context)
        assert context.work.forwards == 0


def test_the_kept_weights_come_with_their_memory() -> None:
    """After training, the best weights answer through a filled dictionary, and the branches learned the task."""
    model = model_of(ExFMem(size=32, iterations=3, width=6))
    config = TrainConfig(epochs=12, batch_size=20, learning_rate=1e-2, validation_steps=2)
    objective = Adversarial(steps=1, terms={"similarity": 0.1})
    result = train(model, splits(), task=TASK, threat=THREAT, objective=objective, config=config)
    fusion: Any = model.fusion
    assert all(memory.filled == 1 and memory.rate > 0 for memory in fusion.memories.values())
    assert result.accuracy.clean > 0.8
