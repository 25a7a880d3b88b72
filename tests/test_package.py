"""What is shipped: metadata, extras, pins, and a wheel that works on its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import crossguard

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(project: dict[str, Any]) -> list[Requirement]:
    extras = [r for listed in project["optional-dependencies"].values() for r in listed]
    return [Requirement(r) for r in (*project["dependencies"], *extras)]


def test_version_is_said_once() -> None:
    assert metadata.version("crossguard") == crossguard.__version__


def test_every_public_name_exists() -> None:
    missing = [name for name in crossguard.__all__ if not hasattr(crossguard, name)]
    assert not missing


def test_extras(project: dict[str, Any]) -> None:
    assert set(project["optional-dependencies"]) == {"media", "data", "zoo", "onnx", "docs", "dev", "latents"}


def test_nothing_requires_torchvision(project: dict[str, Any]) -> None:
    # It would replace a CPU torch by the newest CUDA build.
    assert {r.name for r in requirements(project)}.isdisjoint({"torchvision", "torchaudio", "torchcodec", "timm"})


def test_pins_lie_within_what_is_claimed(project: dict[str, Any]) -> None:
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = dict(line.lower().split("==") for line in lines if line)
    assert "torch" in pins
    for requirement in requirements(project):
        if requirement.name.lower() in pins:
            assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement
    core = {Requirement(r).name.lower() for r in project["dependencies"]}
    assert core <= set(pins), f"not pinned: {sorted(core - set(pins))}"


def test_data_files_are_in_the_package() -> None:
    files = resources.files("crossguard")
    assert (files / "py.typed").is_file()
    assert (files / "report" / "page.html.j2").is_file()
    assert any(file.name.endswith(".yaml") for file in (files / "recipes" / "demo").iterdir())


def test_the_build_ignores_no_package_file() -> None:
    # hatchling leaves out what git ignores.
    files = [p.relative_to(ROOT) for p in (ROOT / "src").rglob("*") if p.is_file()]
    sources = [str(p) for p in files if "__pycache__" not in p.parts]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "check-ignore", "--no-index", *sources]
    ignored = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ignored.stdout == ""


@pytest.mark.slow
def test_the_wheel_works_outside_the_repository(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path / "dist", ROOT], check=True)
    (wheel,) = (tmp_path / "dist").glob("crossguard-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("py.typed", "report/page.html.j2", "recipes/demo/amr-adversarial.yaml"):
        assert f"crossguard/{wanted}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "benchmarks")) or name.endswith(".pyc")]

    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    where = [sys.executable, "-c", "import crossguard; print(crossguard.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.startswith(str(tmp_path))
    demo = [sys.executable, "-m", "crossguard", "demo", "--quick", "--out", "out"]
    done = subprocess.run(demo, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert Path(done.stdout.splitlines()[-1]).is_file()
