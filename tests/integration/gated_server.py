"""The service as a program of its own, whose encoder waits until a line arrives on standard input."""

import sys
import threading

from anykey.encoder.item import Item
from anykey.program.settings import load_settings
from anykey.service.server import serve
from anykey.service.settings import ServiceSettings
from tests.serving import GatedEncoder, MemoryIndex, stored


def main() -> int:
    """Serves two keys until a signal comes."""
    encoder = GatedEncoder()
    index = MemoryIndex(encoder, [stored("note", Item(text="a note")), stored("page", Item(text="a page of words"))])
    encoder.gate.clear()

    def open_gate() -> None:
        sys.stdin.readline()
        encoder.gate.set()

    threading.Thread(target=open_gate, daemon=True).start()
    settings = load_settings(ServiceSettings, "gated-server", sys.argv[1:])
    return serve(settings.model_copy(update={"port": 0, "max_batch_items": 1}), encoder=encoder, index=index)


if __name__ == "__main__":
    raise SystemExit(main())
