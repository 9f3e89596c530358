"""The indexes that are served, by name, and how each moves on from one release to the next."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Container, Sequence
from contextlib import AsyncExitStack
from functools import partial

from anykey.encoder.protocol import ItemEncoder
from anykey.index.errors import SearchIndexError
from anykey.index.key_index import Place
from anykey.index.releases import OpenRelease, ReleaseDirectory
from anykey.service.answers.answering import Asker, find_answer
from anykey.service.errors import (
    IndexUnavailableError,
    InternalError,
    NotFoundError,
    NotReadyError,
    ServiceError,
    StartupError,
)
from anykey.service.indexes.parts import check_match, load_index, open_parts
from anykey.service.indexes.recent_queries import RecentQueries
from anykey.service.indexes.resources import Resources
from anykey.service.indexes.room import NoRoomError, require_room
from anykey.service.indexes.schemas import LeftChanges
from anykey.service.indexes.serving import Serving
from anykey.service.logs import LogEvent
from anykey.service.searching.searcher import SearchableIndex
from anykey.service.settings import ServiceSettings

MAX_SHOWN = 40
STARTING = "starting: the encoder and the index are being loaded"
STOPPING = "the service is shutting down"
UNKNOWN_FAILURE = "the service failed to start; its log says why"
SWAP_HINT = (
    "; where memory holds one release only, set release_switch to swap, which closes the one before first and answers "
    "503 meanwhile"
)
MIN_RETRY_S, MAX_RETRY_S = 2.0, 60.0  # until an index that could not be opened is tried again

logger = logging.getLogger(__name__)


class ServedIndex:
    """One index by its name: loading, answering, or failed.

    Life: `load` opens it the first time; `follow` then looks for another release, or tries again what could not be
    opened, until it is cancelled; `stop` and `close` end it. Belongs to one event loop.

    Attributes:
        name: What addresses call it.
        settings: The service's settings, with those of this index in place of the service's own.
        failure: Why it does not answer, if it was tried; else `None`.
        problem: What is wrong though it answers, such as a release that cannot be loaded; else `None`.
        left_changes: Those that were made over HTTP to the release before, if there were any.
    """

    def __init__(
        self,
        name: str,
        settings: ServiceSettings,
        resources: Resources,
        given: SearchableIndex | None = None,
        on_switch: Callable[[], None] | None = None,
    ) -> None:
        """Prepares; nothing is loaded yet.

        Args:
            name: What addresses call it.
            settings: The service's, with those of this index.
            resources: What all indexes share.
            given: Used instead of opening one; stays open afterwards.
            on_switch: Called when another release has taken over and the one before is closed, or none could be loaded.
        """
        self.name = name
        self.settings = settings
        self.failure: Exception | None = None
        self.problem: str | None = None
        self.left_changes: LeftChanges | None = None
        self._resources = resources
        self._given = given
        self._on_switch = on_switch
        self._releases = None if settings.release is None else ReleaseDirectory(settings.release)
        self._recent = RecentQueries(settings.warm_queries)
        self._serving: Serving | None = None
        self._open_ones: set[Serving] = set()
        self._reason = STARTING
        self._is_first_load = True
        self._seen_stamp: tuple[int, ...] = ()
        self._retry_s = MIN_RETRY_S
        self._is_garbage_left = False
        self._is_room_awaited = False

    @property
    def is_room_awaited(self) -> bool:
        """Whether the current release is not loaded because it would not fit into the memory."""
        return self._is_room_awaited

    def uses(self, encoder: ItemEncoder) -> bool:
        """Whether anything that is open of it uses an encoder."""
        return any(serving.parts.encoder is encoder for serving in self._open_ones)

    @property
    def is_loading(self) -> bool:
        """Whether it neither answers nor has failed yet."""
        return self._is_first_load

    def serving(self) -> Serving:
        """What answers requests at this moment.

        Raises:
            NotReadyError: not loaded, shutting down, or the encoder's worker died; says which.
            IndexUnavailableError: the index cannot be reached.
        """
        if self._serving is None:
            raise NotReadyError(self._reason)
        parts = self._serving.parts
        if not parts.batcher.is_alive:
            raise NotReadyError("the encoder's worker has died; restart the service")
        parts.watch.require_reachable()
        return self._serving

    def require_ready(self) -> None:
        """Returns if every search of it is answered.

        Raises:
            NotReadyError: not loaded, shutting down, or a worker died; says which.
            IndexUnavailableError: the index cannot be reached, or is damaged.
        """
        parts = self.serving().parts
        parts.watch.require_sound()
        parts.rerankers.require_alive()

    async def load(self) -> None:
        """Opens it; a failure is noted, and told to whoever asks for what answers."""
        if self._releases is not None:
            self._seen_stamp = await asyncio.to_thread(self._releases.stamp)
        try:
            self._serving = await self._open()
        except Exception as error:
            self._note_failure(error)
        else:
            self.failure, self._is_room_awaited = None, False
            self._log(LogEvent.READY, "ready", self._serving)
        self._is_first_load = False

    async def follow(self) -> None:
        """Moves on to other releases, and tries again what could not be opened, until it is cancelled."""
        while True:
            is_retried = self._serving is None and self._releases is None
            await asyncio.sleep(self._retry_s if is_retried else self.settings.check_index_s)
            try:
                await (self._retry() if is_retried else self._look_for_release())
            except Exception:
                logger.exception("index %s cannot be followed", self.name, extra={"event": LogEvent.RELEASE_FAILED})
            if self._is_garbage_left and self._on_switch:  # here, where nothing refers to it any more
                self._is_garbage_left = False
                self._on_switch()

    def stop(self) -> None:
        """Answers no request any more."""
        self._reason, self._serving = STOPPING, None

    async def close(self) -> None:
        """Closes what is open; `stop` comes first."""
        await asyncio.gather(*(serving.close() for serving in self._open_ones))

    async def _retry(self) -> None:
        """Opens an index that could not be, ever less often while that fails."""
        self._retry_s = min(2 * self._retry_s, MAX_RETRY_S)
        await self.load()

    async def _look_for_release(self) -> None:
        """Moves on if another release has become the current one."""
        if self._releases is None:
            return
        stamp = await asyncio.to_thread(self._releases.stamp)
        if stamp == self._seen_stamp and not self._is_room_awaited:
            return
        if stamp != self._seen_stamp:
            self._is_room_awaited = False  # it is another one, of which it is to be told anew
        if self._serving is None:
            await self.load()
        elif await asyncio.to_thread(_is_current, self._releases, self._serving.release):
            self.problem, self._is_room_awaited = None, False  # somebody went back to what is served
        elif self.settings.release_switch == "swap":
            await self._swap()
        else:
            await self._switch()
        self._seen_stamp = stamp

    async def _switch(self) -> None:
        """Loads the current release beside the one that answers, and lets it take over between two requests."""
        began_s = time.monotonic()
        try:
            newer = await self._open()
            await self._warm(newer)
        except Exception as error:
            self._note_problem(error)
            self._is_garbage_left |= not isinstance(error, NoRoomError)  # for which nothing was loaded
            return
        older, self._serving, self.problem = self._serving, newer, None
        self._is_room_awaited = False
        self._log(LogEvent.RELEASE_SWITCHED, "another release answers", newer, time.monotonic() - began_s)
        if older is not None:
            await self._drain(older)

    async def _swap(self) -> None:
        """Closes the release that answers before the current one is loaded; in between, requests are refused."""
        assert self._releases is not None
        older = self._serving
        assert older is not None
        assert older.name is not None
        loader = self._resources.loader
        try:
            release = await loader.load(partial(_open_release, self._releases, None))
            with contextlib.closing(release):
                freed_bytes = await self._freed_with(older)
                await self._require_room(_settings_of(release, self.settings), release, freed_bytes)
            kept = await loader.load(partial(_open_release, self._releases, older.name))
        except StartupError as error:
            self._note_problem(error)
            return
        with contextlib.closing(kept):  # to go back to, if the other one cannot be loaded
            began_s = time.monotonic()
            self._reason = f"release {release.facts.number} is being loaded, and memory holds one at a time"
            self._serving, self.problem, self._is_room_awaited = None, None, False
            self._log(LogEvent.RELEASE_SWITCHING, "no release answers until another is loaded", older)
            await self._drain(older)
            await older.close()
            try:
                self._serving = await self._open(is_room_known=True)
            except Exception as error:
                self._note_problem(error)
                await self._go_back(kept)
                return
        self._log(LogEvent.RELEASE_SWITCHED, "another release answers", self._serving, time.monotonic() - began_s)

    async def _go_back(self, release: OpenRelease) -> None:
        """Loads the release again that was closed for one that cannot be loaded."""
        try:
            self._serving = await self._open(release.facts.number, is_room_known=True)
        except Exception as error:
            self._note_failure(error)
        else:
            self._log(LogEvent.READY, "ready", self._serving)

    async def _drain(self, older: Serving) -> None:
        """Waits, but not for ever, until the last request on a release has been answered and it is closed."""
        older.retire()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(older.is_closed.wait(), self.settings.drain_ms / 1000)
        self._tell_left_changes(older)
        self._open_ones = {serving for serving in self._open_ones if not serving.is_closed.is_set()}
        self._is_garbage_left = True

    def _tell_left_changes(self, older: Serving) -> None:
        """Tells of changes that were made to a release over HTTP, and that the next one may not have."""
        num_made = older.parts.storer.writer.num_made
        if not num_made or older.name is None:
            self.left_changes = None
            return
        self.left_changes = LeftChanges(release=older.name, num_changes=num_made)
        logger.warning(
            "release %s has changes over HTTP, %s of this process; the next one has those that were made before its "
            "index was copied, and no others",
            older.name,
            num_made,
            extra={"event": LogEvent.CHANGES_LEFT, "index": self.name, "release": older.name, "num_changes": num_made},
        )

    async def _warm(self, newer: Serving) -> None:
        """Asks a release what was asked lately, so that its first answers come as fast as later ones.

        Raises:
            StartupError: its encoder fails, or its index is damaged.
        """
        parts, give_up_s = newer.parts, time.monotonic() + self.settings.warm_s
        try:
            for query in self._recent.all():
                if time.monotonic() > give_up_s:
                    break
                try:
                    await find_answer(parts, query, Asker("", "warming"))
                except (InternalError, IndexUnavailableError) as error:
                    raise StartupError(f"it fails on a query that came lately: {error.message}") from error
                except ServiceError:
                    pass  # it names a key or a pool, say, that this index does not have
        except BaseException:
            await newer.close()
            raise

    async def _freed_with(self, older: Serving) -> int:
        """About what memory is given back when a release is closed."""
        held = await self._resources.loader.load(older.parts.index.held)
        in_memory = sum(one.num_bytes for one in held if one.place is Place.MEMORY)
        only_its = [one for one in self._resources.encoders.all() if one.encoder is older.parts.encoder]
        return in_memory + sum(one.weights_bytes for one in only_its if one.num_users == 1)

    async def _require_room(self, settings: ServiceSettings, release: OpenRelease | None, freed_bytes: int = 0) -> None:
        """Returns if there is room to load it, beside what else is loaded.

        Raises:
            NoRoomError: there is not; says how much is missing.
        """
        if not self._resources.encoders.all():
            return  # nothing is lost by trying
        what = f"index {self.name}" if release is None else f"release {release.facts.number}"
        is_loaded = self._resources.encoders.has(settings)
        await self._resources.loader.load(
            partial(require_room, settings, is_encoder_loaded=is_loaded, freed_bytes=freed_bytes, what=what)
        )

    async def _open(self, named: str | None = None, *, is_room_known: bool = False) -> Serving:
        """Opens the index, or a release: the named or the current one.

        Args:
            named: The release; the current one when absent.
            is_room_known: Whether it has been seen already that there is room for it, or it is tried in any case.

        Raises:
            NoRoomError: it would not fit beside what is loaded.
            StartupError: it cannot be; says why.
        """
        resources, settings, release = self._resources, self.settings, None
        async with AsyncExitStack() as stack:  # closes what was opened if the rest cannot be
            if self._releases is not None:
                release = await resources.loader.load(partial(_open_release, self._releases, named))
                stack.callback(release.close)
                settings = _settings_of(release, settings)
            if not is_room_known:
                await self._require_room(settings, release)
            index = self._given
            if index is None:
                index = await resources.loader.load(lambda: load_index(settings))
                stack.push_async_callback(asyncio.to_thread, index.close)
            loaded = await resources.encoders.take(settings, stack)
            check_match(loaded.encoder, index)
            await resources.load_rerankers()
            number = None if release is None else release.facts.number
            parts = await open_parts(settings, resources, loaded, index, stack, self._recent, self.name, number)
            kept = stack.pop_all()
        serving = Serving(parts, release, kept)
        self._open_ones.add(serving)
        return serving

    def _note_failure(self, error: Exception) -> None:
        is_same = self._is_room_awaited if isinstance(error, NoRoomError) else str(self.failure) == str(error)
        is_news = self.failure is None or not is_same
        self._is_room_awaited = isinstance(error, NoRoomError)
        is_known = isinstance(error, StartupError)
        self.failure, self._reason = error, str(error) if is_known else UNKNOWN_FAILURE
        if is_news:
            logger.error(
                "start failed: %s",
                self._reason,
                extra={"event": LogEvent.START_FAILED, "index": self.name},
                exc_info=None if is_known else error,
            )

    def _note_problem(self, error: Exception) -> None:
        """Notes why the current release cannot be loaded; it is tried again when it changes, or there is more room."""
        if isinstance(error, NoRoomError):
            self._note_want_of_room(error)
            return
        self._is_room_awaited = False
        is_known = isinstance(error, StartupError)
        reason = str(error) if is_known else f"{type(error).__name__}; the log says more"
        self.problem = f"the current release cannot be loaded, and the one before goes on: {reason}"
        logger.error(
            "%s",
            self.problem,
            extra={"event": LogEvent.RELEASE_FAILED, "index": self.name},
            exc_info=None if is_known else error,
        )

    def _note_want_of_room(self, error: NoRoomError) -> None:
        """Notes that a release waits for room, and logs it the first time."""
        hint = "" if self.settings.release_switch == "swap" else SWAP_HINT
        again = f"it is tried again every {self.settings.check_index_s:g} s"
        self.problem = f"the current release is not loaded, and the one before goes on: {error}; {again}{hint}"
        if not self._is_room_awaited:
            fields = {"index": self.name, "need_bytes": error.need_bytes, "free_bytes": error.free_bytes}
            logger.warning("%s", self.problem, extra={"event": LogEvent.RELEASE_WAITS, **fields})
        self._is_room_awaited = True

    def _log(self, event: LogEvent, message: str, serving: Serving, duration_s: float | None = None) -> None:
        fields: dict[str, object] = {
            "index": self.name,
            "index_version": serving.parts.index.version,
            "release": serving.name,
        }
        if duration_s is not None:
            fields["duration_ms"] = round(duration_s * 1000, 3)
        logger.info("%s", message, extra={"event": event, **fields})


def _open_release(directory: ReleaseDirectory, named: str | None) -> OpenRelease:
    """A release, the named or the current one.

    Raises:
        StartupError: there is none, or it is damaged.
    """
    try:
        return directory.open(named)
    except (SearchIndexError, OSError) as error:
        raise StartupError(str(error)) from error


def _settings_of(release: OpenRelease, settings: ServiceSettings) -> ServiceSettings:
    """An index's settings with what a release says in their place."""
    facts = release.facts
    named = {"checkpoint": release.checkpoint, "index": release.index, "fusion": facts.fusion, "width": facts.width}
    return settings.model_copy(update=named)


