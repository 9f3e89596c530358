"""Threads that search, change and compact one index at once: every answer is the index at one moment of its call."""

import itertools
import resource
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from anykey.index import FaissIndex, StoredImage
from anykey.index.errors import KeyNotFoundError
from anykey.index.filtering.conditions import Range
from anykey.index.key_index import NewKey, Scope
from tests.live_index import WIDTH, make_index, unit_vectors

DURATION_S = 1.0
PATIENCE_S = 60.0  # of a busy machine
NUM_OTHERS = 50
GROUP = 4  # keys that one call changes together
NUM_STEPS = 10_000  # more than any run gets to; a counter's direction is an angle of a quarter circle by so many


def vector_of(counter: int) -> NDArray[np.float32]:
    """A direction that tells the counter: the first two dimensions, by its angle."""
    angle = np.pi / 2 * counter / NUM_STEPS
    vector_D = np.zeros(WIDTH, np.float32)
    vector_D[:2] = np.cos(angle), np.sin(angle)
    return vector_D


def counted(key: str, counter: int, pool: str = "counted") -> NewKey:
    image = StoredImage(f"{counter}".encode(), "image/png")
    return NewKey(key, vector_of(counter), f"{counter}", (image,), {"counter": counter}, (pool,))


QUERY_1D = np.eye(1, WIDTH, 1, dtype=np.float32)  # scores are sines of the angles


Work = Callable[[threading.Event], None]  # goes on until the event is set


class Counter:
    """A group of keys that are counted up together.

    Attributes:
        name: Of the pool that the keys are in.
        keys: Their names.
        started: The last count that a call was begun with.
        done: The last count that was acknowledged.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.keys = [f"{name}-{number}" for number in range(GROUP)]
        self.started = self.done = 0

    def count_up(self, index: FaissIndex) -> None:
        self.started += 1
        counter = self.started
        index.upsert([counted(key, counter, self.name) for key in self.keys])
        self.done = counter

    def check(self, index: FaissIndex, least: int, is_exact: bool) -> int:
        """Searches for the group once, which was at least at a count before; gives the count that was found."""
        least = max(least, self.done)
        (hits,) = index.search(QUERY_1D, 2 * GROUP, Scope(within=self.keys), exact=is_exact)
        most = self.started
        assert sorted(hit.key for hit in hits) == self.keys, "each key once, whatever was changed meanwhile"
        (counter,) = {int(hit.payload.metadata["counter"]) for hit in hits}  # of one moment
        assert least <= counter <= most
        for hit in hits:
            assert hit.payload.text == f"{counter}"
            assert hit.score == pytest.approx(float(QUERY_1D[0] @ vector_of(counter)), abs=1e-5)
        return counter


@contextmanager
def running(works: Sequence[Work]) -> Iterator[None]:
    """Lets each work in a thread until the block ends or one fails; raises what was raised."""
    stop = threading.Event()

    def watch(work: Work) -> None:
        try:
            work(stop)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(len(works)) as threads:
        futures = [threads.submit(watch, work) for work in works]
        try:
            stop.wait(DURATION_S)
            yield
        finally:
            stop.set()
        for future in futures:
            future.result()


@pytest.fixture
def index_dir(tmp_path: Path) -> Path:
    others = [NewKey(f"other-{n}", vector_D, "other") for n, vector_D in enumerate(unit_vectors(NUM_OTHERS))]
    return make_index(tmp_path / "i", others)


def writing(index: FaissIndex, counter: Counter) -> Work:
    def work(stop: threading.Event) -> None:
        while not stop.is_set():
            counter.count_up(index)

    return work


def reading(index: FaissIndex, counters: Sequence[Counter], is_exact: bool) -> Work:
    def work(stop: threading.Event) -> None:
        seen = [0] * len(counters)
        while not stop.is_set():
            seen = [counter.check(index, least, is_exact) for counter, least in zip(counters, seen, strict=True)]

    return work


def looking_up(index: FaissIndex, counter: Counter, num_keys: int) -> Work:
    def work(stop: threading.Event) -> None:
        while not stop.is_set():
            least = counter.done
            found = int(index.get(counter.keys[0]).payload.metadata["counter"])
            assert least <= found <= counter.started
            assert found <= int(index.image(counter.keys[1]).data) <= counter.started
            assert index.count() == num_keys
            assert index.count(Scope(condition=Range(("counter",), gte=least), pool=counter.name)) == GROUP

    return work


def compacting(index: FaissIndex) -> Work:
    def work(stop: threading.Event) -> None:
        while not stop.is_set():
            index.compact()

    return work


@pytest.mark.parametrize("compact_after", [0, 25])
def test_every_answer_is_of_one_moment_of_its_call(index_dir: Path, compact_after: int) -> None:
    counters = [Counter("a"), Counter("b")]
    with (
        FaissIndex.open(index_dir, writable=True, compact_after=compact_after) as index,
        FaissIndex.open(index_dir) as reader,
    ):
        for counter in counters:
            counter.count_up(index)
        works = [writing(index, counter) for counter in counters]
        works += [reading(index, counters, False), reading(reader, counters, True)]
        works += [looking_up(reader, counters[0], NUM_OTHERS + 2 * GROUP)]
        works += [] if compact_after else [compacting(index)]

        give_up_s = time.monotonic() + PATIENCE_S
        with running(works):
            while time.monotonic() < give_up_s and (
                int(index.manifest.version) <= 3 or min(counter.done for counter in counters) <= 10
            ):
                time.sleep(0.05)

        assert min(counter.done for counter in counters) > 10
        assert int(index.manifest.version) > 3
        for counter in counters:
            assert counter.check(reader, counter.done, is_exact=False) == counter.done


def test_deleted_keys_come_and_go_whole(index_dir: Path) -> None:
    with (
        FaissIndex.open(index_dir, writable=True, compact_after=20) as index,
        FaissIndex.open(index_dir) as reader,
    ):
        keys = [f"key-{number}" for number in range(GROUP)]

        def write(stop: threading.Event) -> None:
            while not stop.is_set():
                index.upsert([counted(key, 1) for key in keys])
                assert reader.count(Scope(within=keys)) == GROUP
                assert index.delete(keys) == GROUP
                assert reader.count(Scope(within=keys)) == 0

        def read(stop: threading.Event) -> None:
            while not stop.is_set():
                hits = reader.search(QUERY_1D, 2 * NUM_OTHERS)[0]
                assert len({hit.key for hit in hits} & set(keys)) in (0, GROUP)
                assert len(hits) == len({hit.key for hit in hits}) in (NUM_OTHERS, NUM_OTHERS + GROUP)
                assert index.count(Scope(within=keys)) in (0, GROUP)
                with suppress(KeyNotFoundError):
                    assert index.get(keys[0]).payload.text == "1"

        with running([write, read, read]):
            pass


def test_scan_gives_every_key_that_stays_once_while_others_change(index_dir: Path) -> None:
    with FaissIndex.open(index_dir, writable=True, compact_after=50) as index:
        index.upsert([counted(f"stays-{number:04d}", number) for number in range(1000)])

        def write(stop: threading.Event) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                index.upsert([counted(f"comes-{number}", 1), counted("stays-0500", number)])
                index.delete([f"comes-{number - 1}"])

        with running([write]):
            for _ in range(5):
                names = [stored.key for stored in index.scan()]
                assert names == sorted(set(names))
                assert [name for name in names if name.startswith("stays-")] == [f"stays-{n:04d}" for n in range(1000)]


def test_searches_go_on_while_a_version_is_folded(index_dir: Path) -> None:
    vectors_ND = unit_vectors(10_000, seed=1)
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        index.upsert([NewKey(f"many-{number}", vector_D, "text") for number, vector_D in enumerate(vectors_ND)])
        index.search(QUERY_1D, 5)
        waits: list[float] = []

        def read(stop: threading.Event) -> None:
            while not stop.is_set():
                started_s = time.monotonic()
                index.search(QUERY_1D, 5)
                waits.append(time.monotonic() - started_s)

        started_s = time.monotonic()
        with ThreadPoolExecutor(1) as thread:
            stop = threading.Event()
            future = thread.submit(read, stop)
            index.compact()
            folding_s = time.monotonic() - started_s
            stop.set()
            future.result()

        assert len(waits) > 10
        assert sorted(waits)[len(waits) // 2] < folding_s / 10


@contextmanager
def few_open_files(more: int) -> Iterator[None]:
    """Lets this process open so many files more than it has open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("at_once", [1, 100])
