"""Whether a request is let in before its body has been read and parsed.

What is asked for may be known already, whatever the encoder has to do, and that can only be told from the body. So a
request is refused this early only where the encoder would refuse it, and where it would not even be parsed soon.
"""

import time

from starlette.datastructures import Headers

from anykey.encoder.protocol import Prepared
from anykey.service.concurrency.threads import BoundedThreads
from anykey.service.embedding.batcher import Batcher
from anykey.service.requests.body import is_short


class Admission:
    """Lets requests to one encoder in, or refuses them while it costs nothing; belongs to one event loop."""

    def __init__(self, batcher: Batcher[Prepared], threads: BoundedThreads, deadline_s: float) -> None:
        """Joins the parts.

        Args:
            batcher: The encoder's.
            threads: Where bodies are parsed that are not short.
            deadline_s: Longest time from the whole request read to its answer.
        """
        self._batcher = batcher
        self._threads = threads
        self._deadline_s = deadline_s

    def check(self, headers: Headers) -> None:
        """Returns if the request with these headers is worth reading on, or parsing.

        Raises:
            OverloadedError: what waits for the encoder leaves no time for one more, and what waits to be parsed does
                not let anybody see soon whether this one needs the encoder at all.
            NotReadyError: shutting down, or the encoder's worker died.
        """
        if self._threads.is_crowded and not is_short(headers):
            self._batcher.require_room(time.monotonic() + self._deadline_s)
