"""The service as a program of its own, whose encoder waits until a line arrives on standard input."""

import sys
import threading

from encoder.item import Item
from service.__main__ import serve
from tests.serving import GatedEncoder, MemoryIndex, make_settings, stored


def main() -> int:
    """Serves two keys until a signal comes."""
    encoder = GatedEncoder()
    index = MemoryIndex(encoder, [stored("note", Item(text="a note")), stored("page", Item(text="a page of words"))])
    encoder.gate.clear()

    def open_gate() -> None:
        sys.stdin.readline()
        encoder.gate.set()

    threading.Thread(target=open_gate, daemon=True).start()
    host = sys.argv[2] if sys.argv[1:2] == ["--host"] else "127.0.0.1"
    return serve(make_settings(host=host, port=0, max_batch_items=1), encoder=encoder, index=index)


if __name__ == "__main__":
    raise SystemExit(main())