def test_threads_that_come_and_go_leave_no_open_files(tmp_path: Path, at_once: int) -> None:
    keys = [counted(f"k{number}", number) for number in range(20)]
    with FaissIndex.open(make_index(tmp_path / "i", keys)) as index, few_open_files(120):

        def search(number: int) -> list[str]:
            scope = Scope(condition=Range(("counter",), gte=number % 20))
            return [hit.key for hit in index.search(QUERY_1D, 1, scope)[0]]

        found: list[list[str]] = []
        for start in range(0, 400, at_once):
            threads = [
                threading.Thread(target=lambda number=number: found.append(search(number)))
                for number in range(start, start + at_once)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert found == [["k19"]] * 400


def read_without_a_pause(store: Path, stop: threading.Event) -> None:
    """Two readers in turns: each begins before the other one ends."""
    query = "SELECT value FROM meta WHERE name = 'seq'"
    with closing(sqlite3.connect(store)) as first, closing(sqlite3.connect(store)) as second:
        for reader, other in itertools.cycle([(first, second), (second, first)]):
            reader.execute("BEGIN")
            reader.execute(query).fetchone()
            if other.in_transaction:
                other.execute("COMMIT")
            if stop.wait(0.003):
                return


def test_log_of_a_store_that_is_read_without_a_pause_stays_small(tmp_path: Path) -> None:
    index_dir = make_index(tmp_path / "i", [])
    (store,) = index_dir.glob("stores/*/store.sqlite")
    log = store.with_name(f"{store.name}-wal")
    image = StoredImage(bytes(2**20), "image/png")
    largest_bytes = 0
    stop = threading.Event()
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        thread = threading.Thread(target=read_without_a_pause, args=(store, stop))
        thread.start()
        try:
            for number in range(140):  # a MiB each
                index.upsert([NewKey(f"k{number % 5}", vector_of(number), images=(image,))])
                largest_bytes = max(largest_bytes, log.stat().st_size)
        finally:
            stop.set()
            thread.join()
    assert largest_bytes < 80 * 2**20
