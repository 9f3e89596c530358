"""What tests of several packages share: a small real encoder, and no network but this machine's own."""

import gc
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.site import Site, serve

if TYPE_CHECKING:
    from anykey.encoder.model import Encoder
    from tests.visualized import Toy


MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 * 2**30  # several times of what the tests have on disk at once
LONG = ("integration", "training", "congruence", "contract", "guards", "benchmarks")  # they start processes and train


def pytest_configure() -> None:
    """Puts the tests' folders into memory where it has room: indexes and runs wait for a disk at every change."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    for command in ("ANYKEY_", "ANYKEY_INDEX_"):  # vectors are compared to the last digits, and nothing is to be tried
        os.environ.setdefault(f"{command}BACKEND", "torch")
    gc.disable()  # until all tests are known: to look for garbage among modules takes a quarter of the time till then


def pytest_collection_finish() -> None:
    """Leaves all that was imported and listed out of later searches for garbage, for none of it will be."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the long ones: at the end they would leave one process with work and the others without."""
    items.sort(key=lambda item: not any(folder in item.path.parts for folder in LONG))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses connections that would leave this machine, as an unplugged cable would."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connect_locally(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not _is_local(address[0]):
            raise OSError(f"tests may not connect to {address}")
        connect(self, address)

    def look_up_locally(host: Any, *arguments: Any, **options: Any) -> Any:
        if not _is_local(host):
            raise socket.gaierror(f"tests may not look up {host}")
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)
    monkeypatch.setattr(socket, "getaddrinfo", look_up_locally)


def _is_local(host: Any) -> bool:
    name = host.decode() if isinstance(host, bytes) else str(host or "")
    return name in ("", "localhost", "::1", "0.0.0.0") or name.startswith("127.")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A web server of this machine's own; readers do not pause before they ask it again."""
    monkeypatch.setattr("anykey.sources.files.http_files.PAUSES_S", (0.0, 0.0))
    with serve() as server:
        yield server


@pytest.fixture
def memory() -> Iterator[Any]:
    """The file system that `memory://` URLs name, empty."""
    import fsspec

    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory of `anykey-tiny` with random weights, the same ones each time; read only."""
    import torch

    from anykey.encoder.fusion import Fusion
    from anykey.encoder.towers.architecture import build, read_architecture
    from anykey.encoder.towers.checkpoint import save_checkpoint

    architecture = read_architecture("anykey-tiny")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = build(architecture).state_dict()
    path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save_checkpoint(path, architecture, weights, Fusion.RAW, {"made_by": "tests"})
    return path


@pytest.fixture(scope="session")
def tiny_encoder(tiny_checkpoint: Path) -> "Encoder":
    """The encoder of `tiny_checkpoint`."""
    from anykey.encoder.model import Encoder

    return Encoder.load(tiny_checkpoint)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> "Toy":
    """VISTA's weights at toy size, and what the original code makes of them; read only."""
    from tests.visualized import unpack

    return unpack(tmp_path_factory.mktemp("visualized"))


@pytest.fixture(scope="session")
def fusion_checkpoint(toy: "Toy", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory with native fusion and random weights, the same ones each time; read only."""
    from anykey.encoder.native_fusion.visualized import convert_visualized

    path = tmp_path_factory.mktemp("checkpoints") / "fusion"
    convert_visualized(toy.weights("base"), toy.text("base"), path)
    return path


@pytest.fixture(scope="session")
def fusion_encoder(fusion_checkpoint: Path) -> "Encoder":
    """The encoder of `fusion_checkpoint`."""
    from anykey.encoder.model import Encoder

    return Encoder.load(fusion_checkpoint)


@pytest.fixture(scope="session")
def sentence_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What sentence-transformers saved of a small Qwen3-VL with random weights, the same ones each time; read only."""
    from tests.sentence_models import save_qwen

    return save_qwen(tmp_path_factory.mktemp("checkpoints") / "qwen")


@pytest.fixture(scope="session")
def sentence_encoder(sentence_checkpoint: Path) -> "Encoder":
    """The encoder of `sentence_checkpoint`."""
    from anykey.encoder.model import Encoder

    return Encoder.load(sentence_checkpoint, device="cpu")
