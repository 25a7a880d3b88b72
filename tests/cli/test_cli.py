"""The commands as a person meets them: help, exit codes, plain errors, nothing half-done."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import save_file

import crossguard as cg
from crossguard.cli.console import guarded, results
from crossguard.cli.tables import percent
from crossguard.core.files import locked
from crossguard.evaluation.comparison import paired_difference
from tests.cli.conftest import Crossguard, Shell
from tests.report.synthetic import DEPTH, INERTIAL, RGB, SKELETON, make

RECIPES = Path(__file__).parents[2] / "recipes"
RECIPE = RECIPES / "figures" / "concat-standard.yaml"
COMMANDS = (
    *("demo", "train", "evaluate", "report", "compare"),
    *("data list", "data show", "data check", "data prepare", "data write"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_teaches(crossguard: Crossguard, command: str) -> None:
    result = crossguard(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"crossguard {command}" in result.stdout, "an example"


def test_help_names_the_commands_and_the_exit_codes(crossguard: Crossguard) -> None:
    result = crossguard("--help")
    assert result.exit_code == 0
    for word in ("demo", "train", "evaluate", "report", "compare", "data", "Exit codes", "130"):
        assert word in result.stdout


def test_version(crossguard: Crossguard) -> None:
    assert crossguard("--version").stdout == f"crossguard {cg.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("trian", "x"),
        ("train",),
        ("train", "x.yaml", "--epochs", "3"),
        ("evaluate",),
        ("evaluate", "--model", "a:b"),
        ("evaluate", "runs/x", "--model", "a:b"),
        ("report",),
        ("data", "show"),
        ("demo", "--seed", "one"),
    ],
)
def test_wrong_usage_ends_with_2(crossguard: Crossguard, arguments: tuple[str, ...]) -> None:
    result = crossguard(*arguments)
    assert result.exit_code == 2
    assert result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("train", "none.yaml"), 2, ["none.yaml", "No such file"]),
        (("train", "{recipe}", "--set", "train.epochs"), 2, ["key=value"]),
        (("train", "{recipe}", "--set", "train.epochss=3"), 2, ["train.epochss: unknown key; did you mean 'epochs'?"]),
        (("train", "{recipe}", "--set", "train.epochs=0"), 2, ["train.epochs: found 0, expected greater than"]),
        (("train", "{recipe}", "--set", "threat.rgb.eps=-1"), 2, ["threat.rgb: Linf: eps is -1.0, expected a finite"]),
        (("train", "{recipe}", "--set", "threat.rgb.eps=.nan"), 2, ["threat.rgb.eps: found nan"]),
        (
            ("train", "{recipe}", "--set", "threat.rgbd={norm: linf, eps: 1}"),
            2,
            ["threat.rgbd: the data have no such modality; did you mean 'rgb'?"],
        ),
        (
            ("train", "{recipe}", "--set", "model.encoders.depth={name: video}"),
            2,
            ["model.encoders.depth: the data have no such modality; known: rgb, skeleton"],
        ),
        (("train", "{recipe}", "--set", "data.regime=balance"), 2, ["data.regime", "did you mean 'balanced'?"]),
        (
            ("train", "{recipe}", "--set", "threat.rgb.bounds=[0, 0.1]"),
            2,
            ["'rgb'", "the budget's bounds are [0, 0.1]"],
        ),
        (
            ("train", "{recipe}", "--set", "model.encoders.skeleton.frames=12"),
            2,
            ["HCN: found an input of shape", "= (N, M, 12, 25, 3)"],
        ),
        (
            ("train", "{recipe}", "--set", "objective={name: adversarial, attacked: rgbb}"),
            2,
            ["1 problem\n  objective: attacked is 'rgbb'", "['rgb', 'skeleton']"],
        ),
        (("train", "{recipe}", "--device", "abacus"), 2, ["'abacus' cannot be used here"]),
        (("evaluate", "nowhere", "--protocol", "quick"), 2, ["--set evaluate.protocol=quick"]),
        (("evaluate", "nowhere", "--seed", "3"), 2, ["--set seed="]),
        (("evaluate", "nowhere"), 1, ["nowhere is no run folder"]),
        (("report", "nowhere"), 1, ["nowhere"]),
        (("compare", "nowhere"), 2, ["at least two"]),
        (("data", "show", "figure"), 2, ["did you mean 'figures'?"]),
        (("data", "check", "utd_mhad", "{empty}"), 2, ["{empty}"]),
        (("data", "check", "utd_mhad", "/no/such/folder"), 2, ["/no/such/folder"]),
        (("evaluate", "--model", "x", "--data", "y:z", "--threat", "{recipe}"), 2, ["threat"]),
    ],
)
def test_bad_input_is_said_plainly(
    crossguard: Crossguard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small: list[str],
    arguments: tuple[str, ...],
    code: int,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    places = {"{recipe}": str(RECIPE), "{empty}": str(tmp_path / "empty")}
    filled = [places.get(a, a) for a in arguments]
    if arguments[0] == "train":
        filled += [part for setting in small if not setting.startswith("train.epochs") for part in ("--set", setting)]
    result = crossguard(*filled)
    assert result.exit_code == code, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert places.get(word, word) in result.stderr
    assert "fault of the program" not in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "runs").exists(), "nothing half-written"


def test_a_recipe_with_many_faults_names_them_all_before_anything_runs(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "nmae: x\n"
        "data: {name: figurs}\n"
        "model: {encoders: {rgb: {name: video, wdth: 8}}, fusion: {name: arm}}\n"
        "objective: {name: adversarial, stepps: 3, attack: pgdd}\n"
        "threat: {rgb: {norm: linf, eps: -1}, at_most: 0}\n"
        "train: {epochs: three, lr: 0.1}\n"
        "evaluate: {protocol: {name: quik}}\n"
    )
    result = shell("train", "bad.yaml")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for path in (
        "nmae: unknown key; did you mean 'name'?",
        "name: missing",
        "data.name: unknown name 'figurs'; did you mean 'figures'?",
        "model.encoders.rgb.wdth: unknown key",
        "model.fusion.name: unknown name 'arm'; did you mean 'amr'?",
        "objective.stepps: unknown key; did you mean 'steps'?",
        "threat.rgb: Linf: eps is -1.0",
        "train.epochs: found 'three', expected a whole number",
        "train.lr: unknown key",
        "evaluate.protocol.name: found 'quik'",
    ):
        assert f"  {path}" in result.stderr, path
    assert list(tmp_path.iterdir()) == [tmp_path / "bad.yaml"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [a\nseed: 1\n", ["line 2, column"]),
        ("name: a\nseed: 1\nname: b\n", ["line 3, column 1", "given twice"]),
        ("- a\n", ["expected a mapping"]),
        ("", ["expected a mapping"]),
    ],
)
def test_bad_yaml(crossguard: Crossguard, tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    result = crossguard("train", tmp_path / "bad.yaml")
    assert result.exit_code == 2
    for word in words:
        assert word in result.stderr


def test_data_list_and_show(crossguard: Crossguard) -> None:
    listed = crossguard("data", "list")
    assert listed.exit_code == 0
    assert "figures" in listed.stdout
    assert "utd_mhad" in listed.stdout
    settings = ["train=13", "validation=12", "test=12", "size=16", "frames=4"]
    shown = crossguard("data", "show", "figures", *(part for s in settings for part in ("--set", s)))
    assert shown.exit_code == 0, shown.stderr
    for word in ("rgb", "skeleton", "NCTHW", "12 classes", "regime", "3 x 4 x 16 x 16"):
        assert word in shown.stdout
    needy = crossguard("data", "show", "utd_mhad")
    assert needy.exit_code == 0
    assert "--set path=" in needy.stdout


def test_a_set_is_written_and_shown_again(crossguard: Crossguard, tmp_path: Path) -> None:
    sizes = ["train=3", "validation=1", "test=1", "size=16", "frames=4", "seconds=1"]
    settings = [part for s in sizes for part in ("--set", s)]
    written = crossguard("data", "write", "events", tmp_path / "mine", *settings)
    assert written.exit_code == 0, written.stderr
    assert written.stdout.splitlines()[-1] == str(tmp_path / "mine" / "manifest.csv")
    shown = crossguard("data", "show", "manifest", "--set", f"path={tmp_path / 'mine'}", "--set", "multi_label=true")
    assert shown.exit_code == 0, shown.stderr
    assert "10 classes: bounce, hammer" in shown.stdout
    again = crossguard("data", "write", "events", tmp_path / "mine", *settings)
    assert again.exit_code == 2
    assert "is there already" in again.stderr


def test_train_evaluate_report_compare(crossguard: Crossguard, tmp_path: Path, small: list[str]) -> None:
    settings = [part for setting in small for part in ("--set", setting)]
    runs = [tmp_path / "a", tmp_path / "b"]
    for run, recipe in zip(runs, ("concat-standard", "amr-adversarial"), strict=True):
        trained = crossguard("train", RECIPES / "figures" / f"{recipe}.yaml", *settings, "--out", run)
        assert trained.exit_code == 0, trained.stderr
        assert trained.stdout.splitlines()[-1] == str(run)
        evaluated = crossguard("evaluate", run)
        assert evaluated.exit_code == 0, evaluated.stderr
        assert "accuracy, % (95 % interval)" in evaluated.stdout
        assert evaluated.stdout.splitlines()[-1] == str(run)
    record = json.loads((runs[1] / "record.json").read_text())
    assert record["recipe"]["objective"]["name"] == "adversarial"
    assert len(record["recipe"]["digest"]) == 12
    assert record["training"]["attacked"] == "random"
    assert record["training"]["forwards"] > 0
    assert record["classes"][0] != "0"

    resolved = (runs[0] / "recipe.yaml").read_text()
    again = crossguard("train", runs[0] / "recipe.yaml", "--out", runs[0])
    assert again.exit_code == 0, again.stderr
    assert (runs[0] / "recipe.yaml").read_text() == resolved
    other = crossguard("train", runs[0] / "recipe.yaml", "--out", runs[0], "--set", "train.learning_rate=0.5")
    assert other.exit_code == 1
    assert "train.learning_rate was 0.008, is 0.5" in other.stderr
    assert (runs[0] / "recipe.yaml").read_text() == resolved

    page = tmp_path / "page.html"
    reported = crossguard("report", *runs, "-o", page)
    assert reported.exit_code == 0, reported.stderr
    assert reported.stdout == f"{page}\n"
    compared = crossguard("compare", *runs, "-o", tmp_path / "compare.html", "--reference", "concat-standard")
    assert compared.exit_code == 0, compared.stderr
    assert "minus concat-standard" in compared.stdout
    assert (tmp_path / "compare.html").exists()

    twice = crossguard("compare", runs[0], runs[0], "-o", tmp_path / "twice.html")
    assert twice.exit_code == 0, twice.stderr
    assert twice.stdout.count("(2)") == 2, "in the table and among the differences"


def test_a_model_of_ones_own(crossguard: Crossguard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_for_the_cli.py").write_text(
        "import torch, crossguard as cg\n"
        "def build():\n"
        "    return cg.adapt(torch.nn.Bilinear(6, 3, 4), inputs=('audio', 'video'))\n"
        "def loader():\n"
        "    torch.manual_seed(0)\n"
        "    for _ in range(2):\n"
        "        yield cg.Batch({'audio': torch.randn(8, 6), 'video': torch.randn(8, 3)}, torch.randint(4, (8,)))\n"
    )
    (tmp_path / "threat.yaml").write_text("audio: {norm: l2, eps: 1/4}\nvideo: {norm: linf, eps: 0.1}\n")
    model = cg.adapt(torch.nn.Bilinear(6, 3, 4), inputs=("audio", "video"))
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    options = ["--data", "mine_for_the_cli:loader", "--threat", "threat.yaml", "--protocol", "quick"]
    result = crossguard(
        "evaluate", "--model", "mine_for_the_cli:build", "--weights", "mine.safetensors", *options, "--name", "mine"
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "runs/mine"
    record = cg.Record.load(tmp_path / "runs" / "mine")
    assert len(record) == 16
    assert record.meta["threat"]["budgets"]["audio"]["eps"] == 0.25

    save_file({"wrong": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    for arguments, word in (
        (("--model", "mine_for_the_cli:build", "--weights", "wrong.safetensors"), "do not fit"),
        (("--model", "mine_for_the_cli:build", "--weights", "none.safetensors"), "--weights: could not read none.saf"),
        (("--model", "mine_for_the_cli:missing"), "missing"),
        (("--model", "no_such_module_here:build"), "no_such_module_here"),
    ):
        failed = crossguard("evaluate", *arguments, *options)
        assert failed.exit_code in (1, 2)
        assert word in failed.stderr
        assert word == "do not fit" or "do not fit" not in failed.stderr


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("oops\n", "--model {module}:build: NameError: name 'oops'"),
        ("build = 3\n", "--model {module}:build is a int, expected a function"),
        ("def build(): open('no-weights.bin')\n", "--model {module}:build failed: FileNotFoundError"),
        ("import torch\nbuild = lambda: torch.nn.Linear(1, 2)\nloader = lambda: None\n", "returned NoneType"),
    ],
)
def test_faults_in_ones_own_module_are_said_to_be_there(
    crossguard: Crossguard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    source: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = f"faulty_for_the_cli_{abs(hash(request.node.name))}"
    (tmp_path / f"{module}.py").write_text(source)
    (tmp_path / "threat.yaml").write_text("a: {norm: linf, eps: 0.1}\n")
    options = ("--model", f"{module}:build", "--data", f"{module}:loader", "--threat", "threat.yaml")
    result = crossguard("evaluate", *options)
    assert result.exit_code == 2
    assert words.format(module=module) in result.stderr
    assert "fault of the program" not in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_second_training_leaves_the_recipe_of_the_first_alone(
    crossguard: Crossguard, tmp_path: Path, small: list[str]
) -> None:
    settings = [part for setting in small for part in ("--set", setting)]
    (tmp_path / "recipe.yaml").write_text("the first one's")
    with locked(tmp_path):
        refused = crossguard("train", RECIPE, *settings, "--out", tmp_path)
    assert refused.exit_code == 1
    assert "another process is at work" in refused.stderr
    assert (tmp_path / "recipe.yaml").read_text() == "the first one's"


@pytest.mark.parametrize("command", ["train", "evaluate", "report", "study"])
def test_a_place_that_may_not_be_used_is_no_fault_of_the_program(
    crossguard: Crossguard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: list[str], command: str
) -> None:
    """Root may use any, so the system's refusal is played."""
    closed = tmp_path / "closed"
    closed.mkdir()
    for module, name in ((os, "stat"), (os, "mkdir"), (os, "listdir"), (os, "scandir"), (io, "open")):
        monkeypatch.setattr(module, name, _refused(getattr(module, name), closed))
    settings = [part for setting in small for part in ("--set", setting)]
    where = {
        "train": (RECIPE, *settings, "--out", closed / "run"),
        "evaluate": (closed / "run",),
        "report": (closed / "run", "-o", tmp_path / "page.html"),
        "study": (closed, "--out", tmp_path / "out"),
    }
    result = crossguard(command, *where[command])
    assert result.exit_code in (1, 2)
    assert str(closed) in result.stderr
    assert "Permission denied" in result.stderr
    assert "fault of the program" not in result.stderr