def _is_current(directory: ReleaseDirectory, served: OpenRelease | None) -> bool:
    """Whether the release that answers is the current one, and as it was when it was opened."""
    try:
        name = directory.current()
        return served is not None and name == served.facts.number and directory.read(name) == served.facts
    except (SearchIndexError, OSError):
        return False


class Indexes:
    """The indexes of one process by name; belongs to one event loop."""

    def __init__(self, served: Sequence[ServedIndex], default: str) -> None:
        """Takes them.

        Args:
            served: In the order of loading.
            default: Name of the one that addresses without a name mean.
        """
        self._served = {one.name: one for one in served}
        self.default = default

    def all(self) -> list[ServedIndex]:
        """Each of them, in the order of loading."""
        return list(self._served.values())

    def named(self, name: str | None, shown: Container[str] | None = None) -> ServedIndex:
        """The one of this name, or the default one.

        Args:
            name: The name.
            shown: Names of which the caller may be told; `None`: all.

        Raises:
            NotFoundError: none has this name.
        """
        served = self._served.get(self.default if name is None else name)
        if served is None:
            raise self.unknown(str(name), shown)
        return served

    def unknown(self, name: str, shown: Container[str] | None) -> NotFoundError:
        """What a caller is told of an index that is not there for it; `shown` as for `named`."""
        known = ", ".join(served for served in self._served if shown is None or served in shown)
        return NotFoundError(f"no index is called {ascii(name)[:MAX_SHOWN]}" + (f"; known: {known}" if known else ""))

    def require_ready(self) -> dict[str, str]:
        """Returns if each index that could be loaded is answered, or some are; says what is wrong with others.

        Returns:
            The reason why it does not answer, for each index that does not.

        Raises:
            NotReadyError: one is still being loaded, or none answers; says why the default one does not.
            IndexUnavailableError: none answers, and the default one cannot be reached or is damaged.
        """
        for served in self.all():
            if served.is_loading:
                served.require_ready()
        failures: dict[str, ServiceError] = {}
        for served in self.all():
            try:
                served.require_ready()
            except ServiceError as error:
                failures[served.name] = error
        if len(failures) == len(self._served):
            raise failures[self.default]
        return {name: error.message for name, error in failures.items()}

    def problems(self) -> dict[str, str]:
        """What is wrong with indexes that answer, by their names."""
        return {served.name: served.problem for served in self.all() if served.problem is not None}
