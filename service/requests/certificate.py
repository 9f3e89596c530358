"""The certificate of the service's own TLS, from files that may be renewed while it runs."""

import logging
import ssl
from pathlib import Path

from anykey.service.errors import StartupError
from anykey.service.logs import LogEvent

logger = logging.getLogger(__name__)


class Certificate:
    """A certificate and its key, loaded into the context that new connections are made with.

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
        self.context = _empty_context()
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
        _load(_empty_context(), self._certificate, self._key)  # a pair that does not fit leaves the context as it is
        _load(self.context, self._certificate, self._key)
        self._content = content
        return True

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
