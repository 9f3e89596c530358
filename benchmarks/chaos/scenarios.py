"""What is broken, how, and what a client may see meanwhile."""

import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos import hostile
from benchmarks.chaos.traffic import Traffic
from benchmarks.chaos.world import World
from benchmarks.service_load import Target, at_rate, crowd

DAY_S = 86_400
MOST_AT_ONCE = 4_000  # photos under way in overload: several times the connections that the service takes
ALWAYS = {"200", "404", "429", "503", "504"}  # 404 only for keys that were deleted
WHILE_DOWN = {"no connection"}
LOCKED = {"409"}


class NotHereError(Exception):
    """A scenario needs what this machine does not have; says what."""


@dataclass
class Scene:
    """What a scenario works with.

    Attributes:
        world: What is broken.
        traffic: The load on it.
        calm_s: How long it runs before and after.
        overload_s: How long the overload lasts.
        num_hostile: How many hostile requests are sent.
        notes: What the scenario found out, for the page.
    """

    world: World
    traffic: Traffic
    calm_s: float
    overload_s: float
    num_hostile: int
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Scenario:
    """Something that breaks.

    Attributes:
        name: In words.
        run: Breaks and mends it, and returns when it is mended.
        allowed: What a client may be answered meanwhile, or see in place of an answer.
    """

    name: str
    run: Callable[[Scene], None]
    allowed: frozenset[str]


def all_scenarios() -> list[Scenario]:
    """In the order in which they are run."""
    quiet, ends = frozenset(ALWAYS), frozenset(ALWAYS | WHILE_DOWN)
    return [
        Scenario("nothing is broken", lambda scene: time.sleep(scene.calm_s), frozenset({"200", "404"})),
        Scenario("Redis is killed, and comes back empty", _redis_killed, frozenset({"200", "404"})),
        Scenario("Redis hangs", _redis_hangs, frozenset({"200", "404"})),
        Scenario("Redis is full", _redis_full, frozenset({"200", "404"})),
        Scenario("Redis comes and goes five times", _redis_flaps, frozenset({"200", "404"})),
        Scenario("one batch in a hundred fails, and one hangs for 5 s", _encoder_unsteady, ends),
        Scenario("SIGTERM, and a new process", _terminated, ends),
        Scenario("kill -9 three times", _killed, ends),
        Scenario("a file of the version is damaged, and mended", _file_damaged, quiet),
        Scenario("a file of the version is replaced by another, and put back", _file_replaced, quiet),
        Scenario("the index is gone, and comes back", _index_gone, quiet | LOCKED),
        Scenario("the disk is full", _disk_full, quiet | {"507", "409"}),
        Scenario("each write to the disk takes 0.2 s longer", _disk_slow, quiet),
        Scenario("the clock jumps a day back, and a year ahead", _clock_jumps, ends),
        Scenario("ten times the load", _overload, quiet),
        Scenario("hostile requests", _hostile, quiet),
    ]


def _redis_killed(scene: Scene) -> None:
    scene.world.signal_redis(signal.SIGKILL)
    time.sleep(scene.calm_s)
    scene.world.start_redis()


def _redis_hangs(scene: Scene) -> None:
    scene.world.signal_redis(signal.SIGSTOP)
    time.sleep(scene.calm_s)
    scene.world.signal_redis(signal.SIGCONT)


def _redis_full(scene: Scene) -> None:
    scene.world.tell_redis("config", "set", "maxmemory-policy", "noeviction")
    scene.world.tell_redis("config", "set", "maxmemory", "1")
    time.sleep(scene.calm_s)
    scene.world.tell_redis("config", "set", "maxmemory", "0")


def _redis_flaps(scene: Scene) -> None:
    for _ in range(5):
        scene.world.signal_redis(signal.SIGKILL)
        time.sleep(scene.calm_s / 10)
        scene.world.start_redis()
        time.sleep(scene.calm_s / 10)


def _encoder_unsteady(scene: Scene) -> None:
    scene.world.end()
    scene.world.start(("-m", "benchmarks.chaos.unsteady_service"))
    time.sleep(4 * scene.calm_s)
    _restart(scene)


def _terminated(scene: Scene) -> None:
    begin_s = time.monotonic()
    exit_code = scene.world.end()
    scene.notes.append(f"ended with {exit_code} after {time.monotonic() - begin_s:.1f} s")
    scene.world.start()


def _killed(scene: Scene) -> None:
    for _ in range(3):
        scene.world.end(signal.SIGKILL)
        scene.world.start()
        time.sleep(scene.calm_s / 3)


def _file_damaged(scene: Scene) -> None:
    path = _largest_file(scene)
    whole = path.read_bytes()
    middle = len(whole) // 2
    with path.open("r+b") as file:
        file.seek(middle)
        file.write(bytes(byte ^ 0xFF for byte in whole[middle : middle + 64]))
    time.sleep(scene.calm_s)
    with path.open("r+b") as file:
        file.seek(middle)
        file.write(whole[middle : middle + 64])
    scene.notes.append(f"64 bytes of `{path.relative_to(scene.world.index_dir)}`")


def _file_replaced(scene: Scene) -> None:
    path = _largest_file(scene)
    aside, other = scene.world.folder / "own", scene.world.folder / "another"
    other.write_bytes(path.read_bytes()[::-1])
    os.link(path, aside)
    other.replace(path)
    time.sleep(scene.calm_s)
    aside.replace(path)
    scene.notes.append(f"`{path.relative_to(scene.world.index_dir)}`")


