"""The server: listens, serves until SIGTERM or Ctrl-C, and drains."""

import ctypes
import errno
import gc
import ipaddress
import logging
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from anykey.encoder.protocol import ItemEncoder
from anykey.program.exits import end_at_once
from anykey.program.settings import UsageError
from anykey.service.app import create_app
from anykey.service.errors import StartupError
from anykey.service.lifecycle import Lifecycle
from anykey.service.logs import LogEvent, configure_logging
from anykey.service.requests.certificate import Certificate
from anykey.service.requests.connection import BoundedConnection, ConnectionBound
from anykey.service.searching.searcher import SearchableIndex
from anykey.service.settings import ServiceSettings

BACKLOG = 4096  # connections that the system keeps until the event loop comes to them; Linux allows that many
OTHER_FILES = 512  # that may be open beside connections: of indexes, models, logs, Redis
SWITCH_INTERVAL_S = 0.0005  # in which a thread gives Python's lock to another that waits for it
# New objects, and rounds of each kind, after which Python looks for garbage; by itself it takes (700, 10, 10).
COLLECTED_AFTER = (100_000, 25, 10)  # whatever is under way
COLLECTED_WHEN_QUIET_AFTER = 4_000  # new objects

logger = logging.getLogger("anykey.service")


def serve(settings: ServiceSettings, encoder: ItemEncoder | None = None, index: SearchableIndex | None = None) -> int:
    """Listens and serves until told to stop; requests under way are answered first.

    Told so while a part is being loaded, it ends the process at once.

    Args:
        settings: The service's settings.
        encoder: Used instead of loading the checkpoint.
        index: Used instead of opening the index directory.

    Returns:
        0.

    Raises:
        StartupError: the port is taken, or a part or the TLS certificate cannot be loaded.
        UsageError: other machines reach it, and nothing says who of them may.
    """
    configure_logging(settings.log_level)
    logger.info("starting", extra={"event": LogEvent.STARTING, "settings": settings.model_dump(mode="json")})
    with ExitStack() as stack:
        listeners = [stack.enter_context(listener) for listener in listen_everywhere(settings.host, settings.port)]
        _check_access(settings, [listener.getsockname()[0] for listener in listeners])
        stop: list[Callable[[], None]] = []
        app = create_app(
            settings, encoder=encoder, index=index, on_failure=lambda: stop[0](), on_ready=keep_pauses_short
        )
        if settings.metrics_port is not None:
            listener = listen(settings.metrics_host.strip("[]"), settings.metrics_port)
            app.state.lifecycle.metrics_listener = stack.enter_context(listener)
        _allow_open_files(settings.max_connections)
        server = web_server(app, settings, listeners)
        stop.append(lambda: setattr(server, "should_exit", True))
        host, port = settings.host.strip("[]"), listeners[0].getsockname()[1]
        scheme = "http" if settings.tls_cert is None else "https"
        address = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        logger.info("listening on %s", address, extra={"event": LogEvent.LISTENING, "host": host, "port": port})
        run_until_signal(server, listeners)
        gc.unfreeze()  # or libraries complain at the end about what was never collected
    exit_code = _outcome(app.state.lifecycle)
    if app.state.lifecycle.is_loading:  # libraries in another thread do not bear that the interpreter is taken down
        end_at_once(exit_code)
    return exit_code


def _check_access(settings: ServiceSettings, addresses: Sequence[str]) -> None:
    """Returns if it is said who may call, or only this machine can.

    Raises:
        UsageError: neither; says how to make a key, and how to do without.
    """
    is_open = settings.api_keys is None and settings.oidc_issuer is None
    if not is_open or all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses):
        return
    if not settings.allow_anonymous:
        raise UsageError(
            f"other machines reach host {settings.host}: make a key with `anykey-serve keys add --api-keys FILE --name "
            "NAME --scopes search` and give --api-keys FILE (ANYKEY_API_KEYS), or let everybody do everything with "
            "--allow-anonymous (ANYKEY_ALLOW_ANONYMOUS=true)"
        )
    logger.warning(
        "everybody who reaches host %s may do everything: allow_anonymous is set",
        settings.host,
        extra={"event": LogEvent.ANONYMOUS_ALLOWED, "host": settings.host},
    )


def _allow_open_files(max_connections: int) -> None:
    """Raises the process's limit on open files to what connections need, those that are turned away, too."""
    needed = 2 * max_connections + OTHER_FILES
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit < needed:
        with suppress(OSError, ValueError):  # some systems allow less than they say
            limit = needed if most == resource.RLIM_INFINITY else min(needed, most)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit < needed:
        logger.warning(
            "at most %d files may be open, and %d connections may need %d: lower max_connections, or raise the limit",
            limit,
            max_connections,
            needed,
            extra={"event": LogEvent.FEW_OPEN_FILES, "max_open_files": limit},
        )


