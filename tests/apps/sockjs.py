"""The client half of SockJS that OctoPrint's page speaks, on a WebSocket."""

import json
import time
import uuid
from collections.abc import Callable

from visitor import Visitor

PATIENCE_SECONDS = 15


class SockJs:
    """One open conversation. Frames: `o` open, `h` heartbeat, `a[...]` messages, `c` close."""

    def __init__(self, visitor: Visitor, headers: list[tuple[str, str]] = ()):
        self.handshake = visitor.websocket(websocket_path(), headers)

    def __enter__(self) -> "SockJs":
        self.socket = self.handshake.__enter__()
        return self

    def __exit__(self, *problem: object) -> None:
        self.handshake.__exit__(*problem)

    def say(self, message: dict) -> None:
        self.socket.send(json.dumps([json.dumps(message)]))

    def wait_for(self, kind: str, wanted: Callable[[dict], bool] = lambda _: True) -> dict:
        """The next message of a kind that is `wanted`; fails when none comes in time."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for message in self._next_messages(deadline):
                if kind in message and wanted(message[kind]):
                    return message[kind]
        raise AssertionError(f"no {kind!r} message came in {PATIENCE_SECONDS} s")

    def _next_messages(self, deadline: float) -> list[dict]:
        try:
            frame = self.socket.recv(timeout=max(0.01, deadline - time.monotonic()))
        except TimeoutError:
            return []
        return json.loads(frame[1:]) if frame.startswith("a") else []


def websocket_path() -> str:
    return f"/sockjs/123/{uuid.uuid4().hex}/websocket"
