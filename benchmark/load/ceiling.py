"""How much the client itself can send: the same loop against a server that takes no time."""

import json

from anykey.benchmark.load.arrivals import at_once
from anykey.benchmark.load.connections import Connections
from anykey.benchmark.load.open_loop import OpenLoop
from anykey.benchmark.load.stored_answer import stored_answer
from anykey.benchmark.load.tally import Tally
from anykey.benchmark.load.traffic import Traffic

MAX_IN_FLIGHT = 64  # at which a client is busy all the time
SHARE = 0.7  # of the ceiling, up to which what is measured is the service


async def client_ceiling(traffic: Traffic, answer: bytes, duration_s: float, timeout_s: float) -> float:
    """Requests that this client gets answered in a second where the service is none.

    Args:
        traffic: What is sent.
        answer: An answer of the service, which every request gets.
        duration_s: How long.
        timeout_s: As for the service.

    Raises:
        OSError: an image or a log cannot be read.
    """
    line = json.dumps(json.loads(answer), ensure_ascii=False, separators=(",", ":")).encode()
    tally = Tally(rate=0.0)
    with stored_answer(line) as url:
        async with Connections(url) as connections:
            loop = OpenLoop(connections, traffic.requests(), MAX_IN_FLIGHT, timeout_s)
            await loop.run(at_once(duration_s), tally, waits=True)
    return tally.answered_per_s
