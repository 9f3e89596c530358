"""Code is imported as `anykey.index`, never as `index`: the folders' own names are other people's too.

A user's `index.py`, or a distribution that brings a module `benchmark`, must not take the place of ours; and a module
that were loaded under two names would exist twice, with two sets of its classes.

Libraries that know one kind of network belong to the modules of a family: the rest of the trainer works for any.
"""

import ast
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.guards.checkout import PACKAGES, ROOT, modules
from tests.guards.test_layering import imported_names, is_within

SCRIPTS = {
    "anykey-train": "training",
    "anykey-index": "index",
    "anykey-serve": "service",
    "anykey-bench": "benchmark",
    "anykey-encoder": "encoder",
}
STRANGER = "raise SystemExit('this is a file of the user')"
LOAD_ALL = """
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
known = {packages!r}
sys.stdout.write(' '.join(sorted(name for name in sys.modules if name.split('.')[0] in known)))
"""


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A folder whose files are named like our packages."""
    for package in PACKAGES:
        (tmp_path / f"{package}.py").write_text(STRANGER)
    return tmp_path


@pytest.mark.parametrize(("script", "package"), SCRIPTS.items())
def test_commands_run_beside_files_with_our_names(script: str, package: str, crowded: Path) -> None:
    (entry,) = entry_points(group="console_scripts", name=script)
    assert entry.value == f"anykey.{package}.__main__:main"
    for command in ([Path(sys.executable).parent / script], [sys.executable, "-m", f"anykey.{package}"]):
        done = run(*command, "--help", cwd=crowded)
        assert (done.returncode, done.stderr) == (0, "")
        assert script in done.stdout


@pytest.mark.slow
def test_no_module_is_loaded_under_a_folders_own_name() -> None:
    """Every module is loaded, from the root of the checkout, where `import index` would find one.

    That loads every library there is, too. `test_layering` reads the same from the statements.
    """
    names = [
        ".".join(("anykey", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for path in modules(ROOT)
        if path.name != "__main__.py" and path.parent.name != "milvus"
    ]
    done = run(sys.executable, "-c", LOAD_ALL.format(names=names, packages=PACKAGES), cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-2000:]


def test_these_tests_import_our_packages_by_the_one_name() -> None:
    assert [name for name in sys.modules if name.split(".")[0] in PACKAGES] == []


def test_a_wheel_holds_one_name_and_all_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in filter(None, run("git", "ls-files", cwd=ROOT).stdout.split("\n")):  # not what earlier builds left here
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    done = run(*pip, "--wheel-dir", tmp_path, source, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("anykey-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = run("git", "ls-files", *PACKAGES, cwd=ROOT).stdout.split("\n")
    files = {f"anykey/{name}" for name in tracked if name}
    assert held == {"anykey/__init__.py", *files}


# What knows a network: libraries of them, and the encoder's folder for each family.
NETWORKS = ("open_clip", "timm", "transformers", "sentence_transformers", "torchvision.models")
OF_FAMILIES = tuple(f"anykey.encoder.{name}" for name in ("towers", "native_fusion", "sentence_models", "hugging_face"))


def networks_in_the_trainer(root: Path) -> list[str]:
    """Imports of what knows a network by a module of the trainer that belongs to no family, as `file: name`."""
    found = []
    for path in modules(root):
        name = path.relative_to(root).as_posix()
        if name.startswith("training/") and not name.startswith("training/families/"):
            imported = set(imported_names(ast.parse(path.read_text(encoding="utf-8"))))
            found += [f"{name}: {one}" for one in sorted(imported) if is_within(one, (*NETWORKS, *OF_FAMILIES))]
    return found


def test_only_a_familys_own_modules_know_its_network() -> None:
    assert networks_in_the_trainer(ROOT) == []


@pytest.mark.parametrize(
    ("module", "statement", "is_allowed"),
    [
        ("training/steps.py", "import open_clip", False),
        ("training/table.py", "from open_clip.transform import PreprocessCfg", False),
        ("training/losses/pool.py", "def late():\n    import timm.models", False),
        ("training/loop.py", "from anykey.encoder.towers.checkpoint import save_checkpoint", False),
        ("training/trainer.py", "from anykey.encoder.towers.encoder import load_checkpoint", False),
        ("training/trainer.py", "from anykey.encoder.model import choose_device", True),
        ("training/settings.py", "from anykey.encoder.padding import Padding", True),
        ("training/families/towers.py", "import open_clip", True),
        ("encoder/model.py", "import open_clip", True),
    ],
)
def test_the_guard_sees_a_network_in_the_trainer(tmp_path: Path, module: str, statement: str, is_allowed: bool) -> None:
    (tmp_path / module).parent.mkdir(parents=True)
    (tmp_path / module).write_text(statement)
    assert (networks_in_the_trainer(tmp_path) == []) is is_allowed