class _Server(uvicorn.Server):
    """The web server, which has garbage looked for while nobody is being answered."""

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle

    async def on_tick(self, counter: int) -> bool:
        """What is done ten times a second; gives whether to stop."""
        if not self._lifecycle.watcher.num_under_way and not self._lifecycle.is_loading:
            collect_what_is_due()
        return await super().on_tick(counter)


def web_server(app: FastAPI, settings: ServiceSettings, listeners: Sequence[socket.socket]) -> uvicorn.Server:
    """The web server of an application, which is yet to be run.

    Args:
        app: The application.
        settings: The service's settings.
        listeners: The sockets that it will be run with.

    Raises:
        StartupError: the TLS certificate cannot be used.
    """
    pressure = app.state.lifecycle.resources.pressure
    bound = ConnectionBound(settings.max_connections, settings.retry_after_s, settings.root_path, pressure, listeners)
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            http=cast(Any, partial(BoundedConnection, deadline_s=settings.body_deadline_ms / 1000, bound=bound)),
            ws="none",
            server_header=False,
            proxy_headers=False,  # see `service.proxy`
            timeout_keep_alive=settings.keep_alive_s,
            backlog=BACKLOG,
            workers=1,  # or the server reads WEB_CONCURRENCY, which may be set to nothing
            timeout_graceful_shutdown=max(1, round(settings.drain_ms / 1000)),
        ),
        app.state.lifecycle,
    )
    if settings.tls_cert is not None and settings.tls_key is not None:
        certificate = Certificate(settings.tls_cert, settings.tls_key)
        server.config.load()
        server.config.ssl = certificate.context
        app.state.lifecycle.watched_files.append(certificate.refresh)
    app.state.lifecycle.metrics.connections = bound
    return server


def listen_everywhere(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for every address that a host name has here, all on the same port.

    Args:
        host: Address or name, with or without the brackets of an address in a URL. `localhost` is both of its
            addresses, and `::` is every interface, for IPv4 too.
        port: 0 picks a free one.

    Raises:
        StartupError: the port is taken or not allowed, or the host is not ours.
    """
    listeners: list[socket.socket] = []
    absent: StartupError | None = None
    with ExitStack() as opened:  # closes them where one of several fails
        for address in _addresses(host.strip("[]"), port):
            try:
                listener = listen(address, listeners[0].getsockname()[1] if listeners else port)
            except StartupError as error:
                if not _is_absent(error):
                    raise
                absent = error  # `localhost` is ::1, too, where this machine may have no IPv6
            else:
                listeners.append(opened.enter_context(listener))
        if absent is not None and not listeners:
            raise absent
        opened.pop_all()
    return listeners


def listen(host: str, port: int) -> socket.socket:
    """A listening socket of one address.

    Args:
        host: Address or name; `::` takes IPv4 too, where the system can.
        port: 0 picks a free one.

    Raises:
        StartupError: the port is taken or not allowed, or the host is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    is_both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=is_both)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartupError(f"port {port} on {host} is in use; choose another with --port or ANYKEY_PORT") from error
        raise StartupError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error


def _addresses(host: str, port: int) -> list[str]:
    """What a name stands for, IPv4 first; what cannot be looked up is left for `listen` to complain about."""
    if host == "localhost":  # by its definition; some machines look up one of them only
        return ["127.0.0.1", "::1"]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return [host]
    return sorted({str(address[0]) for *_, address in found}, key=lambda address: (":" in address, address))


def _is_absent(error: StartupError) -> bool:
    """Whether it failed because this machine has no such address."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def keep_pauses_short() -> None:
    """Lets no thread hold up the others for long; called when everything is loaded, and when a release took over.

    What was of an earlier release is freed, and its memory is given back to the system. What is loaded stays, so the
    garbage collector need not look through all of it again and again, for 50 ms and more in which nothing else runs.
    What requests have made since is looked through when nobody waits for an answer; else seldom (ADR 33).
    And a thread that computes gives way after half a millisecond instead of five, for the event loop waits for it
    some tens of times a request.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)
    give_memory_back()
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def collect_what_is_due() -> None:
    """Looks for garbage in all that is new since the last quiet moment, if that is much; what stays is laid aside.

    Nobody is being answered, so what stays is of no request: most of it are answers and vectors that are kept, which
    would take longer to look through each time (ADR 33).
    """
    if gc.get_count()[0] > COLLECTED_WHEN_QUIET_AFTER:
        gc.collect()
        gc.freeze()


def give_memory_back() -> None:
    """Lets the allocators of C and of torch return to the system what nothing is in any more, where they can."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def run_until_signal(server: uvicorn.Server, listeners: list[socket.socket]) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal does not wait.

    The server raises the signals it caught once more when it is done; here that must not end the process.
    """
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=listeners)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _outcome(lifecycle: Lifecycle) -> int:
    """0, or the reason why the start failed, raised."""
    if lifecycle.failure is None:
        return 0
    if isinstance(lifecycle.failure, StartupError):
        raise lifecycle.failure
    raise StartupError("the service failed to start; the log above says why") from lifecycle.failure
