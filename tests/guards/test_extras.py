"""What is imported is declared where a user installs it, and no engine goes untested for want of its library."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import faiss
import pytest

from tests.guards.checkout import PACKAGES, ROOT, modules

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What brings the libraries of a package, beside those of the project itself.
EXTRA_OF = {"service": {"serve"}, "training": {"train"}, "benchmark": {"bench"}}
# Modules that are loaded only for what another extra brings, or (`program/page.py`) by commands of those that have it.
MODULES_OF = {
    "cpu": ("index/",),
    "milvus": ("index/milvus/",),
    "milvus-lite": ("index/milvus/",),
    "ray": ("index/jobs/ray_job.py",),
    "onnx": ("encoder/",),
    "openvino": ("encoder/",),
    "hf": ("encoder/",),
    "st": ("encoder/reranking.py", "encoder/sentence_models/"),
    "sweep": ("training/sweep/",),
    "oidc": ("service/access/signed_tokens.py",),
    "otel": ("service/operations/traces.py",),
    "wandb": ("training/trackers.py",),
    "video": ("benchmark/videos.py",),
    "mteb": ("benchmark/mteb_adapter.py",),
    "bench": ("program/page.py",),
}
# They come with a library that is declared, and belong to its interface.
BROUGHT_BY = {
    "starlette": "fastapi",
    "pydantic-core": "pydantic",
    "regex": "open-clip-torch",
    "grpcio": "pymilvus",
    "httpcore": "httpx",
}


@pytest.mark.parametrize("library", ["pymilvus", "milvus_lite", "ray", "av", "mteb"])
def test_library_of_an_extra_is_installed(library: str) -> None:
    if library == "milvus_lite" and hasattr(faiss, "StandardGpuResources"):
        pytest.skip("Milvus Lite brings FAISS for CPUs, which is not for the same environment as that for GPUs")

    assert find_spec(library) is not None, "run `make setup`; the tests of it would be skipped"


def test_each_library_is_declared_where_it_is_imported() -> None:
    distributions = packages_distributions()
    undeclared = [
        f"{path.relative_to(ROOT)}: {library}"
        for path in modules(ROOT)
        for library in imported_by(path)
        if library in set(distributions) - {"anykey", *PACKAGES}
        and not any(declared_name(name) in declared_for(path) for name in distributions[library])
    ]
    assert undeclared == [], "name it in pyproject.toml, or the extra that brings it above"


@pytest.mark.parametrize(
    ("package", "extra", "library"),
    [("service", "serve", "fastapi"), ("training", "train", "matplotlib"), ("benchmark", "bench", "ir_measures")],
)
def test_a_command_without_its_extra_says_at_once_what_to_install(package: str, extra: str, library: str) -> None:
    start = f"import sys; sys.modules[{library!r}] = None; from anykey.{package}.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", start], cwd=ROOT, capture_output=True, text=True)
    needed = f"anykey-{extra}: error: anykey-{extra} needs the library {library}: pip install 'anykey[{extra}]'\n"
    assert (done.returncode, done.stderr) == (1, needed)


def imported_by(path: Path) -> Iterator[str]:
    """The modules that a file imports anywhere, at the top or within a function, by the first part of their names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def declared_for(path: Path) -> set[str]:
    """The distributions that may be imported there, with the first part of their names alone."""
    name = str(path.relative_to(ROOT))
    assert name.startswith(PACKAGES)
    extras = EXTRA_OF.get(name.partition("/")[0], set()) | {
        extra for extra, prefixes in MODULES_OF.items() if name.startswith(prefixes)
    }
    optional = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in brought(optional, extra))]
    return {declared_name(re.split(r"[\[<>=~! ]", line, maxsplit=1)[0]) for line in lines}


def brought(optional: dict[str, list[str]], extra: str) -> Iterator[str]:
    """What an extra brings, and what those that it names do."""
    for line in optional[extra]:
        own = re.fullmatch(r"anykey\[(.+)\]", line)
        yield from [line] if own is None else (part for name in own[1].split(",") for part in brought(optional, name))


def declared_name(distribution: str) -> str:
    """A distribution's name as it is compared, or that of the library which brings it."""
    name = re.sub(r"[-_.]+", "-", distribution).lower()
    return BROUGHT_BY.get(name, name)
