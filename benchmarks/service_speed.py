"""Measures the service beside clip-retrieval and infinity: `python -m benchmarks.service_speed --help`.

All have the same weights, a ViT-B/32 of random numbers, the same keys and the same photos, on one machine, which the
client shares. They are asked in turns. Each part is recorded once it is measured, and can be measured alone.
"""

import argparse
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from anykey.benchmark.load.stored_answer import stored_answer
from anykey.encoder import Encoder, Item, Role
from anykey.index.faiss_index import FaissIndex
from anykey.program.settings import plain_console
from benchmarks.recorded import Recorded
from benchmarks.service_inputs import ServiceInputs, new_photos, prepare, texts
from benchmarks.service_load import Outcome, Target, at_rate, crowd, one_answer
from benchmarks.service_page import write_page
from benchmarks.service_servers import (
    CACHE,
    CLIP_RETRIEVAL,
    INFINITY,
    OURS,
    Server,
    clip_retrieval_command,
    free_port,
    infinity_command,
    our_command,
    serving,
)
from benchmarks.speed_report import processor

PARTS = ("text", "image", "embed-text", "embed-image", "saturation", "overhead", "cached", "overload", "client")
K = 10
SHARES = (0.25, 0.5, 0.75, 0.9, 1.05)  # of what a service answers at most, at which its latency is measured
LIGHT_SHARE = 0.5  # of what the slowest answers at most: the rate at which medians are compared
CLIENTS = 32  # who each ask again as soon as they are answered
BATCH_SIZES = (8, 16, 32, 64)
SATURATING = (8, 16, 32, 64)  # clients: as many as get most, which differs by the encoder
BATCHED = 32  # queries in one request
BATCHED_BY = (1, 2, 4, 8)  # clients who send such requests: as many as get most
MOST_KEPT = 10_000
CACHED_RATE = 1000.0
NUM_KNOWN = 50
OVERLOAD = 10  # times what it answers at most

Bodies = Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class Plan:
    """How long and how often it is measured.

    Attributes:
        num_keys: Keys of each index.
        rounds: How often everybody has a turn.
        crowd_s: Length of a turn in which as much is asked as is answered.
        rate_s: Length of a turn at one rate.
        overload_s: Length of the overload.
    """

    num_keys: int = 100_000
    rounds: int = 3
    crowd_s: float = 6.0
    rate_s: float = 8.0
    overload_s: float = 60.0


class Session:
    """What one run of the instrument has open: services are started when they are first asked for."""

    def __init__(
        self, inputs: ServiceInputs, peers: Path, plan: Plan, stack: ExitStack, say: Callable[[str], object]
    ) -> None:
        self.inputs, self.plan, self.say = inputs, plan, say
        self.photos = inputs.photos()
        self._peers, self._stack = peers, stack
        self._servers: dict[str, Server] = {}

    def server(self, name: str) -> Server:
        """A running service."""
        if name not in self._servers:
            self.say(f"starting {name}")
            port, log = free_port(), self.inputs.folder / f"{name}.log"
            command, ready = {
                OURS: lambda: (our_command(self.inputs, port), "/readyz"),
                CLIP_RETRIEVAL: lambda: (clip_retrieval_command(self.inputs, self._peers, port), "/indices-list"),
                INFINITY: lambda: (infinity_command(self.inputs, self._peers, port), "/health"),
            }[name]()
            self._servers[name] = self._stack.enter_context(serving(name, command, port, ready, log))
        return self._servers[name]

    def encoder(self) -> Encoder:
        """The encoder as the service loads it, in this process."""
        self.server(OURS)  # which finds out what is fastest here
        os.environ["XDG_CACHE_HOME"] = str(self.inputs.folder / CACHE)
        return Encoder.load(self.inputs.checkpoint, device="cpu", backend="auto")

    def search(self, name: str, kind: str) -> Target:
        """Searches with new texts or photos."""
        field = "text" if kind == "text" else "image"
        if name == OURS:
            path, more = "/search", {"k": K}
        else:
            path = "/knn-service"
            without = ("deduplicate", "use_safety_model", "use_violence_detector", "use_mclip")
            more = {"modality": "image", "num_images": K, "num_result_ids": K, "indice_name": "keys"}
            more |= dict.fromkeys(without, False)
        return self._target(name, path, ({field: value, **more} for value in self._values(kind)))

    def embed(self, name: str, kind: str) -> Target:
        """New texts or photos to embed, asked for as infinity's clients do."""
        values = (value if kind == "text" else f"data:image/jpeg;base64,{value}" for value in self._values(kind))
        more = {"model": self.inputs.checkpoint.name} if name == INFINITY else {}
        bodies = ({**more, "modality": kind, "input": [value]} for value in values)
        return self._target(name, "/embeddings", bodies)

    def known(self) -> Target:
        """Searches with texts that were asked before, in turn."""
        bodies = [{"text": text, "k": K} for text in itertools.islice(texts(), NUM_KNOWN)]
        return self._target(OURS, "/search", itertools.cycle(bodies))

    def batches(self, kind: str, size: int) -> Target:
        """Searches of ours, so many in one request."""
        field = "text" if kind == "text" else "image"
        queries = ({field: value, "k": K} for value in self._values(kind))
        bodies = ({"queries": list(itertools.islice(queries, size))} for _ in itertools.count())
        return self._target(OURS, "/search/batch", bodies)

    def _values(self, kind: str) -> Iterator[str]:
        return texts() if kind == "text" else new_photos(self.photos)

    def _target(self, name: str, path: str, bodies: Iterator[Mapping[str, Any]]) -> Target:
        server = self.server(name)
        written = (json.dumps(body).encode() for body in bodies)
        return Target(name, server.url, path, written, server.processor_s)


