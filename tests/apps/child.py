"""A child process that ends with its test, together with all processes that it started."""

import http.client
import os
import pathlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable

STARTUP_SECONDS = 60
TERMINATION_SECONDS = 5


class Child:
    """One program in its own process group. Its output is written to one file."""

    def __init__(self, argv: list[str], log: pathlib.Path, env: dict[str, str] | None = None):
        self.argv = argv
        self.log = log
        self.env = env

    def __enter__(self) -> "Child":
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(self.env or {})},
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._signal_group(signal.SIGTERM)
        try:
            self.process.wait(TERMINATION_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        # Grandchildren may ignore SIGTERM.
        self._signal_group(signal.SIGKILL)
        self.process.wait(TERMINATION_SECONDS)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Waits until `ready` returns true. Fails with the last output of the child after a minute."""
        deadline = time.monotonic() + STARTUP_SECONDS
        while not ready():
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.argv[0]} ended at once:\n{self.last_output()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.argv[0]} did not get ready:\n{self.last_output()}")
            time.sleep(0.05)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def last_output(self) -> str:
        return "\n".join(self.output().splitlines()[-30:])

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass


def free_port() -> int:
    """Returns a free loopback port, for apps that cannot bind port 0 and report their port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def responds(port: int, path: str) -> bool:
    """Returns whether an HTTP server on `port` responds to `path` with a status below 400."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
