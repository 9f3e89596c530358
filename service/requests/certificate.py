"""The certificate of the service's own TLS, from files that may be renewed while it runs."""

import logging
import ssl
from pathlib import Path

from anykey.service.errors import StartupError
from anykey.service.logs import LogEvent

logger = logging.getLogger(__name__)


class Certificate:
    """A certificate and its key, shown to connections that are made from then on.

    A context into which they are loaded shows, for a moment, a certificate with another one's key. So renewed files
    make a new context, which takes a connection over when its first message has come.

    Attributes:
        context: What connections are made with.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        """Loads them.

        Args:
            certificate: PEM file of the certificate, with those that it was signed by behind it.
            key: PEM file of its key, which no password protects.

        Raises:
            StartupError: they cannot be read, are none, or do not belong together; names both.
        """
        self._certificate, self._key = certificate, key
        self._content = b""
        self._problem: str | None = None
        self.context = self._current = _empty_context()
        self.context.sni_callback = self._show  # it is called of clients that name no server, too
        try:
            self._take()
        except (OSError, ValueError) as error:
            raise StartupError(self._fault(error)) from error

    def refresh(self) -> None:
        """Takes renewed files for new connections; may be called in a thread.

        What cannot be read, or does not belong together, leaves the certificate that is there, and is logged once.
        """
        try:
            if self._take():
                logger.info("the TLS certificate was renewed", extra={"event": LogEvent.TLS_RENEWED})
        except (OSError, ValueError) as error:
            problem = self._fault(error)
            if problem != self._problem:
                logger.error("%s; the certificate before goes on", problem, extra={"event": LogEvent.TLS_UNREADABLE})
            self._problem = problem
        else:
            self._problem = None

    def _take(self) -> bool:
        """Loads the files if they have changed; gives whether they have."""
        content = self._certificate.read_bytes() + b"\0" + self._key.read_bytes()
        if content == self._content:
            return False
        renewed = _empty_context()
        _load(renewed, self._certificate, self._key)
        if not self._content:
            _load(self.context, self._certificate, self._key)  # without any, no connection would begin
        self._current, self._content = renewed, content
        return True

    def _show(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _fault(self, error: Exception) -> str:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        return f"TLS certificate {self._certificate} with key {self._key} cannot be used: {reason}"


def _empty_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Loads them; a password is never asked for on a terminal.

    Raises:
        ssl.SSLError: they are none, or do not belong together; it is an `OSError`.
    """
    context.load_cert_chain(certificate, key, password=lambda: "")
