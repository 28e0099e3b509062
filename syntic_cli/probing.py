"""Whether the head of a Ray cluster listens at an address: Ray itself takes minutes to say no."""

from __future__ import annotations

import os
import socket

SECONDS = 5.0
# An empty SETTINGS frame, with which both sides of HTTP/2 begin.
FRAME = b"\0\0\0\4\0\0\0\0\0"


def probe(address: str) -> None:
    """Refuse an address where no head listens, or something else does, such as Ray's dashboard.

    Args:
        address: HOST:PORT.

    Raises:
        OSError: where nobody answers there as a head does.
        ValueError: where it is no address.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), SECONDS) as connection:
        # Of a server that wants TLS no more can be told here.
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + FRAME)
        if connection.recv(len(FRAME))[3:4] != FRAME[3:4]:
            raise OSError("something else listens there")
