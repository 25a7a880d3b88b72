"""The comparison with other libraries: its judge and its models here, the libraries where their environment is."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import crossguard as cg

ROOT = Path(__file__).parents[1]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"peers_{name}", ROOT / "benchmarks" / "peers" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Sign(nn.Module):
    """Class 1 where the first value is above one half."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([0.5 - x[:, 0], x[:, 0] - 0.5], dim=1)


@pytest.fixture
def compare() -> ModuleType:
    return load("compare")


@pytest.mark.parametrize(
    ("x", "y", "point", "stands"),
    [
        (0.55, 1, 0.45, False),  # fooled within the radius of 0.1
        (0.55, 1, 0.56, True),
        (0.65, 1, 0.45, True),  # it would have to go further than it may
        (0.02, 0, -0.05, True),
        (0.55, 1, float("nan"), True),
        (0.55, 0, 0.45, False),  # wrong to begin with, whatever an attack makes of it
    ],
)
def test_the_judge_believes_only_points_within_the_budget(
    compare: ModuleType, x: float, y: int, point: float, stands: bool
) -> None:
    left = compare.standing(Sign(), torch.tensor([[x]]), torch.tensor([y]), torch.tensor([[point]]), eps=0.1)
    assert left.tolist() == [stands]


def test_all_attacks_of_a_round_have_the_same_seed_and_a_refusal_is_told(compare: ModuleType) -> None:
    x, y = torch.full((5, 1), 0.55), torch.ones(5, dtype=torch.int64)
    drawn: dict[str, list[float]] = {"a": [], "b": []}

    def draws(name: str) -> object:
        def attack(x: Tensor, y: Tensor) -> Tensor:
            drawn[name].append(torch.rand(()).item())
            return x - 0.1

        return attack

    def refuses(x: Tensor, y: Tensor) -> Tensor:
        raise ValueError("needs images\nand more")

    runs = compare.race({"a": draws("a"), "c": refuses, "b": draws("b")}, Sign(), x, y, 0.1, rounds=3, warm_up=True)
    assert drawn["a"] == drawn["b"]
    assert len(set(drawn["a"])) == 3  # the warm-up is the first round's twin
    assert len(runs["a"].seconds) == 3
    assert runs["a"].robust == [0, 0, 0]
    assert runs["c"].failed == "ValueError: needs images"


def test_ratios_are_of_the_same_round_and_the_worst_round_counts(compare: ModuleType) -> None:
    ours, theirs = compare.Runs([1.0, 4.0, 9.0], [50.0, 52.0, 50.0]), compare.Runs([2.0, 4.0, 3.0], [50.0, 51.0, 55.0])
    assert compare.ratio(ours, theirs) == (1.0, pytest.approx(1.25))
    assert compare.above(ours, theirs) == 1.0
    assert compare.ratio(compare.Runs([1.0], [0.0]), compare.Runs([2.0], [0.0])) == (0.5, 0.0)


def test_interval_bounds_hold_for_every_point_of_the_box_and_are_the_logits_at_radius_0() -> None:
    zoo = load("zoo")
    torch.manual_seed(0)
    net, (x, y) = zoo.build_cnn(), zoo.attacked(20)
    right = torch.nn.functional.one_hot(y, 10).bool()
    torch.testing.assert_close(zoo.worst_logits(net, x, y, 0.0), net(x))
    bounds = zoo.worst_logits(net, x, y, 0.05)
    for _ in range(50):
        logits = net((x + 0.05 * torch.randn_like(x).sign()).clamp(0, 1))
        assert ((logits >= bounds - 1e-5) | ~right).all()
        assert ((logits <= bounds + 1e-5) | right).all()


def test_models_are_the_same_each_time_and_leave_the_generator_alone() -> None:
    zoo, state = load("zoo"), torch.get_rng_state()
    first, again = (zoo.trained(zoo.build_mlp, zoo.plain, 1) for _ in range(2))
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad
    assert torch.equal(state, torch.get_rng_state())


@pytest.fixture(scope="module")
def peers() -> Path:
    """The Python that has the other libraries."""
    python = Path(os.environ.get("CROSSGUARD_PEERS", ROOT / ".venv-peers")) / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"the other libraries are not here: {python} (make peers, or set CROSSGUARD_PEERS)")
    return python


def run(python: Path, *arguments: str, first: str = "pass") -> subprocess.CompletedProcess[str]:
    """The benchmark in the peers' Python, after the statements `first`."""
    folder = str(ROOT / "benchmarks" / "peers")
    program = (
        f"import runpy, sys; sys.path.insert(0, {folder!r}); {first}; runpy.run_path({folder!r}, run_name='__main__')"
    )
    return subprocess.run(
        [python, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_from_the_same_start_all_libraries_leave_the_same_samples_standing(peers: Path) -> None:
    done = run(peers, "pgd", "--rounds", "2", "--models", "MLP")
    assert done.returncode == 0, done.stderr
    pattern = r"^MLP +[\d.]+ (\S+) +\S+ +([\d.]+) \|.*\) +([\d.]+) .*\) +([\d.]+)$"
    rows = re.findall(pattern, done.stdout, re.MULTILINE)
    assert [row[0] for row in rows] == ["torchattacks", "foolbox", "ART"] * 2, done.stdout
    for _, theirs, ours, all_steps in rows:
        assert ours == all_steps
        assert 0 <= float(theirs) - float(ours) <= 2  # they return the last point, we the best one
    for radius in (rows[:3], rows[3:]):
        assert len({theirs for _, theirs, _, _ in radius}) == 1, "the peers did not start from the same points"


@pytest.mark.slow
def test_worst_case_runs_beside_both_autoattacks_and_nobody_goes_below_what_is_proven(peers: Path) -> None:
    if not hasattr(cg.attacks, "worst_case"):
        pytest.skip("crossguard.attacks.worst_case is not there")
    done = run(peers, "worst_case", "--samples", "30", "--models", "CNN, provably robust", "GRU on (N, T, D)")
    assert done.returncode == 0, done.stderr
    assert "did not run" not in done.stdout, done.stdout
    assert re.search(r"\(proven\) +[1-9]", done.stdout), done.stdout
    assert done.stdout.count("median of the time ratios") == 2, done.stdout


@pytest.mark.slow
def test_a_proof_that_is_none_ends_the_comparison_with_an_error(peers: Path) -> None:
    lie = "import zoo; zoo.certified = lambda net, x, y, eps: y >= 0"
    done = run(peers, "worst_case", "--samples", "30", "--models", "CNN, provably robust", first=lie)
    assert done.returncode != 0
    assert "went below what is proven" in done.stderr, done.stderr
