"""What the linters do not check: long functions, classes that offer too much, docstrings, plain ASCII, and no print."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guards.checkout import PACKAGES, ROOT, modules

MAX_FUNCTION_LINES = 80
MAX_PUBLIC_METHODS = 27
TEXT_SUFFIXES = {".py", ".md", ".toml", ".json", ".yml", ".yaml", ".txt", ""}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def text_files(root: Path) -> Iterator[Path]:
    """The product's own files that are text: the packages, the docs, and what lies at the top."""
    tops = [path for path in root.iterdir() if path.is_file() and path.name != "LICENSE"]
    folders = [root / name for name in (*PACKAGES, "docs", "docker", ".ci")]
    inner = [path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts]
    yield from (path for path in sorted([*tops, *inner]) if path.is_file() and path.suffix in TEXT_SUFFIXES)


def public_definitions(tree: ast.Module) -> Iterator[Definition]:
    """Functions and classes that may be used from outside, with the methods of those classes."""
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (
                    inner for inner in node.body if isinstance(inner, Definition) and not inner.name.startswith("_")
                )


def is_stub(node: Definition) -> bool:
    """Whether the body is `...` alone, as overloads have it."""
    return len(node.body) == 1 and ast.unparse(node.body[0]) == "..."


def _methods(node: ast.ClassDef) -> list[str]:
    return [inner.name for inner in node.body if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)]


def faults_in_call(node: ast.Call) -> list[str]:
    """A bare print, or a console that reads `[/b]` in a path as markup and raises."""
    name, given = ast.unparse(node.func), {ast.unparse(keyword) for keyword in node.keywords}
    if name == "print":
        return [f"line {node.lineno} prints"]
    if name == "Console" and not given & {"markup=False", "quiet=True"}:
        return [f"line {node.lineno} has a console that reads markup, use plain_console"]
    return []


def faults_in_module(source: str) -> list[str]:
    """Everything wrong with one module's text, a line each."""
    tree = ast.parse(source)
    faults = [] if ast.get_docstring(tree) else ["module has no docstring"]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                faults.append(f"{node.name} has {length} lines, at most {MAX_FUNCTION_LINES}")
        elif isinstance(node, ast.ClassDef):
            offered = [name for name in _methods(node) if not name.startswith("_")]
            if len(offered) > MAX_PUBLIC_METHODS:
                faults.append(f"{node.name} offers {len(offered)} methods, at most {MAX_PUBLIC_METHODS}")
        elif isinstance(node, ast.Call):
            faults += faults_in_call(node)
    undocumented = [node.name for node in public_definitions(tree) if not ast.get_docstring(node) and not is_stub(node)]
    return faults + [f"{name} has no docstring" for name in undocumented]


def faults(root: Path) -> list[str]:
    """All faults of the product under `root`."""
    found = [
        f"{path.relative_to(root)}: {fault}"
        for path in modules(root)
        for fault in faults_in_module(path.read_text(encoding="utf-8"))
    ]
    for path in text_files(root):
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if not line.isascii():
                found.append(f"{path.relative_to(root)}:{number}: not ASCII")
    return found


def test_the_product_keeps_the_house_style() -> None:
    assert faults(ROOT) == []


GOOD = '"""A module."""\n\n\ndef work() -> None:\n    """Works."""\n'


def thing_of(num_methods: int) -> str:
    methods = "".join(f'\n    def act_{n}(self) -> None:\n        """Acts."""\n' for n in range(num_methods))
    return f'{GOOD}\n\nclass Thing:\n    """A thing."""\n{methods}'


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (GOOD, None),
        ("x = 1\n", "module has no docstring"),
        (GOOD + "\n\ndef more() -> None:\n    pass\n", "more has no docstring"),
        (GOOD + "\n\nclass Thing:\n    pass\n", "Thing has no docstring"),
        (
            GOOD + '\n\nclass Thing:\n    """A thing."""\n\n    def act(self) -> None:\n        pass\n',
            "act has no docstring",
        ),
        (GOOD + '\n\nclass Thing:\n    """A thing."""\n\n    def _act(self) -> None:\n        pass\n', None),
        (GOOD + "\n\ndef _more() -> None:\n    pass\n", None),
        (GOOD + "    print(1)\n", "line 6 prints"),
        (GOOD + "    Console(stderr=True)\n", "line 6 has a console that reads markup, use plain_console"),
        (GOOD + "    Console(stderr=True, markup=False)\n", None),
        (GOOD + "    x = 1\n" * 79, "work has 81 lines, at most 80"),
        (GOOD + "    x = 1\n" * 78, None),
        (thing_of(27), None),
        (thing_of(28), "Thing offers 28 methods, at most 27"),
        (GOOD + "# caf\u00e9\n", "6: not ASCII"),
    ],
)
def test_the_guard_sees_each_fault(tmp_path: Path, source: str, fault: str | None) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "module.py").write_text(source, encoding="utf-8")
    found = faults(tmp_path)
    assert (found == []) if fault is None else (len(found) == 1 and found[0].endswith(fault))
