"""`anykey-serve` with an encoder that fails on one batch in a hundred, and once takes long over one."""

import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from anykey.encoder import Encoder
from anykey.program.settings import load_settings
from anykey.service.server import serve
from anykey.service.settings import ServiceSettings

FAILS_EACH = 100
HANGS_AT, HANGS_S = 250, 5.0


class UnsteadyEncoder:
    """An encoder that fails and hangs; in all else it is the one that it is given."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._batches = 0
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_prepared(self, prepared: Sequence[Any]) -> Any:
        """The vectors of a batch, if it is a lucky one."""
        with self._lock:
            self._batches += 1
            number = self._batches
        if number == HANGS_AT:
            time.sleep(HANGS_S)
        if number % FAILS_EACH == 0:
            raise RuntimeError("the device did not answer")
        return self._encoder.encode_prepared(prepared)


def main() -> int:
    """Serves until a signal comes."""
    settings = load_settings(ServiceSettings, "anykey-serve", sys.argv[1:])
    assert settings.checkpoint is not None
    encoder = Encoder.load(settings.checkpoint, device="cpu")
    return serve(settings, encoder=UnsteadyEncoder(encoder))


if __name__ == "__main__":
    raise SystemExit(main())
