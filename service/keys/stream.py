"""Thousands of keys in one request, a JSON object a line, and an answer that tells of each line while others arrive.

Memory is bounded: lines are read only as fast as the model takes keys and the index stores them, and no more of them
are held at a time than one body may have bytes.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Send

from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.errors import ItemTooLargeError, ServiceError
from anykey.service.keys.changes import KeyToStore, RefusedKey, key_from_line
from anykey.service.keys.schemas import ErrorSummary, StreamedOutcome, StreamSummary
from anykey.service.keys.storing import KeyStorer, ReadyChange, told
from anykey.service.queries.known import SHORT_BYTES
from anykey.service.requests.body import Inflater, Take
from anykey.service.requests.deadline import within
from anykey.service.requests.image_urls import ImageFetcher, Run
from anykey.service.schemas import Limits

T = TypeVar("T")
MEDIA_TYPE = "application/x-ndjson"
MEDIA_TYPES = frozenset({MEDIA_TYPE, "application/ndjson", "application/jsonl", "application/x-jsonlines"})
MAX_AHEAD = 512  # lines that are read and not stored yet
MAX_COMMIT = 256  # of them that are made durable together
MAX_UNSENT_BYTES = 8 * 2**20  # of outcomes that the client has not read: many clients read when they have sent all
BLANKS = re.compile(rb"[ \t\n\r\f\v]*")
INFLATED_FROM = 4096  # bytes at a time, of which zlib may make four megabytes


class Lines:
    """Splits what arrives into lines, passes over blank ones, and lets go of the bytes of one that is too long.

    A few bytes of gzip hold millions of blank lines, so that none of them may cost more than a byte does.
    """

    def __init__(self, max_bytes: int) -> None:
        """Begins before the first line.

        Args:
            max_bytes: Longest line that is kept.
        """
        self._max_bytes = max_bytes
        self._begun = bytearray()
        self._is_too_long = False
        self._number = 1  # of the line that has begun

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes | None]]:
        """The lines that end in a piece, each with its number from 1, without its end and the white space before it.

        Of one that is too long there is `None`.
        """
        start = 0
        while (start := self._past_blanks(data, start)) < len(data):
            end = data.find(b"\n", start)
            self._keep(data[start:] if end < 0 else data[start:end])
            if end < 0:
                return
            yield self._ended()
            start = end + 1

    def finish(self) -> Iterator[tuple[int, bytes | None]]:
        """The last line, if it has no end."""
        if self._begun or self._is_too_long:
            yield self._ended()

    def _past_blanks(self, data: bytes, start: int) -> int:
        """Where the next line that is not blank goes on; counts the lines before it."""
        if self._begun or self._is_too_long:
            return start
        found = BLANKS.match(data, start)
        assert found is not None
        end = found.end()
        self._number += data.count(b"\n", start, end)
        return end

    def _keep(self, data: bytes) -> None:
        if self._is_too_long or len(self._begun) + len(data) > self._max_bytes:
            self._begun.clear()
            self._is_too_long = True
        else:
            self._begun += data

    def _ended(self) -> tuple[int, bytes | None]:
        number, line = self._number, None if self._is_too_long else bytes(self._begun)
        self._begun.clear()
        self._is_too_long = False
        self._number += 1
        return number, line


class _Allowance:
    """Bytes that may be held at a time; who wants more waits."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._changed = asyncio.Event()

    async def take(self, num_bytes: int) -> None:
        """Waits until so many bytes may be held; a piece that is larger than all of it waits to be the only one."""
        while self._held_bytes and self._held_bytes + num_bytes > self._max_bytes:
            self._changed.clear()
            await self._changed.wait()
        self._held_bytes += num_bytes

    def give_back(self, num_bytes: int) -> None:
        self._held_bytes -= num_bytes
        self._changed.set()


@dataclass
class _Room:
    """What is held for a line and its images, in bytes."""

    num_bytes: int


@dataclass(frozen=True)
class _Line:
    """A line that is read: its number, what is held for it, and the key that is being made ready."""

    number: int
    room: _Room
    ready: "asyncio.Task[ReadyChange]"