def _refused(honest: Callable[..., Any], closed: Path) -> Callable[..., Any]:
    """The system's call, which lets nobody into a folder."""

    def call(path: Any, *arguments: Any, **options: Any) -> Any:
        inside = isinstance(path, str | Path) and closed in (Path(path), *Path(path).parents)
        if inside and (Path(path) != closed or honest.__name__ in ("scandir", "listdir")):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return honest(path, *arguments, **options)

    return call


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied", "/closed/run"), "/closed/run: Permission denied; "),
        (NotADirectoryError(20, "Not a directory", "file/run"), "file/run: Not a directory; "),
        (OSError(28, "No space left on device"), "the system said: No space left on device; "),
    ],
)
def test_what_the_system_refuses_is_said_with_its_path(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    monkeypatch.delenv("CROSSGUARD_DEBUG", raising=False)

    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as left:
        guarded(command)()
    assert left.value.exit_code == 1
    said = capsys.readouterr().err
    assert words in said
    assert "fault of the program" not in said


def test_an_error_of_no_file_stays_a_fault_of_the_program(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CROSSGUARD_DEBUG", raising=False)

    def command() -> None:
        raise KeyError("x")

    with pytest.raises(typer.Exit):
        guarded(command)()
    assert "fault of the program" in capsys.readouterr().err


@pytest.mark.parametrize("modalities", [(RGB, SKELETON), (RGB, SKELETON, DEPTH, INERTIAL)])
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_every_figure_of_a_comparison_can_be_read_at_any_width(
    tmp_path: Path,
    crossguard: Crossguard,
    monkeypatch: pytest.MonkeyPatch,
    modalities: tuple[cg.Modality, ...],
    columns: int,
) -> None:
    names = ("concat-standard", "amr-adversarial", "odd-one-out-adversarial", "minsim-exfmem-adversarial")
    runs = [make(tmp_path / n, n, seed=i, modalities=modalities) for i, n in enumerate(names)]
    monkeypatch.setattr(results, "_width", columns)
    result = crossguard("compare", *runs, "-o", tmp_path / "compare.html")
    assert result.exit_code == 0, result.stderr
    tables = "\n".join(result.stdout.splitlines()[:-1])
    assert max(map(len, tables.splitlines())) <= columns
    first, *others = (cg.Record.load(run) for run in runs)
    found = [set(line.split()) for line in tables.splitlines()]
    words = set().union(*found)
    for record in others:
        for c in record.conditions:
            for part in percent(paired_difference(record, first, c), signed=True).splitlines():
                assert part in words, f"{record.name}, {c}"
    for c in first.conditions:
        assert set(c.replace(":", ": ").split()) <= words, "headers are whole too"