def beside(session: Session, kind: str, names: Sequence[str], target: Callable[[str, str], Target]) -> dict[str, Any]:
    """Throughput, latency at the same light rate, and latency over rates, of ours and another.

    Args:
        session: What is open.
        kind: `text` or `image`.
        names: Of the services.
        target: What is asked of a service.
    """
    plan, targets = session.plan, {name: target(name, kind) for name in names}
    answers = {name: one_answer(targets[name]) for name in names}
    for name in names:
        crowd(targets[name], CLIENTS, plan.crowd_s / 2)
    most: dict[str, list[float]] = {name: [] for name in names}
    for name in _in_turns(names, plan.rounds):
        most[name].append(crowd(targets[name], CLIENTS, plan.crowd_s).answered_per_s)
        session.say(f"{kind}: {name} answers {most[name][-1]:.1f}/s")
    light = LIGHT_SHARE * min(median(found) for found in most.values())
    at_light: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for name in _in_turns(names, plan.rounds):
        at_light[name].append(at_rate(targets[name], light, plan.rate_s).facts())
        session.say(f"{kind}: {name} at {light:.1f}/s: {at_light[name][-1]['latency_ms']}")
    curves = {
        name: [at_rate(targets[name], share * median(most[name]), plan.rate_s).facts() for share in SHARES]
        for name in names
    }
    return {
        "most_per_s": most,
        "light_rate": light,
        "at_light": at_light,
        "curves": curves,
        "num_bytes": {name: len(json.dumps(answer)) for name, answer in answers.items()},
    }


def saturation(session: Session) -> dict[str, Any]:
    """What the encoder alone embeds at most in this process, beside what the service answers at most."""
    encoder = session.encoder()
    kinds = {kind: saturation_by(kind, session, encoder) for kind in ("text", "image")}
    return {"way": f"{encoder.precision} by {encoder.backend}", **kinds}


def saturation_by(kind: str, session: Session, encoder: Encoder) -> dict[str, Any]:
    """The same for texts or photos."""
    alone: list[dict[int, float]] = []
    single, batched, cores = [], [], []
    one, many, seconds = session.search(OURS, kind), session.batches(kind, BATCHED), session.plan.crowd_s
    num_many = max(BATCHED_BY, key=lambda number: answered_queries(many, number, seconds))
    num_clients = max(SATURATING, key=lambda number: crowd(one, number, seconds).answered_per_s)
    for _ in range(session.plan.rounds):
        alone.append(raw_rates(encoder, items_of(session, kind, 256 if kind == "text" else 96)))
        batched.append(answered_queries(many, num_many, seconds))
        outcome = crowd(one, num_clients, seconds)
        single.append(outcome.answered_per_s)
        cores.append(outcome.cores)
        session.say(
            f"saturation, {kind}: encoder {max(alone[-1].values()):.1f}/s, service {single[-1]:.1f}/s to "
            f"{num_clients} clients, in batches {batched[-1]:.1f}/s to {num_many}"
        )
    return {
        "alone": [{str(size): rate for size, rate in rates.items()} for rates in alone],
        "clients": {"single": num_clients, "batched": num_many},
        "single": single,
        "batched": batched,
        "cores": cores,
    }