class KeyStream:
    """One request's stream of keys; used once, in one event loop."""

    def __init__(
        self,
        storer: KeyStorer,
        limits: Limits,
        *,
        threads: BoundedThreads,
        pause_s: float,
        only_failed: bool,
        inflater: Inflater | None,
        fetcher: ImageFetcher,
        spend: Callable[[KeyToStore | RefusedKey], Awaitable[None]],
    ) -> None:
        """Joins the parts.

        Args:
            storer: Stores the keys.
            limits: What a key may have.
            threads: For parsing long lines, and what is compressed.
            pause_s: Longest wait for the client to send more, or to read more.
            only_failed: Whether outcomes of keys that were stored are left out, but counted.
            inflater: Takes the compression off.
            fetcher: Fetches images that a line names by their addresses.
            spend: Counts a key's images, and raises where the caller sends too many.
        """
        self._storer = storer
        self._limits = limits
        self._threads = threads
        self._pause_s = pause_s
        self._only_failed = only_failed
        self._inflater = inflater
        self._fetcher = fetcher
        self._spend = spend
        self._allowance = _Allowance(limits.max_body_bytes)
        self._places = asyncio.Semaphore(MAX_AHEAD)
        self._ahead: deque[_Line] = deque()
        self._has_come = asyncio.Event()
        self._is_read = False
        self._answer = _Answer(pause_s)
        self._summary = StreamSummary(done=False, num_lines=0, num_stored=0, num_failed=0, seq=None, error=None)

    @property
    def counts(self) -> dict[str, int]:
        """How many lines were answered, and how many of their keys are stored, for the log."""
        return {"num_lines": self._summary.num_lines, "num_stored": self._summary.num_stored}

    async def run(self, receive: Receive, send: Send) -> None:
        """Reads lines and answers them until both are done.

        Args:
            receive: Gives the request's body.
            send: Takes the response's.

        Raises:
            ServiceError: nothing was sent yet: this service may not change keys now, or no body came.
            ClientDisconnect: the client went away, or reads nothing; what was answered is stored.
        """
        async with self._storer.writer.held():
            first = await within(self._pause_s, receive_piece(receive), "body")
            is_gone = False
            try:
                async with asyncio.TaskGroup() as group:
                    reading = group.create_task(self._read(first, receive))
                    sending = group.create_task(self._answer.send(send))
                    await self._store()
                    self._summary.done = self._summary.error is None
                    await self._answer.write(self._summary)
                    self._answer.finish()
                    await sending
                    reading.cancel()
            except* ClientDisconnect:
                is_gone = True
        if is_gone:
            raise ClientDisconnect

    async def _read(self, first: Message, receive: Receive) -> None:
        """Has the key of each line made ready; then waits for the client to go away."""
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    await self._read_lines(first, receive, group)
                except ServiceError as error:
                    self._break_off(error)
            self._is_read = True
            self._has_come.set()
            while True:
                await receive_piece(receive)
        except* ClientDisconnect:
            if not self._answer.is_whole:  # else the server says so, wherever the client is
                raise

    async def _read_lines(self, first: Message, receive: Receive, group: asyncio.TaskGroup) -> None:
        async for number, line in self._lines(first, receive):
            room = _Room(0 if line is None else len(line))
            await self._places.acquire()
            await self._allowance.take(room.num_bytes)
            ready = group.create_task(await self._begun(line, number, room))
            self._ahead.append(_Line(number, room, ready))
            self._has_come.set()

    async def _begun(self, line: bytes | None, number: int, room: _Room) -> Coroutine[Any, Any, ReadyChange]:
        """What is still to be done for the key of a line, once there is room for the images that it names."""
        if line is None:
            most = self._limits.max_body_bytes
            error = ItemTooLargeError(f"line {number} has more than {most} bytes, the most accepted")
            return self._storer.embed(RefusedKey(None, error))
        read = partial(key_from_line, line, number, self._limits)
        run: Run[KeyToStore | RefusedKey] = self._threads.run if len(line) > SHORT_BYTES else _here
        parsed, images = await self._fetcher.read_once(read, run)
        await self._spend(parsed)
        if images is None or isinstance(parsed, RefusedKey):
            return self._storer.embed(parsed)
        # Room is taken in the order in which lines are stored and give it back, so that none waits for a later one.
        most = min(len(images.missing) * self._limits.max_image_bytes, self._limits.max_body_bytes)
        self._allowance.give_back(room.num_bytes)
        room.num_bytes += most
        await self._allowance.take(room.num_bytes)
        return self._with_images(room, most, lambda take: self._fetcher.read_again(images, read, run, take))

    async def _with_images(
        self, room: _Room, left_bytes: int, read: Callable[[Take], Awaitable[KeyToStore | RefusedKey]]
    ) -> ReadyChange:
        most = left_bytes

        def take(num_bytes: int) -> None:
            nonlocal left_bytes
            if num_bytes > left_bytes:
                raise ItemTooLargeError(f"the images of a line have more than {most} bytes together")
            left_bytes -= num_bytes

        parsed = await read(take)
        room.num_bytes -= left_bytes
        self._allowance.give_back(left_bytes)
        return await self._storer.embed(parsed)

    async def _lines(self, first: Message, receive: Receive) -> AsyncIterator[tuple[int, bytes | None]]:
        lines = Lines(self._limits.max_body_bytes)
        message = first
        while True:
            async for piece in self._inflated(message.get("body", b"")):
                for line in lines.feed(piece):
                    yield line
            if not message.get("more_body", False):
                break
            message = await within(self._pause_s, receive_piece(receive), "more of the body")
        if self._inflater is not None:
            self._inflater.finish()
        for line in lines.finish():
            yield line

    async def _inflated(self, data: bytes) -> AsyncIterator[bytes]:
        if self._inflater is None:
            yield data
            return
        for start in range(0, len(data), INFLATED_FROM):
            yield await self._threads.run(self._inflater.all_of, data[start : start + INFLATED_FROM])

    async def _store(self) -> None:
        """Stores what is ready, in the order of the lines, as much at a time as is ready at that time."""
        while True:
            while not self._ahead:
                if self._is_read:
                    return
                self._has_come.clear()
                await self._has_come.wait()
            await asyncio.wait([self._ahead[0].ready])
            lines: list[_Line] = []
            while self._ahead and self._ahead[0].ready.done() and len(lines) < MAX_COMMIT:
                lines.append(self._ahead.popleft())
            if not await self._commit(lines):
                return

    async def _commit(self, lines: Sequence[_Line]) -> bool:
        """Stores and answers some lines; gives whether the next ones may follow."""
        ready = [line.ready.result() for line in lines]
        try:
            applied = await self._storer.writer.apply([each.change for each in ready])
        except ServiceError as error:
            self._break_off(error)
            return False
        finally:
            for line in lines:
                self._places.release()
                self._allowance.give_back(line.room.num_bytes)
        summary = self._summary
        for line, each, outcome in zip(lines, ready, applied.outcomes, strict=True):
            one = told(outcome, each.is_text_cut, self._storer.release)
            summary.num_stored += one.error is None
            summary.num_failed += one.error is not None
            if one.error is not None or not self._only_failed:
                await self._answer.write(StreamedOutcome(line=line.number, **one.model_dump()))
        summary.num_lines, summary.seq = summary.num_lines + len(lines), applied.seq
        if self._only_failed:
            await self._answer.write(summary)
        return True

    def _break_off(self, error: ServiceError) -> None:
        if self._summary.error is None:
            self._summary.error = ErrorSummary(type=error.type, message=error.message)


