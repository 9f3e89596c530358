"""Exits with 0 when the service in this container answers searches, else with 1.

The image has no curl; and unlike `urllib`, `http.client` never asks a proxy that the environment names.
"""

import http.client
import os
import sys

TIMEOUT_S = 4


def is_ready(port: int) -> bool:
    """Whether `/readyz` answers 200 on this port of the loopback interface."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if is_ready(int(os.environ["ANYKEY_PORT"])) else 1)
