"""No test changes our own modules, classes or functions: what must be otherwise in a test is an option, or other data.

A patched constant or function proves something of a program that nobody runs, and breaks where code is only moved.
Other people's libraries may be patched, to fail as they may, and so may the environment.
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guards.checkout import PACKAGES, ROOT

CHANGING = ("setattr", "setitem", "delattr", "delitem")  # of pytest's monkeypatch
OURS = ("anykey", "benchmarks", *PACKAGES)

# What is changed nevertheless, by file, and why.
ALLOWED = {
    ("tests/conftest.py", "anykey.sources.files.http_files.PAUSES_S"): "every test of a failing server would wait",
    ("tests/clients/driver.py", "client._api.api_url"): "Jina's client in LlamaIndex has no setting for its address",
}


def imported(tree: ast.AST) -> dict[str, str]:
    """From the names in a module to the full names of what was imported."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def changed(tree: ast.AST) -> Iterator[ast.expr | str]:
    """What a module changes, by pytest's monkeypatch or by an assignment to an attribute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGING:
            first, *others = node.args
            name = others[0].value if others and isinstance(others[0], ast.Constant) else ""
            if isinstance(first, ast.Constant):
                yield str(first.value)
            else:
                yield ast.Attribute(first, str(name))
        elif isinstance(node, ast.Assign):
            yield from (target for target in node.targets if isinstance(target, ast.Attribute))


def programs(tree: ast.AST) -> Iterator[ast.AST]:
    """A module, and the programs for other processes that it holds as text."""
    yield tree
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            try:
                yield ast.parse(textwrap.dedent(node.value))
            except SyntaxError:  # prose
                continue


def patched(source: str) -> list[str]:
    """Full names of what a module's tests change of ours; private parts of objects count as ours."""
    found = []
    for program in programs(ast.parse(source)):
        names = imported(program)
        for target in changed(program):
            root, *attributes = (target if isinstance(target, str) else ast.unparse(target)).split(".")
            full = ".".join([names.get(root, root), *attributes])
            is_known = root in names or isinstance(target, str)
            is_private = root != "self" and any(re.match("_[^_]", name) for name in attributes)
            if full.partition(".")[0] in OURS if is_known else is_private:
                found.append(full)
    return found


def test_tests_change_nothing_of_ours() -> None:
    tests = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").glob("test_*.py")]
    sources = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in tests if path != Path(__file__)}
    found = {(path, name) for path, source in sources.items() for name in patched(source)}
    assert sorted(found ^ ALLOWED.keys()) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("monkeypatch.setattr('anykey.index.settings.LIMIT', 3)", ["anykey.index.settings.LIMIT"]),
        (
            "from anykey.index import settings\nwith patch.context() as p:\n    p.setattr(settings, 'LIMIT', 3)",
            ["anykey.index.settings.LIMIT"],
        ),
        ("from benchmarks import speed as s\nmonkeypatch.setattr(s, 'ROUNDS', 1)", ["benchmarks.speed.ROUNDS"]),
        (
            "from anykey.index import FaissIndex\nmonkeypatch.delattr(FaissIndex, 'get')",
            ["anykey.index.FaissIndex.get"],
        ),
        ("from anykey import index\nmonkeypatch.setitem(index.KINDS, 'x', 1)", ["anykey.index.KINDS.x"]),
        ("monkeypatch.setattr(index._store, 'commit', fail)", ["index._store.commit"]),
        ("import anykey.index as i\ni.LIMIT = 3", ["anykey.index.LIMIT"]),
        ("RUN = '''\nfrom anykey import index\nindex.LIMIT = 3\n'''", ["anykey.index.LIMIT"]),
        ("import os\nmonkeypatch.setattr(os, 'fsync', fail)", []),
        ("import sys\nmonkeypatch.setitem(sys.modules, 'wandb', None)", []),
        ("monkeypatch.setattr('torch.compile', compiled)", []),
        ("from lib import tags\nmonkeypatch.setitem(tags._KNOWN, 'x', 1)", []),
        ("index.search = slow\nself._work.done = True", []),
        ("'''Some prose that says import and more.'''", []),
    ],
)
def test_the_guard_sees_what_it_should(source: str, found: list[str]) -> None:
    assert patched(source) == found