def answered_queries(target: Target, num_clients: int, duration_s: float) -> float:
    """Queries that are answered in a second where each request has `BATCHED` of them."""
    outcome = crowd(target, num_clients, duration_s, num_kept=MOST_KEPT)
    return BATCHED * share_answered([body for _, body in outcome.bodies]) * outcome.answered_per_s


def share_answered(bodies: Sequence[bytes]) -> float:
    """Of the queries of some batches, how many have an answer; others have an error in its place."""
    answers = [answer for body in bodies for answer in json.loads(body)["answers"]]
    return sum("hits" in answer for answer in answers) / max(1, len(answers))


def ceiling(session: Session) -> dict[str, Any]:
    """What the client sends at most where a service takes no time, and what that costs it."""
    found = {}
    answer = json.dumps(one_answer(session.known())).encode()
    with stored_answer(answer) as url:
        for kind, target in (("known", session.known()), ("image", session.search(OURS, "image"))):
            outcome = crowd(replace(target, url=url, processor_s=None), CLIENTS, session.plan.crowd_s / 2)
            most_per_s = outcome.answered_per_s
            found[kind] = {"most_per_s": most_per_s, "client_ms": 1000 * outcome.cores["client"] / most_per_s}
    return found


def items_of(session: Session, kind: str, number: int) -> list[Item]:
    """New items."""
    if kind == "text":
        return [Item(text) for text in itertools.islice(texts(), number)]
    return [Item(images=(session.photos[n % len(session.photos)],)) for n in range(number)]


def raw_rates(encoder: Encoder, items: Sequence[Item]) -> dict[int, float]:
    """Items a second by batch size: prepared in as many threads as there are cores while the batch before computes."""
    rates = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for size in BATCH_SIZES:
            prepared = pool.map(lambda item: encoder.prepare(item, Role.QUERY), items)
            started_s = time.perf_counter()
            while batch := list(itertools.islice(prepared, size)):
                encoder.encode_prepared(batch)
            rates[size] = len(items) / (time.perf_counter() - started_s)
    return rates


def overhead(session: Session) -> dict[str, Any]:
    """The median latency of lone queries, and of what the encoder and the index alone take for the like of them."""
    encoder = session.encoder()
    found: dict[str, list[float]] = {"service": [], "encoder": [], "index": []}
    stages: dict[str, list[float]] = {}
    rate = 8.0
    target = session.search(OURS, "text")
    with FaissIndex.open(session.inputs.index) as index:
        for _ in range(session.plan.rounds):
            outcome = at_rate(target, rate, session.plan.rate_s, is_even=True, num_kept=10_000)
            found["service"].append(outcome.facts()["latency_ms"]["p50"])
            vectors, times_s = [], []
            for item in items_of(session, "text", int(rate * session.plan.rate_s)):
                started_s = time.perf_counter()
                vectors.append(encoder.encode_prepared([encoder.prepare(item, Role.QUERY)])[0])
                times_s.append(time.perf_counter() - started_s)
                time.sleep(max(0.0, 1 / rate - times_s[-1]))
            found["encoder"].append(1000 * median(times_s))
            found["index"].append(1000 * median(_search_times_s(index, np.stack(vectors), 1 / rate)))
            for _, body in outcome.bodies:
                for stage, ms in json.loads(body)["timings_ms"].items():
                    stages.setdefault(stage, []).append(ms)
            session.say(f"overhead: { ({name: values[-1] for name, values in found.items()}) }")
    return {**found, "rate": rate, "stages": {stage: median(values) for stage, values in stages.items()}}


def _search_times_s(index: FaissIndex, vectors_QD: Any, pause_s: float) -> list[float]:
    times_s = []
    for vector_D in vectors_QD:
        started_s = time.perf_counter()
        index.search(vector_D[None, :], K)
        times_s.append(time.perf_counter() - started_s)
        time.sleep(max(0.0, pause_s - times_s[-1]))
    return times_s


