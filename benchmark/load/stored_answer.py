"""A server that answers every request with one stored answer: what a client reaches where the service takes no time.

`python -m anykey.benchmark.load.stored_answer` reads the answer as one line of its input, writes its port as one line
of its output, and serves on 127.0.0.1 until its input ends.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httptools


class _Answerer(asyncio.Protocol):
    """One connection; the parser calls `on_message_complete`."""

    def __init__(self, response: bytes) -> None:
        self._response = response
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._transport.write(self._response)


@contextmanager
def stored_answer(answer: bytes) -> Iterator[str]:
    """The address of such a server in a process of its own, which ends with the block.

    Args:
        answer: The body of its answers: JSON without a line break.

    Raises:
        OSError: it does not start.
    """
    command = [sys.executable, "-P", "-m", __name__]
    # In a group of its own, so that Ctrl-C on a terminal does not reach it.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(answer + b"\n")
        server.stdin.flush()
        port = server.stdout.readline().decode().strip()
        if not port:
            raise OSError("the server that the client's ceiling is measured with did not start")
        yield f"http://127.0.0.1:{port}"


async def _serve(answer: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(answer)}\r\n\r\n"
    loop = asyncio.get_running_loop()
    response = head.encode("ascii") + answer
    async with await loop.create_server(lambda: _Answerer(response), "127.0.0.1", 0) as server:
        sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.buffer.read)


if __name__ == "__main__":
    asyncio.run(_serve(sys.stdin.buffer.readline().rstrip(b"\n")))
