"""Two checkouts of the service, measured in turns on one machine: what a change costs a request, or saves it.

    python -m benchmarks.request_cost --before ../older --checkpoint runs/demo/best --output docs/results/requests.md

Each checkout has its own environment (`make setup`), builds its own index of the same texts, and serves it. The two
are asked by turns, a short block of requests each, and a ratio is taken of each pair of blocks, so that other work on
the machine weighs on both.
"""

import argparse
import http.client
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed_report import processor

NUM_KEYS = 3000
NUM_CLIENTS = 8
CROWD_S = 1.0
START_S = 120.0


@dataclass(frozen=True)
class Server:
    """A running service.

    Attributes:
        pid: Its process.
        port: Where it listens.
    """

    pid: int
    port: int

    def connect(self) -> http.client.HTTPConnection:
        """A connection that stays open between requests."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def cpu_s(self) -> float:
        """Processor time of all its threads so far."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@dataclass(frozen=True)
class Cost:
    """What a request cost.

    Attributes:
        cpu_ms: Processor time of the server.
        wall_ms: Median time to the answer; of many clients, the time in which the server gives one answer.
    """

    cpu_ms: float
    wall_ms: float


Ask = Callable[[http.client.HTTPConnection, int], None]
Measure = Callable[[Server], Cost]


def main(argv: list[str] | None = None) -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="root of the other checkout")
    parser.add_argument("--checkpoint", required=True, help="what both serve")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--rounds", type=int, default=30, help="blocks of requests to each")
    options = parser.parse_args(argv)
    measures: dict[str, Measure] = {
        "text that was asked before": _block(60, _ask_known),
        f"the same by {NUM_CLIENTS} clients at once": _crowd(_ask_known),
        "new text": _block(20, _ask_new),
        f"new texts by {NUM_CLIENTS} clients at once": _crowd(_ask_new),
        "one key": _block(80, _ask_key),
        "health check": _block(80, _ask_health),
    }
    commit = _commit(options.before)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        corpus = _write_corpus(folder / "corpus.jsonl")
        before, now = (
            stack.enter_context(_serving(root.resolve(), corpus, options.checkpoint, folder / name))
            for root, name in ((options.before, "before"), (Path(), "now"))
        )
        for measure in measures.values():  # warms both
            measure(before), measure(now)
        rows = {name: _in_turns(options.rounds, measure, before, now) for name, measure in measures.items()}
    options.output.write_text(_report(rows, commit), encoding="utf-8")


def _write_corpus(path: Path) -> Path:
    rows = [
        {"key": f"k{n}", "text": f"thing number {n} of colour {n % 7}", "metadata": {"price": n % 100}}
        for n in range(NUM_KEYS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@contextmanager
def _serving(root: Path, corpus: Path, checkpoint: str, index: Path) -> Iterator[Server]:
    """A checkout's service over its own index, ready, and ended with the block."""
    scripts, environment = root / ".venv" / "bin", {**os.environ, "OMP_NUM_THREADS": "1"}
    made = ["--checkpoint", checkpoint, "--corpus", str(corpus), "--output", str(index)]
    subprocess.run([scripts / "anykey-index", "build", *made], env=environment, check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    served = ["--checkpoint", checkpoint, "--index", str(index), "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen([scripts / "anykey-serve", *served], env=environment)
    server = Server(process.pid, port)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _wait_until_ready(server: Server) -> None:
    give_up_s = time.monotonic() + START_S
    while True:
        try:
            _request(server.connect(), "GET", "/readyz")
            return
        except (OSError, RuntimeError):
            if time.monotonic() > give_up_s:
                raise
            time.sleep(0.1)


def _block(num_requests: int, ask: Ask) -> Measure:
    """Some requests one after the other over one connection."""

    def measure(server: Server) -> Cost:
        connection, cpu_s, times_s = server.connect(), server.cpu_s(), []
        for number in range(num_requests):
            started_s = time.perf_counter()
            ask(connection, number)
            times_s.append(time.perf_counter() - started_s)
        return Cost((server.cpu_s() - cpu_s) / num_requests * 1000, statistics.median(times_s) * 1000)

    return measure


def _crowd(ask: Ask) -> Measure:
    """Clients that each ask again as soon as they have an answer."""

    def measure(server: Server) -> Cost:
        counts, cpu_s, ends_s = [0] * NUM_CLIENTS, server.cpu_s(), time.monotonic() + CROWD_S

        def client(number: int) -> None:
            connection = server.connect()
            while time.monotonic() < ends_s:
                ask(connection, number)
                counts[number] += 1

        threads = [threading.Thread(target=client, args=(number,)) for number in range(NUM_CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return Cost((server.cpu_s() - cpu_s) / sum(counts) * 1000, CROWD_S / sum(counts) * 1000)

    return measure


def _ask_known(connection: http.client.HTTPConnection, number: int) -> None:
    _request(connection, "POST", "/search", {"text": "a thing", "k": 10})


def _ask_new(connection: http.client.HTTPConnection, number: int) -> None:
    _request(connection, "POST", "/search", {"text": f"thing {time.time_ns()}", "k": 10})


def _ask_key(connection: http.client.HTTPConnection, number: int) -> None:
    _request(connection, "GET", f"/keys/k{number}")


def _ask_health(connection: http.client.HTTPConnection, number: int) -> None:
    _request(connection, "GET", "/livez")


def _request(
    connection: http.client.HTTPConnection, method: str, path: str, fields: dict[str, object] | None = None
) -> None:
    body = None if fields is None else json.dumps(fields)
    connection.request(method, path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise RuntimeError(f"{method} {path} was answered with {response.status}: {answer[:200]!r}")


def _in_turns(num_rounds: int, measure: Measure, before: Server, now: Server) -> list[tuple[Cost, Cost]]:
    """Costs of both, round by round; who goes first changes."""
    pairs = []
    for number in range(num_rounds):
        order = (before, now) if number % 2 else (now, before)
        costs = {server.pid: measure(server) for server in order}
        pairs.append((costs[before.pid], costs[now.pid]))
    return pairs


def _report(rows: dict[str, list[tuple[Cost, Cost]]], commit: str) -> str:
    lines = [
        "# What a request costs\n",
        f"`make perf-requests` asks two checkouts of the service in turns: this one, and that of commit `{commit}`.",
        f"Both serve {NUM_KEYS:,} texts with the same small model; {processor()}, {os.cpu_count()} cores,",
        f"Python {platform.python_version()}. Times are medians in milliseconds. A ratio is the median of the ratios",
        "of blocks that were measured right after each other; below 1, this checkout is faster.\n",
        "| request | processor time, before | now | ratio | time to the answer, before | now | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, pairs in rows.items():
        cells = []
        for cost in (lambda cost: cost.cpu_ms, lambda cost: cost.wall_ms):
            cells += [f"{statistics.median(cost(pair[side]) for pair in pairs):.2f}" for side in (0, 1)]
            cells.append(f"{statistics.median(cost(pair[1]) / cost(pair[0]) for pair in pairs):.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append(f"\nBy {NUM_CLIENTS} clients at once, the time is the one in which the server gives one answer.\n")
    return "\n".join(lines)


def _commit(root: Path) -> str:
    command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
