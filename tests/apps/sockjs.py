"""A SockJS client over a WebSocket, as the page of OctoPrint uses it."""

import json
import time
import uuid
from collections.abc import Callable

from client import Client

TIMEOUT_SECONDS = 15


class SockJs:
    """One open connection. Frames: `o` open, `h` heartbeat, `a[...]` messages, `c` close."""

    def __init__(self, client: Client, headers: list[tuple[str, str]] = ()):
        self.handshake = client.websocket(websocket_path(), headers)

    def __enter__(self) -> "SockJs":
        self.socket = self.handshake.__enter__()
        return self

    def __exit__(self, *problem: object) -> None:
        self.handshake.__exit__(*problem)

    def send(self, message: dict) -> None:
        self.socket.send(json.dumps([json.dumps(message)]))

    def wait_for(self, kind: str, matches: Callable[[dict], bool] = lambda _: True) -> dict:
        """Returns the next message of this kind that matches. Fails after the timeout."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            for message in self._next_messages(deadline):
                if kind in message and matches(message[kind]):
                    return message[kind]
        raise AssertionError(f"no {kind!r} message arrived within {TIMEOUT_SECONDS} s")

    def _next_messages(self, deadline: float) -> list[dict]:
        try:
            frame = self.socket.recv(timeout=max(0.01, deadline - time.monotonic()))
        except TimeoutError:
            return []
        return json.loads(frame[1:]) if frame.startswith("a") else []


def websocket_path() -> str:
    return f"/sockjs/123/{uuid.uuid4().hex}/websocket"