def _largest_file(scene: Scene) -> Path:
    """That of the versions."""
    versions = scene.world.index_dir / "versions"
    return max((path for path in versions.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def _index_gone(scene: Scene) -> None:
    away = scene.world.folder / "away"
    scene.world.index_dir.rename(away)
    time.sleep(scene.calm_s)
    shutil.rmtree(scene.world.index_dir, ignore_errors=True)
    away.rename(scene.world.index_dir)


def _disk_full(scene: Scene) -> None:
    pid = scene.world.service.pid
    log = next(scene.world.index_dir.rglob("store.sqlite-wal"))
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (log.stat().st_size + 8192, before[1]))
    time.sleep(scene.calm_s)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def _disk_slow(scene: Scene) -> None:
    if shutil.which("strace") is None:
        raise NotHereError("strace is not installed")
    slowed = "inject=fsync,fdatasync:delay_enter=200000"
    command = ["strace", "-f", "-q", "-e", "trace=fsync,fdatasync", "-e", slowed, "-o", os.devnull]
    tracer = subprocess.Popen([*command, "-p", str(scene.world.service.pid)], stderr=subprocess.DEVNULL)
    time.sleep(scene.calm_s)
    if tracer.poll() is not None:
        raise NotHereError("strace may not trace here")
    tracer.send_signal(signal.SIGINT)
    tracer.wait()


def _clock_jumps(scene: Scene) -> None:
    if shutil.which("cc") is None:
        raise NotHereError("there is no C compiler, for a clock that can be moved")
    library, clock = scene.world.folder / "jumping_clock.so", scene.world.folder / "clock"
    source = Path(__file__).with_name("jumping_clock.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    clock.write_text("0".ljust(20))
    scene.world.end()
    scene.world.start(environment={"LD_PRELOAD": str(library), "JUMPING_CLOCK": str(clock)})
    for moved_s in (-DAY_S, 365 * DAY_S, 0):
        clock.write_text(str(moved_s).ljust(20))
        time.sleep(scene.calm_s / 2)
    _restart(scene)


def _overload(scene: Scene) -> None:
    # From a process of its own: the clients whose answers are judged are not to wait for it.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        most = apart.submit(_most_photos, scene.world.url, scene.calm_s).result()
        before = scene.world.resident_bytes()
        overload = apart.submit(_photos_at, scene.world.url, 10 * most, scene.overload_s).result()
    grown = (scene.world.resident_bytes() - before) / 2**20
    p99_ms = {kind: overload[kind].get("p99", 0.0) for kind in ("latency_ms", "refusal_ms")}
    scene.notes.append(
        f"{most:.0f} photos a second are answered at most; at ten times that, for {scene.overload_s:.0f} s, "
        f"{overload['answered']:,} of {overload['due']:,} are answered (p99 {p99_ms['latency_ms']:,.0f} ms), others "
        f"get {overload['errors']} (p99 {p99_ms['refusal_ms']:,.0f} ms), and {overload['not_sent']:,} find too many "
        f"under way to be sent; {overload['late'] / max(1, overload['sent']):.0%} were sent late; "
        f"{grown:+.0f} MiB"
    )
    for status in overload["errors"]:
        scene.traffic.tally.outcomes["overload", status] += overload["errors"][status]


def _most_photos(url: str, duration_s: float) -> float:
    """How many photos a second are answered at most."""
    return crowd(Target("AnyKey", url, "/search", _unlike_bodies()), 16, duration_s).answered_per_s


def _photos_at(url: str, rate: float, duration_s: float) -> dict[str, Any]:
    """What becomes of photos that come at a rate, each on a connection of its own."""
    target = Target("AnyKey", url, "/search", _unlike_bodies(), headers={"connection": "close"})
    return at_rate(target, rate, duration_s, max_in_flight=MOST_AT_ONCE).facts()


def _unlike_bodies() -> Iterator[bytes]:
    number = 0
    while True:
        number += 1
        photo = hostile.photo(number)
        yield b'{"image": "' + photo + b'", "k": 3}'


def _hostile(scene: Scene) -> None:
    host, port = scene.world.url.removeprefix("http://").split(":")
    with _forbidden() as (url, visits), ThreadPoolExecutor(16) as pool:
        requests = list(hostile.requests(scene.num_hostile, url))
        statuses = pool.map(lambda request: hostile.send(host, int(port), request[1]), requests)
        for (kind, _), status in zip(requests, statuses, strict=True):
            scene.traffic.tally.outcomes["hostile", "no answer" if status is None else str(status)] += 1
            if status is not None and status >= 500 and status not in (503, 504):
                scene.traffic.tally.faults.append(f"{kind}: {status}")
    if visits:
        scene.traffic.tally.faults.append(f"the service asked {url} {len(visits)} times")
    kinds = len({kind for kind, _ in requests})
    scene.notes.append(
        f"{scene.num_hostile:,} requests of {kinds} kinds; a server that none may reach had {len(visits)} visits"
    )


@contextmanager
def _forbidden() -> Iterator[tuple[str, list[int]]]:
    """A listener that nobody may connect to; gives its address and who came."""
    visits: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def wait() -> None:
            while True:
                try:
                    connection, address = listener.accept()
                except OSError:
                    return
                visits.append(address[1])
                connection.close()

        threading.Thread(target=wait, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", visits
        listener.shutdown(socket.SHUT_RDWR)


def _restart(scene: Scene) -> None:
    scene.world.end()
    scene.world.start()
