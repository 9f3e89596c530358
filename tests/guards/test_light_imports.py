"""Clients, schemas and command lines load neither torch nor FAISS: importing them is a matter of milliseconds."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.guards.checkout import ROOT

COMMANDS = {"training": "train", "index": "index", "service": "serve", "benchmark": "bench", "encoder": "encoder"}
HEAVY = ("torch", "faiss", "open_clip", "timm", "pymilvus", "transformers", "sentence_transformers")


def heavy_modules_of(statement: str) -> set[str]:
    """What of the heavy libraries a fresh interpreter has loaded after the statement."""
    code = f"import sys\n{statement}\nsys.stdout.write(' '.join(set({HEAVY!r}) & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import anykey.benchmark, anykey.benchmark.metrics, anykey.benchmark.datasets, anykey.benchmark.commands",
        "import anykey.service.schemas, anykey.service.access.schemas, anykey.service.answers.schemas",
        "import anykey.service.embedding.schemas, anykey.service.indexes.schemas, anykey.service.keys.schemas",
        "import anykey.service.operations.schemas, anykey.service.queries.schemas",
        "import anykey.client, anykey.client.clients",
        "import anykey.encoder\nfrom anykey.encoder import Item, Modality, InvalidItemError",
        "import anykey.program.settings, anykey.encoder.images, anykey.encoder.commands",
        "import anykey.index, anykey.index.errors, anykey.index.hits, anykey.index.commands",
        "import anykey.training, anykey.training.commands",
        "import anykey.service, anykey.service.commands, anykey.service.server",
    ],
)
def test_light_modules_load_no_heavy_library(statement: str) -> None:
    assert heavy_modules_of(statement) == set()


@pytest.mark.parametrize("package", COMMANDS)
def test_a_command_says_its_version_without_them(package: str) -> None:
    said = heavy_modules_of(f"from {package}.__main__ import main\nassert main(['--version']) == 0")
    assert said == {f"anykey-{COMMANDS[package]}", version("anykey")}


def test_the_guard_notices_a_heavy_module() -> None:
    assert "torch" in heavy_modules_of("import anykey.encoder\nanykey.encoder.Encoder")


SERVE = """
from anykey.encoder.item import Item
from tests.fakes import FakeEncoder
from tests.serving import MemoryIndex, serving, stored
encoder = FakeEncoder()
with serving(encoder, MemoryIndex(encoder, [stored("note", Item(text="a note"))])) as client:
    assert client.post("/search", json={"text": "a"}).status_code == 200
"""


def test_a_service_without_rerankers_answers_without_their_library() -> None:
    assert "sentence_transformers" not in heavy_modules_of(SERVE)


MAKE = """
import sys
from pathlib import Path
from anykey.index import EncoderFacts, create_index
create_index(Path(sys.argv[1]), EncoderFacts(name="e", fingerprint="sha256:0", width=4, fusion="raw"))
"""
SEARCH = """
import sys
from pathlib import Path
import numpy as np
from anykey.index import FaissIndex
with FaissIndex.open(Path(sys.argv[1])) as index:
    assert index.search(np.eye(1, 4, dtype=np.float32), 1) == [[]]
sys.stdout.write(" ".join(sys.modules))
"""
MOST_MODULES = 39  # of ours, to open an index and search it: 32, and the seven packages that they are in


def test_reading_an_index_loads_nothing_that_writes_and_no_reader_of_files(tmp_path: Path) -> None:
    for code in (MAKE, SEARCH):
        command = [sys.executable, "-c", code, str(tmp_path / "i")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    loaded = set(done.stdout.split())
    ours = [name for name in loaded if name.startswith("anykey.")]
    above = ("anykey.index.publish", "anykey.index.jobs", "anykey.sources", "anykey.index.settings")
    assert [name for name in ours if name.startswith(above)] == []
    assert loaded & {"pyarrow", "fsspec", "PIL", "torch", "rich"} == set()
    assert len(ours) <= MOST_MODULES
