"""Protects what requests are told of an index that is away or damaged, and when."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from anykey.index.errors import IndexCorruptError, IndexUnavailableError, KeyNotFoundError
from anykey.service import errors
from anykey.service.indexes.watch import IndexWatch
from tests.serving import WAIT_S

AWAY = IndexUnavailableError("Milvus at http://10.0.0.7:19530: gone")
DAMAGED = IndexCorruptError(Path("/secret/store.sqlite"), "key 'mine' differs")


class FakeIndex:
    """An index whose check says what the test wants.

    Attributes:
        failure: What the check raises.
        num_checks: How often it was called.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.num_checks = 0

    def check(self) -> None:
        self.num_checks += 1
        if self.failure is not None:
            raise self.failure


def fails(error: Exception) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


def is_refused(require: Callable[[], None]) -> bool:
    try:
        require()
    except errors.IndexUnavailableError:
        return True
    return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.001)


def watched(index: FakeIndex, every_s: float = 0.01) -> IndexWatch:
    return IndexWatch(index.check, every_s=every_s, deadline_s=WAIT_S)


@pytest.mark.parametrize(
    ("failure", "may_be_called"),
    [(AWAY, False), (OSError("/secret: no such file"), False), (RuntimeError("a bug"), False), (DAMAGED, True)],
)
def test_what_the_check_says_decides(failure: Exception, may_be_called: bool) -> None:
    async def scenario() -> None:
        index = FakeIndex()
        watch = watched(index)
        async with watch.running():
            watch.require_sound()
            index.failure = failure
            await until(lambda: is_refused(watch.require_sound))
            assert is_refused(watch.require_reachable) is not may_be_called
            index.failure = None
            await until(lambda: not is_refused(watch.require_sound))
            assert watch.call(str, 5) == "5"

    asyncio.run(scenario())


def test_an_index_that_is_away_is_not_called() -> None:
    async def scenario() -> None:
        index = FakeIndex()
        index.failure = AWAY
        watch = watched(index)
        async with watch.running():
            await until(lambda: is_refused(watch.require_sound))
            with pytest.raises(errors.IndexUnavailableError):
                watch.call(pytest.fail, "the index was called")

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [AWAY, DAMAGED, OSError("/secret: no such file")])
def test_a_failed_call_tells_no_address_and_has_the_index_checked(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        index = FakeIndex()
        watch = watched(index, every_s=WAIT_S * 10)
        async with watch.running():
            await until(lambda: index.num_checks == 1)
            with pytest.raises(errors.IndexUnavailableError) as caught:
                await asyncio.to_thread(watch.call, fails(error))
            assert not {"10.0.0.7", "/secret", "mine"} & set(caught.value.message.split())
            watch.require_sound()
            await until(lambda: index.num_checks == 2)

    asyncio.run(scenario())
    assert "mine" not in caplog.text


def test_what_was_asked_wrongly_is_no_failure_of_the_index() -> None:
    watch = watched(FakeIndex())
    with pytest.raises(KeyNotFoundError):
        watch.call(fails(KeyNotFoundError("no key")))


def test_becoming_unavailable_and_back_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        index = FakeIndex()
        watch = watched(index)
        async with watch.running():
            index.failure = AWAY
            num_checks = index.num_checks
            await until(lambda: index.num_checks > num_checks + 3)
            index.failure = None
            await until(lambda: not is_refused(watch.require_sound))

    with caplog.at_level("INFO"):
        asyncio.run(scenario())
    events = [getattr(record, "event", None) for record in caplog.records]
    assert events == ["index_unavailable", "index_available"]
    assert "10.0.0.7" in caplog.records[0].getMessage()


def test_a_check_that_hangs_makes_the_index_unreachable() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        loop = asyncio.get_running_loop()

        def hang() -> None:
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(WAIT_S)

        watch = IndexWatch(hang, every_s=0.01, deadline_s=0.01)
        async with watch.running():
            await until(lambda: is_refused(watch.require_reachable))
            gate.set()
            await until(lambda: not is_refused(watch.require_reachable))

    asyncio.run(scenario())
