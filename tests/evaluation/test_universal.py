"""Universal perturbations of a whole set: the main row is of held-out samples; stopped runs go on; transfer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import crossguard as cg
from crossguard.core.files import read_json
from crossguard.data.base import Loader
from crossguard.evaluation.universal import judged, transfer_matrix, universal_attacks
from tests.training.toys import TASK, TwoBranch, splits

DATA = splits(80, weak=True)
THREAT = cg.ThreatModel(a=cg.Linf(0.8), b=cg.Linf(0.8))
TRAIN, TEST = Loader(DATA.train, 16, shuffle=True), Loader(DATA.test, 16)


def model(seed: int = 0, modalities: tuple[str, ...] = ("a", "b")) -> nn.Module:
    net = TwoBranch(modalities, seed=seed)
    config = cg.TrainConfig(epochs=4, batch_size=20, learning_rate=0.02)
    cg.train(net, DATA, task=TASK, threat=None, objective=cg.defences.Standard(), config=config)
    return net


def right(net: nn.Module, batch: cg.Batch) -> float:
    logits = net.eval()(batch.inputs).logits
    return float((TASK.margin(logits, batch.targets) > 0).float().mean())


def test_rows_are_of_test_data_and_in_sample(tmp_path: Path) -> None:
    net = model()
    found = universal_attacks(net, TRAIN, TEST, THREAT, task=TASK, out=tmp_path, epochs=3)
    assert list(found.test) == list(found.in_sample) == ["only:a", "only:b", "joint"]
    test, train = (part.read(range(len(part))) for part in (DATA.test, DATA.train))
    for name, perturbation in found.perturbations.items():
        assert found.test[name].value == pytest.approx(right(net, test.with_inputs(perturbation.apply(test.inputs))))
        moved = train.with_inputs(perturbation.apply(train.inputs))
        assert found.in_sample[name].value == pytest.approx(right(net, moved))
        assert bool(THREAT.contains(moved.inputs, train.inputs).all())
    assert found.clean.value == pytest.approx(right(net, test))
    assert found.test["joint"].value < found.clean.value
    said = read_json(tmp_path / "universal.json")
    assert said["conditions"]["joint"]["test"]["value"] == found.test["joint"].value


def test_a_finished_perturbation_is_read_back(tmp_path: Path) -> None:
    net = model()
    first = universal_attacks(net, TRAIN, TEST, THREAT, task=TASK, out=tmp_path, epochs=2)
    (tmp_path / "joint" / "perturbation.json").unlink()
    stages: list[int] = []
    again = universal_attacks(
        net, TRAIN, TEST, THREAT, task=TASK, out=tmp_path, epochs=2, progress=lambda s, n, k: stages.append(n)
    )
    for name, perturbation in first.perturbations.items():
        for modality, v in perturbation.values.items():
            assert torch.equal(again.perturbations[name].values[modality], v)
    assert stages == [1, 2, 3]
    assert not list(tmp_path.rglob("unfinished*"))
    with pytest.raises(cg.RunError, match="options differ"):
        universal_attacks(net, TRAIN, TEST, THREAT, task=TASK, out=tmp_path, epochs=3)
    with pytest.raises(cg.RunError, match="model differ"):
        universal_attacks(model(1), TRAIN, TEST, THREAT, task=TASK, out=tmp_path, epochs=2)
    other = Loader(splits(80, seed=5, weak=True).train, 16, shuffle=True)
    with pytest.raises(cg.RunError, match="train differ"):
        universal_attacks(net, other, TEST, THREAT, task=TASK, out=tmp_path, epochs=2)


def test_transfer_between_models() -> None:
    nets = {"both": model(), "only a": model(2, ("a",))}
    found = {n: universal_attacks(net, TRAIN, TEST, THREAT.only("a"), task=TASK, epochs=3) for n, net in nets.items()}
    perturbations = {n: f.perturbations["only:a"] for n, f in found.items()}
    matrix = transfer_matrix(nets, perturbations, TEST, task=TASK)
    for name in nets:
        assert matrix[name][name] == found[name].test["only:a"]
    other = universal_attacks(nets["both"], TRAIN, TEST, THREAT.only("b"), task=TASK, epochs=2)
    unread = judged(nets["only a"], {"clean": None, "b": other.perturbations["only:b"]}, TEST, task=TASK)
    assert unread["b"] == unread["clean"]


def test_an_empty_loader_is_refused() -> None:
    with pytest.raises(cg.InputError, match="no samples"):
        judged(TwoBranch(), {"clean": None}, [])


def test_where_one_modality_at_most_may_be_touched_nothing_joint_is_fitted() -> None:
    alone = cg.ThreatModel(THREAT.budgets, at_most=1)
    found = universal_attacks(TwoBranch(), TRAIN, TEST, alone, task=TASK, epochs=1)
    assert set(found.test) == {"only:a", "only:b"}
