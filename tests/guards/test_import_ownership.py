"""The five packages, whose names are common words, come from this checkout and from nowhere else.

Another distribution may bring a module `index` or `benchmark`; whichever lies first on the path wins silently.
"""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.guards.checkout import PACKAGES, ROOT

REPORT = "import {name}, sys; sys.stdout.write(str({name}.__file__))"
SCRIPTS = {"anykey-train": "training", "anykey-index": "index", "anykey-serve": "service", "anykey-bench": "benchmark"}


def origin(name: str, cwd: Path, *flags: str, **environment: str) -> Path:
    """The file that `import name` reads in a fresh interpreter."""
    command = [sys.executable, *flags, "-c", REPORT.format(name=name)]
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=60, check=True)
    return Path(done.stdout)


def is_ours(name: str, path: Path) -> bool:
    return path.resolve().is_relative_to((ROOT / name).resolve())


@pytest.mark.parametrize("name", PACKAGES)
def test_python_in_the_checkout_imports_our_package(name: str) -> None:
    assert is_ours(name, origin(name, ROOT))


@pytest.mark.parametrize("name", PACKAGES)
def test_console_scripts_anywhere_import_our_package(name: str, tmp_path: Path) -> None:
    """Isolated mode has a console script's path: neither the working directory nor `PYTHONPATH`."""
    assert is_ours(name, origin(name, tmp_path, "-I"))


@pytest.mark.parametrize("name", PACKAGES)
def test_these_tests_import_our_package(name: str) -> None:
    assert is_ours(name, Path(__import__(name).__file__ or ""))


@pytest.mark.parametrize(("script", "package"), SCRIPTS.items())
def test_each_console_script_is_its_packages_main(script: str, package: str) -> None:
    (entry,) = entry_points(group="console_scripts", name=script)
    assert entry.value == f"{package}.__main__:main"


@pytest.mark.parametrize("script", ["anykey-index", "anykey-bench"])
def test_an_installed_script_runs_from_anywhere(script: str, tmp_path: Path) -> None:
    path = Path(sys.executable).parent / script
    done = subprocess.run([path, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert script in done.stdout


@pytest.mark.parametrize("package", ["index", "benchmark"])
def test_python_m_runs_our_package(package: str) -> None:
    command = [sys.executable, "-m", package, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"anykey-{'bench' if package == 'benchmark' else package}" in done.stdout


def test_an_installation_holds_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    inits = [path for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")]
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in inits}
    assert {*project["tool"]["setuptools"]["packages"]} == there


def test_the_guard_notices_a_foreign_package(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "__init__.py").touch()
    assert not is_ours("index", origin("index", tmp_path))
    assert not is_ours("index", origin("index", ROOT.parent, PYTHONPATH=str(tmp_path)))
