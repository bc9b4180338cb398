"""Asks the server on this machine whether it is ready: what the image's HEALTHCHECK runs.

    python3 -I healthcheck.py

It finds the port of metrics and probes by the server's own variables of the environment. It asks
there and not over gRPC, since probes need neither a token nor a client certificate. It knows the
standard library only, so that it takes little of a core each time.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection

_EVERY_INTERFACE = ("0.0.0.0", "::", "[::]")
_SECONDS = 5.0


def connect(environment: Mapping[str, str]) -> HTTPConnection:
    """Return a connection to the port that a server with these variables has."""
    host = environment.get("BILSTM_METRICS_HOST") or environment.get("BILSTM_HOST") or ""
    if not host or host in _EVERY_INTERFACE or host.startswith("unix"):
        host = "127.0.0.1"
    port = int(environment.get("BILSTM_METRICS_PORT") or 9464)
    if not environment.get("BILSTM_METRICS_TLS_CERT"):
        return HTTPConnection(host, port, timeout=_SECONDS)
    # Whom it asks it knows by the address, and the certificate has another name.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return HTTPSConnection(host, port, timeout=_SECONDS, context=context)


def main() -> int:
    connection = connect(os.environ)
    try:
        connection.request("GET", "/readyz")
        reply = connection.getresponse()
        print(reply.read().decode("utf-8").strip())
    except (OSError, HTTPException) as error:
        print(error)
        return 1
    finally:
        connection.close()
    return 0 if reply.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
