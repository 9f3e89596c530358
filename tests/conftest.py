"""What tests of several packages share: a small real encoder, and no network but this machine's own."""

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from encoder.model import Encoder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses connections that would leave this machine, as an unplugged cable would."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if isinstance(host, str) and (host in ("", "localhost", "::1") or host.startswith("127.")):
            return connect(self, address)
        raise OSError(f"tests may not connect to {address}")

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory of `anykey-tiny` with random weights, the same ones each time; read only."""
    import torch

    from encoder.architecture import build, read_architecture
    from encoder.checkpoint import save_checkpoint
    from encoder.fusion import Fusion

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
    from encoder.model import Encoder

    return Encoder.load(tiny_checkpoint)
