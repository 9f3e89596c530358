"""Protects readiness: not before the parts are loaded, not after a failure, not while stopping."""

import asyncio
from pathlib import Path

import pytest

from anykey.encoder.item import Item
from anykey.service.errors import NotReadyError, StartupError
from anykey.service.lifecycle import Lifecycle
from tests.fakes import FakeEncoder
from tests.serving import WAIT_S, MemoryIndex, build_real_index, make_settings, stored

KEYS = [stored("note", Item(text="a note"))]


def test_with_both_parts_given_it_is_ready_at_once_and_not_after_stopping() -> None:
    async def scenario() -> None:
        encoder = FakeEncoder()
        lifecycle = Lifecycle(make_settings(), encoder, MemoryIndex(encoder, KEYS))
        with pytest.raises(NotReadyError, match="starting"):
            lifecycle.parts()
        async with lifecycle.running():
            assert lifecycle.parts().encoder is encoder
        with pytest.raises(NotReadyError, match="shutting down"):
            lifecycle.parts()

    asyncio.run(scenario())


def test_an_index_is_opened_in_the_background_and_closed_at_the_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        encoder = FakeEncoder()
        lifecycle = Lifecycle(make_settings(index=str(build_real_index(tmp_path, encoder, KEYS))), encoder)
        async with lifecycle.running():
            with pytest.raises(NotReadyError):  # nothing has run since the loading was started
                lifecycle.parts()
            async with asyncio.timeout(WAIT_S):
                while not is_ready(lifecycle):
                    await asyncio.sleep(0)
            assert lifecycle.parts().index.info().num_keys == 1

    asyncio.run(scenario())


def test_a_failed_start_is_told_once_and_stays_the_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        failed = asyncio.Event()
        lifecycle = Lifecycle(make_settings(index=str(tmp_path / "none")), FakeEncoder(), on_failure=failed.set)
        async with lifecycle.running():
            async with asyncio.timeout(WAIT_S):
                await failed.wait()
            assert isinstance(lifecycle.failure, StartupError)
            with pytest.raises(NotReadyError, match="build one with"):
                lifecycle.parts()

    asyncio.run(scenario())


def is_ready(lifecycle: Lifecycle) -> bool:
    try:
        lifecycle.parts()
    except NotReadyError:
        return False
    return True