async def _here(read: Callable[[], T]) -> T:
    return read()


class _Answer:
    """Lines on their way to the client, who may read them late: many read when they have sent all.

    Attributes:
        is_whole: Whether all of them were sent.
    """

    def __init__(self, pause_s: float) -> None:
        self.is_whole = False
        self._pause_s = pause_s
        self._unsent: deque[bytes] = deque()
        self._allowance = _Allowance(MAX_UNSENT_BYTES)
        self._has_come = asyncio.Event()
        self._is_finished = False

    async def write(self, line: BaseModel) -> None:
        """Adds a line; waits while too much is unsent."""
        written = line.model_dump_json().encode() + b"\n"
        await self._allowance.take(len(written))
        self._unsent.append(written)
        self._has_come.set()

    def finish(self) -> None:
        """Says that no line follows."""
        self._is_finished = True
        self._has_come.set()

    async def send(self, send: Send) -> None:
        """Sends what is written until it is finished.

        Raises:
            ClientDisconnect: the client reads nothing.
        """
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await self._pass_on(send, {"type": "http.response.start", "status": 200, "headers": headers})
        while self._unsent or not self._is_finished:
            if not self._unsent:
                self._has_come.clear()
                await self._has_come.wait()
            data = b"".join(self._unsent)
            self._unsent.clear()
            if data:
                await self._pass_on(send, {"type": "http.response.body", "body": data, "more_body": True})
                self._allowance.give_back(len(data))
        self.is_whole = True
        await self._pass_on(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _pass_on(self, send: Send, message: Message) -> None:
        try:
            async with asyncio.timeout(self._pause_s):
                await send(message)
        except TimeoutError as error:
            raise ClientDisconnect from error


async def receive_piece(receive: Receive) -> Message:
    """The next piece of a body; raises `ClientDisconnect` where the client goes away."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message