def cached(session: Session) -> dict[str, Any]:
    """Queries that were asked before, a thousand in a second."""
    target = session.known()
    crowd(target, 1, 1.0)
    runs = []
    for _ in range(session.plan.rounds):
        runs.append(at_rate(target, CACHED_RATE, session.plan.rate_s, is_even=True).facts())
        session.say(f"cached: {runs[-1]['latency_ms']}, {runs[-1]['answered_per_s']:.0f}/s")
    most = [crowd(target, 8, session.plan.crowd_s / 2).answered_per_s for _ in range(session.plan.rounds)]
    return {"rate": CACHED_RATE, "runs": runs, "most_per_s": most}


def overload(session: Session) -> dict[str, Any]:
    """Ten times as many photos as are answered at most, for a minute, and the memory meanwhile."""
    server, target = session.server(OURS), session.search(OURS, "image")
    most = crowd(target, CLIENTS, session.plan.crowd_s).answered_per_s
    rate, duration_s = OVERLOAD * most, session.plan.overload_s
    at_rate(target, rate, min(5.0, duration_s))  # in which pools and queues grow to what they will be
    memory: list[int] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(1.0):
            memory.append(server.memory_bytes())

    watching = threading.Thread(target=watch)
    watching.start()
    outcome: Outcome = at_rate(target, rate, duration_s)
    is_over.set()
    watching.join()
    after = one_answer(target)
    session.say(f"overload: {outcome.facts()}")
    return {"most_per_s": most, "memory_bytes": memory, "hits_after": len(after["hits"]), **outcome.facts()}


def measure(part: str, session: Session) -> dict[str, Any]:
    """One of `PARTS`."""
    pair, embedders = (OURS, CLIP_RETRIEVAL), (OURS, INFINITY)
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "text": lambda: beside(session, "text", pair, session.search),
        "image": lambda: beside(session, "image", pair, session.search),
        "embed-text": lambda: beside(session, "text", embedders, session.embed),
        "embed-image": lambda: beside(session, "image", embedders, session.embed),
        "saturation": lambda: saturation(session),
        "overhead": lambda: overhead(session),
        "cached": lambda: cached(session),
        "overload": lambda: overload(session),
        "client": lambda: ceiling(session),
    }
    return measures[part]()


def _in_turns(names: Sequence[str], rounds: int) -> Iterator[str]:
    """Everybody once a round; who begins changes."""
    for number in range(rounds):
        yield from names[:: 1 if number % 2 else -1]


def _machine() -> str:
    return f"{processor()} with {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, no GPU"


def _parts(value: str) -> list[str]:
    named = [name for name in value.split(",") if name]
    if unknown := set(named) - set(PARTS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    return named


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, records and writes; parts that are not asked for are taken as they were recorded."""
    plan = Plan()
    parser = argparse.ArgumentParser(description="Measures the service beside others.")
    parser.add_argument("--parts", type=_parts, default=list(PARTS), help="parts to measure, with commas; '': the page")
    parser.add_argument("--missing", action="store_true", help="of these, only those that are not recorded yet")
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers"), help="environments that make peers made")
    parser.add_argument("--work", type=Path, help="folder that keeps weights and indexes; default: one among the peers")
    parser.add_argument("--output", type=Path, default=Path("docs/results/service.md"))
    for name, default in vars(plan).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    arguments = parser.parse_args(argv)
    plan = Plan(**{name: getattr(arguments, name) for name in vars(plan)})
    recorded, peers = Recorded(arguments.output.with_suffix("")), arguments.peers.absolute()
    done = recorded.parts(PARTS) if arguments.missing else {}
    wanted = [part for part in PARTS if part in arguments.parts and part not in done]
    console, began_s = plain_console(), time.monotonic()

    def say(what: str) -> None:
        console.print(f"{time.monotonic() - began_s:6.0f} s  {what}")

    with ExitStack() as stack:
        if wanted:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the services end, too
            clip_retrieval = peers / "clip-retrieval" / "bin" / "clip-retrieval"
            needs = clip_retrieval if {"text", "image"} & set(wanted) else None
            inputs = prepare(arguments.work or peers / "service", plan.num_keys, needs, say)
            session = Session(inputs, peers, plan, stack, say)
        for part in wanted:
            say(f"measuring {part}")
            found = measure(part, session)
            recorded.write(part, {"machine": _machine(), "num_keys": plan.num_keys, **found})
    write_page(arguments.output, recorded.parts(PARTS))
    say(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
