"""Exits with 0 when the service in this container answers searches, else with 1.

The image has no curl; and unlike `urllib`, `http.client` never asks a proxy that the environment names.
"""

import http.client
import os
import ssl
import sys

TIMEOUT_S = 4
DEFAULT_PORT = 8000
EVERY_INTERFACE = ("", "0.0.0.0", "::")


def address() -> tuple[str, int]:
    """Where the service listens, from the settings that it reads; every interface is asked by loopback.

    Where a Kubernetes Service is named `anykey`, ANYKEY_PORT is an address that Kubernetes made, and no setting.
    """
    host = os.environ.get("ANYKEY_HOST", "").strip("[]")
    port = os.environ.get("ANYKEY_PORT", "")
    return "127.0.0.1" if host in EVERY_INTERFACE else host, int(port) if port.isdecimal() else DEFAULT_PORT


def is_ready(host: str, port: int) -> bool:
    """Whether `/readyz` answers 200 there."""
    connection: http.client.HTTPConnection
    if os.environ.get("ANYKEY_TLS_CERT"):  # whose name is not that of this container's loopback
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if is_ready(*address()) else 1)
