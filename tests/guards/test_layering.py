"""The arrows between the packages of `anykey`, read from every import statement; nothing else of ours may be imported.

All may import program, which imports nothing. training -> encoder, sources, benchmark.metrics; index -> encoder,
sources; service -> encoder, index; benchmark -> sources.

Inside index, reading is apart from writing: search imports nothing of publish, and neither of them of jobs; what both
need is below them.

Inside training, a study and a sweep compose settings and start runs: how a run learns is not theirs.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guards.checkout import PACKAGES, ROOT, modules

ALLOWED = {
    "program": (),
    "sources": ("program",),
    "encoder": ("program",),
    "benchmark": ("program", "sources"),
    "training": ("program", "encoder", "sources", "benchmark.metrics"),
    "index": ("program", "encoder", "sources"),
    "service": ("program", "encoder", "index"),
    "client": (),
}
# Which parts of `index` a part may not import, and which modules of `training` a study and a sweep may not.
LEARNING = ("loop", "steps", "objective", "losses", "optimizer", "batches", "augmentation", "resume")
ABOVE = {
    "index": {
        "store": ("search", "publish", "jobs"),
        "filtering": ("search", "publish", "jobs"),
        "vectors": ("store", "search", "publish", "jobs"),
        "search": ("publish", "jobs"),
        "publish": ("jobs",),
    },
    "training": {"study": (*LEARNING, "sweep"), "sweep": (*LEARNING, "study")},
}
OURS = ("anykey", *PACKAGES, "tests")


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Full names of everything imported absolutely, wherever in the module, by statement or by call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called.endswith(("import_module", "__import__")):
                yield str(node.args[0].value)


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def imported_as(*names: str) -> tuple[str, ...]:
    """What packages and modules are imported as."""
    return tuple(f"anykey.{name}" for name in names)


def violations(root: Path) -> list[str]:
    """Imports against the arrows, as `file: name`."""
    found = []
    for path in modules(root):
        package = path.relative_to(root).parts[0]
        for name in imported_names(ast.parse(path.read_text(encoding="utf-8"))):
            if is_within(name, OURS) and not is_within(name, imported_as(package, *ALLOWED[package])):
                found.append(f"{path.relative_to(root)}: {name}")
    return found


def upward_imports(root: Path) -> list[str]:
    """Imports within a package that go up or into the trainer, and of anything in `sources` where an index is read."""
    found = []
    for path in modules(root):
        package, part = path.relative_to(root).parts[:2]
        refused = ABOVE.get(package, {}).get(part, ())
        above = imported_as(*(f"{package}.{name}" for name in refused), *(["sources"] if part == "search" else []))
        names = imported_names(ast.parse(path.read_text(encoding="utf-8")))
        found += [f"{path.relative_to(root)}: {name}" for name in names if is_within(name, above)]
    return found


def test_no_part_of_the_index_or_the_trainer_imports_what_is_above_it() -> None:
    assert upward_imports(ROOT) == []


@pytest.mark.parametrize(
    ("part", "statement", "is_allowed"),
    [
        ("training/sweep", "from anykey.training.loop import Loop", False),
        ("training/study", "from anykey.training.trainer import train", True),
        ("index/search", "from anykey.index.publish.writer import Writer", False),
        ("index/search", "def late():\n    from anykey.sources.files.files import open_file", False),
        ("index/search", "from anykey.index.store.versions import WritableDirectory", True),
        ("index/publish", "from anykey.index.jobs import build", False),
        ("index/publish", "from anykey.index.search.version_files import VersionFiles", True),
        ("index/jobs", "from anykey.index.publish.writer import Writer", True),
    ],
)
def test_the_guard_sees_an_import_from_below(tmp_path: Path, part: str, statement: str, is_allowed: bool) -> None:
    (tmp_path / part).mkdir(parents=True)
    (tmp_path / part / "module.py").write_text(statement)
    assert (upward_imports(tmp_path) == []) is is_allowed


def test_packages_import_only_what_the_arrows_allow() -> None:
    assert violations(ROOT) == []


def test_every_arrow_is_used() -> None:
    """An arrow nobody needs would only invite imports."""
    used = {
        (path.relative_to(ROOT).parts[0], arrow)
        for path in modules(ROOT)
        for name in imported_names(ast.parse(path.read_text(encoding="utf-8")))
        for arrow in ALLOWED[path.relative_to(ROOT).parts[0]]
        if is_within(name, imported_as(arrow))
    }
    assert used == {(package, arrow) for package, arrows in ALLOWED.items() for arrow in arrows}


@pytest.mark.parametrize(
    ("package", "statement", "is_allowed"),
    [
        ("encoder", "import anykey.index", False),
        ("encoder", "from anykey.service.errors import ServiceError", False),
        ("encoder", "from anykey.encoder.item import Item", True),
        ("encoder", "from .item import Item", True),
        ("encoder", "import indexed_bzip2, torch", True),
        ("benchmark", "import anykey.encoder", False),
        ("benchmark", "def late():\n    from anykey.encoder import Item", False),
        ("benchmark", "if TYPE_CHECKING:\n    from anykey.encoder import Item", False),
        ("benchmark", "import importlib\nimportlib.import_module('anykey.encoder.item')", False),
        ("benchmark", "from anykey.sources.pairs import open_pairs", True),
        ("benchmark", "from anykey.sources import pairs", True),
        ("sources", "from anykey.index.errors import SearchIndexError", False),
        ("program", "from anykey.encoder.item import Item", False),
        ("benchmark", "import anykey.training", False),
        ("benchmark", "from anykey.training.table import PairTable", False),
        ("training", "from anykey.benchmark.metrics import success_at_k", True),
        ("training", "from anykey.benchmark import metrics", True),
        ("training", "from anykey.benchmark import mbeir", False),
        ("training", "import anykey.benchmark", False),
        ("training", "from anykey.index.hits import Hit", False),
        ("index", "from anykey.encoder.model import Encoder", True),
        ("index", "from anykey.training.table import PairTable", False),
        ("index", "from anykey.service import app", False),
        ("service", "from anykey.index.faiss_index import FaissIndex\nimport anykey.encoder", True),
        ("service", "import anykey.training.trainer", False),
        ("service", "from anykey.benchmark.metrics import success_at_k", False),
        ("service", "import encoder", False),
        ("service", "from index.hits import Hit", False),
        ("service", "import anykey", False),
        ("service", "from tests.fakes import FakeEncoder", False),
    ],
)
def test_the_guard_sees_every_kind_of_import(tmp_path: Path, package: str, statement: str, is_allowed: bool) -> None:
    (tmp_path / package / "inner").mkdir(parents=True)
    (tmp_path / package / "inner" / "module.py").write_text(statement)
    assert (violations(tmp_path) == []) is is_allowed
